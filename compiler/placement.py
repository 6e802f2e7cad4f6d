"""Which sharding a stage needs on so many devices of so much memory, and what fits then.

The trainer of this project runs in one process: this says what would be needed, by the formulas of
`Sharding.need`. What a device holds beside torch's tensors (its context, libraries, room lost
between tensors) is not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from math import ceil, gcd
from typing import Literal, TypeAlias

from . import ops
from .costing import Shapes
from .costs.kernels import ITEMS
from .graph import Program
from .memory import Held, held, item_of, training_step
from .plan import StagePlan
from .precision import coarsest

Kind: TypeAlias = Literal["data parallel", "ZeRO-1", "ZeRO-2", "ZeRO-3"]
KINDS: tuple[Kind, ...] = ("data parallel", "ZeRO-1", "ZeRO-2", "ZeRO-3")
GIB = 2**30


@dataclass(frozen=True)
class Sharding:
    """What each device holds: `kind` of `ways` processes, `tensor` devices a process.

    `recompute` says that every block keeps its inputs alone.
    """

    kind: Kind
    ways: int
    tensor: int = 1
    recompute: bool = False

    def __str__(self) -> str:
        return " + ".join(
            [
                f"{self.kind} over {self.ways}" if self.ways > 1 else "one device",
                *([f"tensor parallel over {self.tensor}"] if self.tensor > 1 else []),
                *(["recompute every block"] if self.recompute else []),
            ]
        )


@dataclass(frozen=True)
class Placement:
    """The least sharding that fits, with the largest micro-batch, and what it takes a device.

    `rows` are those of a micro-batch; `sharding` is None where nothing fits, and `need` then the
    least that a device must have.
    """

    sharding: Sharding | None
    rows: int
    need: int

    @property
    def fits(self) -> bool:
        """Whether anything does."""
        return self.sharding is not None


class Placer:
    """Finds how a stage fits; `shapes` says what so many rows are, `rows` how many a step has.

    A batch of `pairs` that are told apart by one another is not cut into micro-batches.
    """

    def __init__(
        self,
        program: Program,
        stage: StagePlan,
        shapes: Callable[[int], Shapes],
        rows: int,
        *,
        pairs: bool = False,
    ) -> None:
        self._program, self._stage = program, stage
        self._shapes, self._rows, self._pairs = shapes, rows, pairs
        self._item = ITEMS[coarsest(stage.settings.precision)]
        self._peaks: dict[tuple[int, bool, bool], int] = {}

    @cached_property
    def held(self) -> Held:
        """What is held whole."""
        return held(self._program, self._stage)

    @cached_property
    def layer(self) -> int:
        """The bytes of the largest layer: a block, an embedding, a head or an adapter."""
        sizes: dict[str, int] = {}
        for name, param in self._program.parameters.items():
            size = item_of(self._stage.settings.precision, name) * param.count
            sizes[layer_of(name)] = sizes.get(layer_of(name), 0) + size
        return max(sizes.values())

    def place(self, devices: int, memory: int) -> Placement:
        """The least sharding that fits `devices` of `memory` bytes each."""
        least: int | None = None
        for sharding in self.shardings(devices):
            share = max(1, self._rows // sharding.ways)
            need = self.need(sharding, share if self._pairs else 1)
            if need <= memory:
                rows = share if self._pairs else self._largest(sharding, share, memory)
                return Placement(sharding, rows, self.need(sharding, rows))
            least = need if least is None else min(least, need)
        assert least is not None
        return Placement(None, 0, least)

    def shardings(self, devices: int) -> Iterator[Sharding]:
        """From the simplest to the last resort."""
        kinds = KINDS if devices > 1 else KINDS[:1]
        for recompute in (False, True):
            for kind in kinds:
                yield Sharding(kind, devices, 1, recompute)
        for tensor in self._degrees(devices):
            yield Sharding("ZeRO-3", devices // tensor, tensor, True)

    def need(self, sharding: Sharding, rows: int) -> int:
        """The bytes of a device with micro-batches of so many rows.

        With W weights, M masters and moments, S summed gradients, A(rows) what a step needs beside
        them, A' the same where each gradient is handed on as soon as it is made, L the largest
        layer, N ways and T devices a process:

            data parallel   W + M + S + A
            ZeRO-1          W + M/N + S + A
            ZeRO-2          W + (M + S)/N + A'
            ZeRO-3          (W + M + S)/N + 2 L + A'
            ... and tensor  ((W + M + S)/N + 2 L + A' - K)/T + K, K the inputs of blocks
        """
        have, ways = self.held, sharding.ways
        masters = have.masters + have.moments
        step = self._peak(rows, sharding.kind in KINDS[:2], sharding.recompute)
        match sharding.kind:
            case "data parallel":
                return have.total + step
            case "ZeRO-1":
                return have.weights + ceil(masters / ways) + have.sums + step
            case "ZeRO-2":
                return have.weights + ceil((masters + have.sums) / ways) + step
            case "ZeRO-3":
                whole = ceil(have.total / ways) + 2 * self.layer + step
                kept = self._inputs_of_blocks(rows) if sharding.tensor > 1 else 0
                return ceil((whole - kept) / sharding.tensor) + kept

    def _largest(self, sharding: Sharding, most: int, memory: int) -> int:
        """Rows of the largest micro-batch, `most` at most, given that one fits.

        Need grows with rows in straight pieces, ever steeper: what a piece promises is too much at
        most, and what a chord promises too little.
        """
        if most == 1:
            return 1
        one = self.need(sharding, 1)
        step = max(1, self.need(sharding, 2) - one)
        fits, fails = 1, min(most, 1 + (memory - one) // step)
        if self.need(sharding, fails) <= memory:
            return fails
        while fails - fits > 1:
            low, high = self.need(sharding, fits), self.need(sharding, fails)
            chord = fits + (memory - low) * (fails - fits) // max(1, high - low)
            rows = min(max(chord, fits + 1), fails - 1)
            if self.need(sharding, rows) <= memory:
                fits = rows
            else:
                fails = rows
        return fits

    def _peak(self, rows: int, keep: bool, recompute: bool) -> int:
        key = (rows, keep, recompute)
        if key not in self._peaks:
            again = frozenset(self._program.parameters) if recompute else None
            self._peaks[key] = training_step(
                self._program, self._stage, self._shapes(rows), keep=keep, again=again
            ).peak
        return self._peaks[key]

    def _inputs_of_blocks(self, rows: int) -> int:
        """What every device of a process holds whole: the inputs of the decoder's blocks."""
        values = self._shapes(rows).values
        tokens = values["batch"] * values["length"]
        return sum(
            self._item * tokens * node.op.width * node.op.depth
            for node in self._program.methods["step"]
            if isinstance(node.op, ops.DecoderBlocks | ops.QueryBlocks)
        )

    def _degrees(self, devices: int) -> list[int]:
        """Into how many parts layers can be cut: divisors of all numbers of heads."""
        heads = 0
        for node in self._program.methods["step"]:
            if isinstance(node.op, ops.DecoderBlocks):
                heads = gcd(heads, gcd(node.op.heads, node.op.kv_heads))
            elif isinstance(node.op, ops.QueryBlocks | ops.VisionBlocks):
                heads = gcd(heads, node.op.heads)
        return [n for n in range(2, devices + 1) if heads % n == 0 and devices % n == 0]


def layer_of(name: str) -> str:
    """The layer that a parameter belongs to: `lm.blocks.3` of `lm.blocks.3.mlp.up.weight`."""
    parts = name.split(".")
    number = next((index for index, part in enumerate(parts) if part.isdigit()), None)
    return ".".join(parts[: number + 1]) if number is not None else ".".join(parts[:2])

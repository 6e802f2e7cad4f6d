"""What memory a stage or a mode needs, and what it computes: weights, AdamW's state, a step."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from types import MappingProxyType

from ..blocks.storage import Storage
from .costing import Said, Shapes, feed, run
from .costs.kernels import ITEMS
from .costs.tape import Phase, Tape, Value, contiguous
from .graph import Program
from .plan import StagePlan
from .precision import of_part

WIDE = 4
"""Bytes of a number of masters, moments and summed gradients: all are float32."""
FEATURES = "features_"
"""Methods whose values a stage keeps on disk begin so."""


@dataclass(frozen=True)
class Held:
    """What a stage holds from its first step to its last, in bytes.

    `weights` are what is computed with, `masters` what the optimizer moves where that is not the
    same, `moments` and counts those of AdamW, `sums` the gradients of a step. `beside` are frozen
    weights as they were read, which the trainer keeps in float32 on the host.
    """

    weights: int
    masters: int
    moments: int
    sums: int
    beside: int

    @property
    def total(self) -> int:
        """All but what the host keeps beside."""
        return self.weights + self.masters + self.moments + self.sums


@dataclass(frozen=True)
class Measure:
    """What a run in shapes has found.

    `flops` are by part and phase; `once` those of features that are kept on disk after the first
    time. `peak` is the most memory at once beside what is held, in bytes, and `at_peak` what for;
    `made` is what a method hands out.
    """

    flops: Mapping[tuple[str, Phase], int]
    once: Mapping[str, int]
    peak: int
    at_peak: Mapping[str, int]
    made: int = 0

    @property
    def total(self) -> int:
        """All operations of a run."""
        return sum(self.flops.values())

    def by_part(self) -> dict[str, dict[Phase, int]]:
        """Operations by part, then phase."""
        found: dict[str, dict[Phase, int]] = {}
        for (part, phase), flops in self.flops.items():
            found.setdefault(part, {})[phase] = flops
        return found


def held(program: Program, stage: StagePlan, workers: int = 1) -> Held:
    """What the trainer keeps for a stage."""
    said = stage.settings.precision
    trained = sum(param.count for param in stage.trained.values())
    used = {name for graph in program.methods.values() for name in graph.parameters()}
    weights = masters = beside = 0
    for name, param in program.parameters.items():
        item = item_of(said, name)
        # What no method uses is kept as it was given, and nowhere else.
        if item == WIDE or name in used or name in stage.trained:
            weights += item * param.count
        if item < WIDE and name in stage.trained:
            masters += WIDE * param.count
        elif item < WIDE:
            beside += WIDE * param.count
    return Held(
        weights=weights,
        masters=masters,
        moments=2 * WIDE * trained + WIDE * len(stage.trained),
        sums=WIDE * trained * workers,
        beside=beside,
    )


def item_of(said: Said, name: str) -> int:
    """Bytes of a number of a parameter."""
    return ITEMS[of_part(said, name.partition(".")[0])]


def training_step(
    program: Program,
    stage: StagePlan,
    shapes: Shapes,
    *,
    keep: bool = True,
    again: frozenset[str] | None = None,
) -> Measure:
    """One step of a stage over one shard.

    `keep` is as for `Tape.backward`; `again` names what is recomputed, if not what the stage says.
    """
    said = stage.settings.precision
    again = stage.recomputed if again is None else again
    tape = Tape()
    live = _weights(tape, program, said)
    live |= {name: tape.leaf(name, live[name]) for name in stage.trained}
    live |= {name: live[tied] for name, tied in program.ties.items()}
    once: Counter[str] = Counter()
    inputs: dict[str, Value] = {}
    made: dict[str, Value] = {}
    graphs = list(program.methods.items())
    handed = {name for _, graph in graphs for name in graph.outputs}
    for name, graph in graphs:
        kept = name.startswith(FEATURES)
        if kept:
            once.update(_first_time(program, name, shapes, said))
            inputs |= _handed_on(tape, program, name, shapes, said)
        else:
            inputs |= feed(tape, graph, shapes, said, {*inputs, *handed})
    for name, graph in graphs:
        if name != "step" and not name.startswith(FEATURES):
            made |= run(tape, graph, live, again, {**inputs, **made}, shapes)
    tape.recording = True
    outputs = run(tape, program.methods["step"], live, again, {**inputs, **made}, shapes)
    tape.backward(outputs["loss"], keep=keep)
    at_peak = {what: n for what, n in tape.peak_by_purpose().items() if n}
    return Measure(dict(tape.flops), once, tape.peak, at_peak)


def answering(
    program: Program,
    method: str,
    shapes: Shapes,
    said: Said,
    quantized: Mapping[str, Storage] = MappingProxyType({}),
) -> Measure:
    """One call of a method of a mode, its caches counted in; `quantized` says what is so kept."""
    tape = Tape()
    live = _weights(tape, program, said)
    for name, storage in quantized.items():
        sizes, _ = storage.held(*live[name].sizes)["weight"]
        live[name] = replace(live[name], sizes=sizes, strides=contiguous(sizes), item=1)
    live |= {name: live[tied] for name, tied in program.ties.items()}
    graph = program.methods[method]
    inputs = feed(tape, graph, shapes, said)
    outputs = run(tape, graph, live, (), inputs, shapes)
    made = sum(prod(value.sizes) * value.item for value in outputs.values())
    at_peak = {what: n for what, n in tape.peak_by_purpose().items() if n}
    return Measure(dict(tape.flops), {}, tape.peak, at_peak, made)


def _weights(tape: Tape, program: Program, said: Said) -> dict[str, Value]:
    """The parameters, whose memory `held` counts."""
    elsewhere = tape.new((0,), 0).buffer
    return {
        name: Value(param.shape, contiguous(param.shape), item_of(said, name), elsewhere)
        for name, param in program.parameters.items()
    }


def _first_time(program: Program, method: str, shapes: Shapes, said: Said) -> Mapping[str, int]:
    """The operations of a method whose values are then kept, by part."""
    found: Counter[str] = Counter()
    for (part, _), flops in answering(program, method, shapes, said).flops.items():
        found[part] += flops
    return found


def _handed_on(
    tape: Tape, program: Program, method: str, shapes: Shapes, said: Said
) -> dict[str, Value]:
    """What a method yields, read from disk."""
    graph = program.methods[method]
    scratch = Tape()
    live = _weights(scratch, program, said)
    outputs = run(scratch, graph, live, frozenset(), feed(scratch, graph, shapes, said), shapes)
    with tape.purposed("inputs"):
        return {name: tape.new(value.sizes, value.item) for name, value in outputs.items()}

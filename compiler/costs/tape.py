"""A tape: a step of a model run in shapes alone, with its work and its memory counted.

A `Value` stands for a tensor: its sizes, its strides and the `Buffer` behind it. Operations make
values as torch makes tensors, and record on the tape what autograd would keep for the backward
pass. A buffer is given back where the last reference to it goes, as torch does it: so the peak of a
tape is the peak of torch's allocator, as long as the operations are written as the blocks are.
"""

from __future__ import annotations

import heapq
import sys
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from math import prod
from typing import Literal, TypeAlias

Sizes: TypeAlias = tuple[int, ...]
Phase: TypeAlias = Literal["forward", "backward", "again"]

_ALONE = 2
"""References to what one name holds, as `sys.getrefcount` counts: the name's, and its own."""

_RANDOM_STATE = 5056
"""Bytes of the state of torch's generator of random numbers."""


class Buffer:
    """Memory of so many bytes, taken when it is made and given back when nothing holds it."""

    __slots__ = ("count", "purpose", "tape")

    def __init__(self, tape: Tape, count: int) -> None:
        self.tape, self.count, self.purpose = tape, count, tape.purpose
        tape.take(self)

    def __del__(self) -> None:
        self.tape.give_back(self)


@dataclass(slots=True, eq=False)
class Value:
    """A tensor without its numbers; `source` says what made it, where a gradient reaches it."""

    sizes: Sizes
    strides: Sizes
    item: int
    """Bytes of a number."""
    buffer: Buffer
    source: Source | None = None
    is_view: bool = False
    """Whether it shows memory that another tensor was made with."""

    @property
    def wants(self) -> bool:
        """Whether a gradient reaches it."""
        return self.source is not None

    @property
    def tape(self) -> Tape:
        """The tape that it is recorded on."""
        return self.buffer.tape

    @property
    def count(self) -> int:
        """How many numbers it has."""
        return prod(self.sizes)

    @property
    def is_contiguous(self) -> bool:
        """Whether its numbers lie one after another."""
        return _in_order(self.sizes, self.strides)

    def alone(self) -> Value:
        """The same memory, without what made it."""
        return Value(self.sizes, self.strides, self.item, self.buffer, None, self.is_view)


@dataclass(slots=True, eq=False)
class Source:
    """Which output of a node a value is; a leaf has no node."""

    node: Node
    index: int = 0


Backward: TypeAlias = Callable[..., "Sequence[Value | None]"]
"""From what was saved and the gradients of the outputs to those of the inputs."""


@dataclass(slots=True, eq=False)
class Node:
    """One recorded operation: where its gradients go, and what it keeps until then."""

    order: int
    part: str
    edges: tuple[tuple[Source, Sizes] | None, ...] = ()
    saved: list[Value | None] = field(default_factory=list)
    backward: Backward | None = None
    outputs: int = 1
    frame: Frame | None = None
    """The block that computes again what it keeps."""

    def keep(self, value: Value) -> None:
        """Save an output: known only when it is computed."""
        self.saved.append(None)
        value.tape.save(self, len(self.saved) - 1, value.alone())


class EnoughError(Exception):
    """All that a block keeps is there again: the rest of it need not run."""


@dataclass(slots=True, eq=False)
class Frame:
    """A block whose activations are not kept but computed again."""

    run: Callable[[], Value] | None
    state: Value
    """That of the random numbers, so that the block draws the same again."""
    places: list[tuple[Node, int]] = field(default_factory=list)
    """What was saved in it, in order."""
    found: int = 0
    """How many of these are there again."""
    begun: bool = False


@dataclass(slots=True)
class Mark:
    """Where a tape stands: the last operation, the memory by purpose, the work so far."""

    order: int
    live: int
    by: Counter[str]
    flops: Counter[tuple[str, Phase]]


@dataclass(slots=True)
class Repeat:
    """A block that stands for `times` equal ones that follow one another."""

    first: int
    last: int
    times: int
    begun: Mark | None = None


class Tape:
    """Counts floating-point operations, and memory while it is in use.

    `flops` is by part and phase. `part` and `purpose` say for what the next operation and the next
    buffer are. Matrix products, convolutions and attention are counted, two operations for each
    multiplication and addition; what goes over numbers one by one is not.
    """

    def __init__(self) -> None:
        self.live = self.peak = 0
        self.flops: Counter[tuple[str, Phase]] = Counter()
        self.part = self.purpose = ""
        self.phase: Phase = "forward"
        self.recording = False
        self.gradients: dict[str, Value | None] = {}
        """Those of the leaves, by name, when the backward pass is done."""
        self.at_peak: dict[str, int] = {}
        """What the memory was for when it was fullest."""
        self._by: Counter[str] = Counter()
        self._rising = False
        self._order = 0
        self._frame: Frame | None = None
        self._again: Frame | None = None
        self._leaves: dict[int, str] = {}
        self._repeats: list[Repeat] = []
        self._top = 0

    def take(self, buffer: Buffer) -> None:
        """Count a buffer in."""
        self.live += buffer.count
        self._by[buffer.purpose] += buffer.count
        if self.live > self.peak:
            self.peak, self._rising = self.live, True
        self._top = max(self._top, self.live)

    def give_back(self, buffer: Buffer) -> None:
        """Count a buffer out."""
        self._settle()
        self.live -= buffer.count
        self._by[buffer.purpose] -= buffer.count

    def peak_by_purpose(self) -> Mapping[str, int]:
        """What the memory was for when it was fullest, in bytes."""
        self._settle()
        return self.at_peak

    def new(self, sizes: Sequence[int], item: int, strides: Sizes | None = None) -> Value:
        """Fresh memory for a tensor."""
        sizes = tuple(sizes)
        return Value(sizes, strides or contiguous(sizes), item, Buffer(self, item * prod(sizes)))

    def leaf(self, name: str, value: Value) -> Value:
        """A parameter that learns."""
        node = Node(sys.maxsize, "")
        self._leaves[id(node)] = name
        return Value(value.sizes, value.strides, value.item, value.buffer, Source(node))

    @contextmanager
    def purposed(self, purpose: str) -> Iterator[None]:
        """Inside, memory is taken for this."""
        before, self.purpose = self.purpose, purpose
        try:
            yield
        finally:
            self.purpose = before

    def work(self, flops: int) -> None:
        """Count operations."""
        self.flops[self.part, self.phase] += flops

    def record(
        self,
        inputs: Sequence[Value | None],
        saved: Sequence[Value | None],
        backward: Backward,
        outputs: int = 1,
    ) -> Node | None:
        """A node for an operation on `inputs` that keeps what is `saved` (None: nothing there).

        None where no gradient reaches an input. Called before the operation runs, as torch does.
        """
        if not self.recording or not any(x is not None and x.source for x in inputs):
            return None
        self._order += 1
        edges = tuple(
            (x.source, x.sizes) if x is not None and x.source is not None else None for x in inputs
        )
        node = Node(self._order, self.part, edges, [None] * len(saved), backward, outputs)
        node.frame = self._frame
        for index, value in enumerate(saved):
            if value is not None:
                self.save(node, index, value.alone())
        return node

    def save(self, node: Node, index: int, value: Value) -> None:
        """Keep a value for a node: now, or once its block has run again."""
        if self._again is not None:
            frame = self._again
            original, place = frame.places[frame.found]
            original.saved[place] = value
            frame.found += 1
            if frame.found == len(frame.places):
                raise EnoughError
        if self._frame is not None and self._again is None:
            self._frame.places.append((node, index))
        else:
            node.saved[index] = value

    def checkpointed(self, run: Callable[[], Value]) -> Value:
        """What a block yields, without what lies between being kept."""
        if not self.recording:
            return run()
        self._frame = Frame(run, self.new((_RANDOM_STATE,), 1))
        made = run()
        self._frame = None
        return made

    def mark(self) -> Mark:
        """Where the tape stands."""
        return Mark(self._order, self.live, Counter(self._by), Counter(self.flops))

    def repeat(self, since: Mark, times: int) -> None:
        """Let what was recorded since a mark stand for so many equal blocks, one after another.

        Each adds as much memory and work, here and on the way back: so the fullest moment of all
        of them is in the first or in the last.
        """
        if self._again is not None:
            return
        self._add(since, times - 1)
        if self._order > since.order:
            self._repeats.append(Repeat(since.order, self._order, times))

    def _add(self, since: Mark, times: int) -> None:
        """What has changed since a mark, so many times more."""
        self._settle()
        self.live += times * (self.live - since.live)
        for what, count in self._by.items():
            self._by[what] += times * (count - since.by[what])
        for key, count in self.flops.items():
            self.flops[key] += times * (count - since.flops[key])
        if self.live > self.peak:
            self.peak, self._rising = self.live, True

    def _at(self, order: int) -> None:
        """The way back has come to an operation: it may be in a block that stands for several."""
        while self._repeats and order <= self._repeats[-1].last:
            repeat = self._repeats[-1]
            if repeat.begun is None:
                repeat.begun, self._top = self.mark(), self.live
            if order > repeat.first:
                return
            self._repeats.pop()
            grown = (repeat.times - 1) * (self.live - repeat.begun.live)
            top = self._top + grown
            before = self.peak
            self._add(repeat.begun, repeat.times - 1)
            if top > max(before, self.peak):
                self.peak, self._rising = top, False
                self.at_peak = {**self._by, "gradients": self._by["gradients"] + top - self.live}

    def backward(self, loss: Value, *, keep: bool = True) -> None:
        """From the loss to the leaves, in the order in which autograd goes.

        Unless they are to `keep`, gradients of leaves are gone as soon as they are made: summed up
        elsewhere, by a process that has its share of them.
        """
        self.phase, self.recording, self.purpose = "backward", False, "gradients"
        if loss.source is None:
            return
        start = loss.source.node
        pending: dict[int, list[Value | None]] = {id(start): [self.new(loss.sizes, loss.item)]}
        ready = [(-start.order, id(start), start)]
        while ready:
            _, key, node = heapq.heappop(ready)
            gradients = pending.pop(key)
            self._at(node.order)
            self.part = node.part
            if node.frame is not None and not node.frame.begun:
                self._run_again(node.frame)
            assert node.backward
            made = list(node.backward(node.saved, *gradients))
            node.saved, node.backward = [], None
            gradients.clear()
            for place, edge in enumerate(node.edges):
                if edge is None:
                    made[place] = None
                else:
                    made[place] = self._summed(made[place], edge[1])
            for place, edge in enumerate(node.edges):
                if edge is None:
                    continue
                gradient, made[place] = made[place], None
                source, _ = edge
                to = source.node
                if not keep and id(to) in self._leaves:
                    continue
                if id(to) not in pending:
                    pending[id(to)] = [None] * to.outputs
                    if id(to) not in self._leaves:
                        heapq.heappush(ready, (-to.order, id(to), to))
                self._gather(pending[id(to)], source.index, gradient)
                gradient = None
        self._at(0)
        self.gradients = {
            name: pending[key][0] for key, name in self._leaves.items() if key in pending
        }

    def _gather(self, slots: list[Value | None], index: int, gradient: Value | None) -> None:
        """Add a gradient to what is there already, in place where nobody else holds that."""
        old = slots[index]
        if old is None:
            slots[index] = gradient
            return
        # `old`, and the list that it stands in.
        shared = sys.getrefcount(old) > _ALONE + 1 or sys.getrefcount(old.buffer) > _ALONE
        if shared or old.is_view:
            slots[index] = self.new(old.sizes, old.item)

    def _summed(self, gradient: Value | None, sizes: Sizes) -> Value | None:
        """A gradient of the sizes that it is for: summed where an input was repeated."""
        if gradient is None or gradient.sizes == sizes:
            return gradient
        return self.new(sizes, gradient.item)

    def _run_again(self, frame: Frame) -> None:
        frame.begun = True
        self._again, self.phase, self.recording = frame, "again", True
        assert frame.run
        with self.purposed("activations"), suppress(EnoughError):
            frame.run()
        self._again, self.phase, self.recording = None, "backward", False
        # What holds the frame is held by it: let go.
        frame.run = None
        frame.places.clear()

    def _settle(self) -> None:
        if self._rising:
            self.at_peak, self._rising = dict(self._by), False


@cache
def contiguous(sizes: Sizes) -> Sizes:
    """The strides of a tensor whose numbers lie one after another."""
    strides, step = [], 1
    for size in reversed(sizes):
        strides.append(step)
        step *= max(size, 1)
    return tuple(reversed(strides))


@cache
def _in_order(sizes: Sizes, strides: Sizes) -> bool:
    step = 1
    for size, stride in zip(reversed(sizes), reversed(strides), strict=True):
        if size != 1 and stride != step:
            return False
        step *= size
    return True

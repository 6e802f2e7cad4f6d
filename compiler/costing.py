"""Runs the methods of a program in shapes: what they compute, and what memory they need."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from ..dsl.precision import InPart, Word
from . import ops
from .costs.kernels import ITEMS
from .costs.module import Module
from .costs.segments import Lengths
from .costs.table import ROWS
from .costs.tape import Tape, Value
from .graph import Graph, Node
from .precision import coarsest
from .types import evaluate

Said: TypeAlias = Word | Sequence[InPart]
"""What a stage or a mode says of its precision."""

SCORES = (ops.Head, ops.CrossEntropy, ops.Contrast, ops.RegionWords, ops.Similarities)
"""Operations whose values are as wide as a vocabulary or a batch: told apart in memory."""


@dataclass(frozen=True)
class Shapes:
    """The sizes of what a method is fed: its symbols, and the rows of each segment of patches, or
    of tokens."""

    values: Mapping[str, int]
    segments: Mapping[str, Sequence[int]]


def feed(
    tape: Tape, graph: Graph, shapes: Shapes, said: Said, given: Collection[str] = ()
) -> dict[str, Value]:
    """The tensors that the host gives to a method, by name, but for those that are `given`."""
    items = {**ITEMS, "float": ITEMS[coarsest(said)], "i64": 8}
    made: dict[str, Value] = {}
    for node in graph:
        if not isinstance(node.op, ops.Input | ops.Cache) or node.name in given:
            continue
        assert node.type
        sizes = [evaluate(size, shapes.values) for size in node.type.sizes]
        with tape.purposed("cache" if isinstance(node.op, ops.Cache) else "inputs"):
            made[node.name] = tape.new(sizes, items[node.type.dtype])
    return made


def run(
    tape: Tape,
    graph: Graph,
    parameters: Mapping[str, Value],
    again: Collection[str],
    inputs: Mapping[str, Value],
    shapes: Shapes,
) -> dict[str, Value]:
    """The outputs of a method, its work and memory on the tape.

    `again` names the parameters whose blocks are computed twice instead of being kept.
    """
    root = Module(tape, parameters, _prefixes(again))
    values: dict[str, Value] = {}
    for node in graph:
        if isinstance(node.op, ops.Input | ops.Cache):
            values[node.name] = inputs[node.name]
            continue
        tape.part = node.module.partition(".")[0]
        options = _options(node, shapes)
        purpose = "scores" if isinstance(node.op, SCORES) else "activations"
        with tape.purposed(purpose):
            values[node.name] = ROWS[type(node.op)](
                node.op, root.under(node.module), *[values[name] for name in node.inputs], **options
            )
    return {name: values[node] for name, node in graph.outputs.items()}


def _prefixes(names: Iterable[str]) -> frozenset[str]:
    """All that stands before a dot in these names: `lm.blocks.0.` of `lm.blocks.0.norm1.weight`."""
    found = set[str]()
    for name in names:
        prefix = name
        while prefix := prefix.rpartition(".")[0]:
            if f"{prefix}." in found:
                break
            found.add(f"{prefix}.")
    return frozenset(found)


def _options(node: Node, shapes: Shapes) -> dict[str, Lengths]:
    if isinstance(node.op, ops.VisionBlocks) and node.op.packed:
        return {"lengths": shapes.segments[node.inputs[1]]}
    if isinstance(node.op, ops.DecoderBlocks) and not node.op.cached:
        return {"lengths": shapes.segments[node.inputs[3]]}
    return {}

"""Runs the methods of a program in shapes: what they compute, and what memory they need."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from . import ops
from .costs.module import Module
from .costs.table import ROWS
from .costs.tape import Tape, Value
from .costs.towers import Lengths
from .graph import Graph, Node
from .types import DType, evaluate

ITEMS: Mapping[str, int] = {"f32": 4, "bf16": 2, "f16": 2}
"""Bytes of a number of each precision."""

SCORES = (ops.Head, ops.CrossEntropy, ops.Contrast, ops.RegionWords, ops.Similarities)
"""Operations whose values are as wide as a vocabulary or a batch: told apart in memory."""


@dataclass(frozen=True)
class Shapes:
    """The sizes of what a method is fed: its symbols, and the rows of each segment of patches."""

    values: Mapping[str, int]
    segments: Mapping[str, Sequence[int]]


def items_of(precision: str) -> Mapping[DType, int]:
    """Bytes of a number by what the graph calls it."""
    return {"float": ITEMS[precision], "f32": 4, "i64": 8}


def feed(
    tape: Tape, graph: Graph, shapes: Shapes, precision: str, given: Collection[str] = ()
) -> dict[str, Value]:
    """The tensors that the host gives to a method, by name, but for those that are `given`."""
    items = items_of(precision)
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
    again: frozenset[str],
    inputs: Mapping[str, Value],
    shapes: Shapes,
) -> dict[str, Value]:
    """The outputs of a method, its work and memory on the tape."""
    root = Module(tape, parameters, again)
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


def _options(node: Node, shapes: Shapes) -> dict[str, Lengths]:
    if isinstance(node.op, ops.VisionBlocks) and node.op.packed:
        return {"lengths": shapes.segments[node.inputs[1]]}
    return {}

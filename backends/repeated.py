"""Blocks that repeat are looked at one and two at a time, and counted as often as they stand.

The blocks of a decoder or a tower are one module over and over: each adds the same operators to a
program. So what one and two of them make tells what eighty make, and a model of eighty blocks is
looked at in the time of three. Where every other block has a cross-attention, two blocks are one
round.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, TypeAlias, TypeVar

from ..compiler import ops
from ..compiler.graph import Graph, Node
from ..compiler.lower import lower
from .job import Job, outside

FEW = 1
"""The rounds that are left of a part; it is looked at a second time with one more."""
Counts = TypeVar("Counts")
"""A dataclass whose fields are numbers of calls, some of them by operator."""
Rounds: TypeAlias = Mapping[str, int]
"""Part -> how many rounds of blocks it has; only parts with more than both looks have."""


def rounds(job: Job) -> dict[str, int]:
    """The parts of a job that can be looked at in short."""
    nodes = [node for graph in job.lowered.program.methods.values() for node in graph]
    whole = {node.module for node in nodes if node.op.parameters() and not _round(node.op)}
    found = {
        _part(node): _depth(node) // period
        for node in nodes
        if node.module not in whole and (period := _round(node.op))
    }
    return {part: number for part, number in found.items() if number > FEW + FEW + 1}


def within(job: Job, deep: Rounds) -> list[str]:
    """The methods that one of these parts is in."""
    return [
        name
        for name, graph in job.lowered.program.methods.items()
        if any(_part(node) in deep for node in graph)
    ]


def shortened(job: Job, deep: Rounds, kept: int) -> Job:
    """The same job without weights, with so many rounds of each of these parts."""
    program = job.lowered.program
    methods = {name: _shortened(graph, deep, kept) for name, graph in program.methods.items()}
    lowered = lower(replace(program, methods=methods), dtype=job.dtype, device="meta")
    outsides = {name: outside(name, method) for name, method in lowered.methods.items()}
    return replace(job, lowered=lowered, methods=outsides)


def _shortened(graph: Graph, deep: Rounds, kept: int) -> Graph:
    depths = {
        node.name: kept * period
        for node in graph
        if _part(node) in deep and (period := _round(node.op))
    }

    def short(node: Node) -> Node:
        if node.name in depths:
            op: Any = node.op
            return replace(node, op=replace(op, depth=depths[node.name]))
        if isinstance(node.op, ops.Cache):
            (user,) = graph.users(node.name)
            cache = replace(node.op, layers=depths.get(user.name, node.op.layers))
            return replace(node, op=cache, type=cache.result())
        return node

    return graph.with_nodes(short(node) for node in graph)


def _part(node: Node) -> str:
    return node.name.partition("@")[0]


def _depth(node: Node) -> int:
    op: Any = node.op
    return int(op.depth)


def _round(op: Any) -> int | None:
    """After how many blocks they repeat; None where blocks cannot be left out."""
    match op:
        case ops.DecoderBlocks():
            return 1
        case ops.VisionBlocks(taps=(), span=(), drop_path=()):
            return 1
        case ops.QueryBlocks() | ops.QFormer() if op.depth % op.cross_every == 0:
            return op.cross_every
    return None


def grown(few: Mapping[str, Counts], more: Mapping[str, Counts], deep: Rounds) -> dict[str, Counts]:
    """Part -> what is counted of it with all of its blocks, from its counts with `FEW` rounds and
    with one more."""
    return {part: _grown(part, few[part], counts, deep) for part, counts in more.items()}


def _grown(part: str, few: Any, more: Any, deep: Rounds) -> Any:
    """A straight line through the two counts."""
    if part not in deep:
        assert few == more, f"{part} depends on blocks that are not its own"
        return few
    steps = deep[part] - FEW
    values = {
        field.name: _along(getattr(few, field.name), getattr(more, field.name), steps)
        for field in fields(few)
    }
    return replace(few, **values)


def _along(few: Any, more: Any, steps: int) -> Any:
    if isinstance(few, Mapping):
        return {name: _along(few.get(name, 0), number, steps) for name, number in more.items()}
    return few + (more - few) * steps

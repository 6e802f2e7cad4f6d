"""Causal attention inside segments: what it counts, makes, keeps and needs on the way back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import TypeAlias

from .kernels import F32, I64
from .tape import Source, Value
from .views import flatten, transpose, unflatten

Lengths: TypeAlias = Sequence[int]
"""How many rows each segment has, in order."""


@dataclass(frozen=True)
class Segments:
    """What decides which tokens a token sees: its own segment, up to itself."""

    ids: Value
    lengths: Lengths


def segments_apart(x: Value, lengths: Lengths) -> Segments:
    """The ids of segments of all rows of `x`, [N]."""
    rows, length = x.sizes[:2]
    return Segments(x.tape.new((rows * length,), I64), lengths)


def causal_attention(q: Value, k: Value, v: Value, among: Segments) -> Value:
    """[B, H, T, D], as one operator that goes from segment to segment."""
    rows = q.sizes[0], q.sizes[2]
    q, k, v = (flatten(transpose(x, 1, 2), 0, 1) for x in (q, k, v))
    return transpose(unflatten(_operator(q, k, v, among), 0, rows), 1, 2)


def _operator(q: Value, k: Value, v: Value, among: Segments) -> Value:
    """[N, H, D]; those of one length that stand together are computed at once, and then put into
    their places."""
    tape, item = q.tape, q.item
    rows, heads, width = q.sizes
    scores = heads * sum(length**2 for length in among.lengths)
    largest = max(sum(group) for _, group in groupby(among.lengths))
    shapes = [x.sizes[1:] for x in (q, k, v)]

    def backward(saved: list[Value | None], grad: Value) -> list[Value | None]:
        tape.work(10 * scores * width)
        made: list[Value | None] = [tape.new((rows, *sizes), item) for sizes in shapes]
        if largest < rows:
            _ = [tape.new((largest, *sizes), item) for sizes in shapes]
        return made

    node = tape.record([q, k, v], [q, k, v], backward)
    tape.work(4 * scores * width)
    made, logsumexp = tape.new(q.sizes, item), tape.new((rows, heads), F32)
    if largest < rows:
        _ = tape.new((largest, heads, width), item), tape.new((largest, heads), F32)
    if node:
        for one in (made, logsumexp, among.ids):
            node.keep(one)
    made.source = Source(node) if node else None
    return made

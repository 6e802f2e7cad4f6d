"""Lets the decoder keep keys and values between calls, so that each token is computed once."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..graph import Graph, Node
from ..ops import Cache, DecoderBlocks
from ..types import TensorType
from .infer_shapes import infer


@dataclass(frozen=True)
class KeepCache:
    """Turns causal blocks over whole sequences into blocks that read and update a cache.

    The segment ids of packed samples give way to the slot that each token takes in the cache, and
    the first slot of each row: what stands before is left padding.
    """

    def run(self, graph: Graph) -> Graph:
        """Rewrite each stack of decoder blocks."""
        return infer(graph.with_nodes(new for node in graph for new in _cached(node)))


def _cached(node: Node) -> Iterator[Node]:
    op = node.op
    if not isinstance(op, DecoderBlocks) or op.cached:
        yield node
        return
    hidden, cos, sin, _ = node.inputs
    yield Node.fed("text.slot", TensorType(("batch", "length"), "i64"))
    yield Node.fed("text.first", TensorType(("batch",), "i64"))
    yield Node("cache", Cache(op.depth, op.kv_heads, op.head_dim))
    inputs: tuple[str, ...] = (hidden, cos, sin, "text.slot", "text.first", "cache")
    if op.scaled_queries:
        yield Node.fed("text.query_scale", TensorType(("batch", "length"), "f32"))
        inputs = (*inputs, "text.query_scale")
    yield replace(node, op=replace(op, cached=True), inputs=inputs)

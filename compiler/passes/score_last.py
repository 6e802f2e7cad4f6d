"""Scores one position of each sequence: the one whose next token is wanted."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

from ..graph import Graph, Node
from ..ops import Head, TakeLast
from ..types import TensorType
from .infer_shapes import infer


@dataclass(frozen=True)
class ScoreLast:
    """Takes one row of each sequence before the head, which is the widest layer of all."""

    def run(self, graph: Graph) -> Graph:
        """Rewrite each head over whole sequences."""
        return infer(graph.with_nodes(new for node in graph for new in _one_row(node)))


def _one_row(node: Node) -> Iterator[Node]:
    if not isinstance(node.op, Head):
        yield node
        return
    (hidden,) = node.inputs
    yield Node.fed("text.last", TensorType(("batch",), "i64"))
    yield Node(f"{node.name}.row", TakeLast(), (hidden, "text.last"), loc=node.loc)
    yield replace(node, inputs=(f"{node.name}.row",))

"""Lets a head that is tied use the table of the embedding."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..graph import Graph, Node
from ..ops import Embed, Head


@dataclass(frozen=True)
class TieWeights:
    """Names, for each tied head, the embedding of its own shape as the owner of its matrix."""

    def run(self, graph: Graph) -> Graph:
        """Tie each head that says so."""
        tables = {
            (node.op.vocab, node.op.width): node.module
            for node in graph
            if isinstance(node.op, Embed)
        }
        return graph.with_nodes(_tied(node, tables) for node in graph)


def _tied(node: Node, tables: dict[tuple[int, int], str]) -> Node:
    if not (isinstance(node.op, Head) and node.op.tied):
        return node
    return replace(node, weights=tables[node.op.vocab, node.op.width])

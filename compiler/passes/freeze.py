"""Marks what does not learn in a stage."""

from __future__ import annotations

from collections.abc import Set
from dataclasses import dataclass, replace

from ..graph import Graph, Node
from ..ops import Input


@dataclass(frozen=True)
class Freeze:
    """Marks each node that has nothing to learn and comes after nothing that learns.

    No gradient passes such a node, so it can run apart from the rest, without a record of what it
    did. `trained` names the parameters that learn in this stage.
    """

    trained: Set[str]

    def run(self, graph: Graph) -> Graph:
        """From the inputs on."""
        nodes = dict[str, Node]()
        for node in graph:
            if isinstance(node.op, Input):
                nodes[node.name] = node
                continue
            # A tied head owns nothing: it learns as the table that it uses does. A table that only
            # an objective calls has no node of its own.
            owner = graph.nodes.get(node.module, node)
            used = node.parameters or owner.parameters
            frozen = not self.trained & used.keys() and all(
                nodes[source].frozen or isinstance(nodes[source].op, Input)
                for source in node.inputs
            )
            nodes[node.name] = replace(node, frozen=frozen)
        return graph.with_nodes(nodes.values())

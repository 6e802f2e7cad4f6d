"""Cuts a tower between two of its blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from ...dsl.kinds import Selector
from ..caching import Blocks, end_in
from ..graph import Graph, Node
from ..ops import VisionBlocks
from .infer_shapes import infer


@dataclass(frozen=True)
class SplitBlocks:
    """Makes two nodes of a tower that `selectors` name up to one of its blocks.

    Both use the parameters of the one module, each those of its own blocks.
    """

    selectors: Sequence[Selector]

    def run(self, graph: Graph) -> Graph:
        """Whatever took the value of the tower takes that of the rest."""
        nodes, instead = list[Node](), dict[str, str]()
        for node in graph:
            node = replace(node, inputs=tuple(instead.get(name, name) for name in node.inputs))
            end = end_in(node, self.selectors)
            if end is None or not isinstance(node.op, Blocks) or end == node.op.depth:
                nodes.append(node)
                continue
            rest = replace(
                node,
                name=f"{node.name}.{end}.on",
                op=replace(node.op, span=(end, node.op.depth)),
                inputs=(node.name, *node.inputs[1:]),
                weights=node.module,
            )
            nodes += [_first(node, node.op, end), rest]
            instead[node.name] = rest.name
        outputs = {name: instead.get(node, node) for name, node in graph.outputs.items()}
        return infer(graph.with_nodes(nodes, outputs)) if instead else graph


def _first(node: Node, op: Blocks, end: int) -> Node:
    """The blocks up to the end; where none of them is left out by chance, without what says so."""
    first = replace(op, span=(0, end))
    if isinstance(first, VisionBlocks) and first.drop_path and not any(first.drop_path[:end]):
        return replace(node, op=replace(first, drop_path=()), inputs=node.inputs[:-1])
    return replace(node, op=first)

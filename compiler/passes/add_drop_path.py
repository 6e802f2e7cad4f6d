"""Lets a stage leave out branches of blocks by chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from ..graph import Graph, Node
from ..ops import VisionBlocks
from ..types import TensorType
from .infer_shapes import infer


@dataclass(frozen=True)
class AddDropPath:
    """Gives blocks one more input: what each branch counts for each picture, 0 when left out.

    `rates` holds the chance of each block, by module. The host draws, as it does all that varies
    from batch to batch: so a block that is computed twice leaves out the same, and so do all
    workers. The input is that of the view that the blocks see: `VIEW.drop_path`.
    """

    rates: Mapping[str, Sequence[float]]

    def run(self, graph: Graph) -> Graph:
        """Each call of such a module gets an input of its own."""
        nodes = list[Node]()
        for node in graph:
            if isinstance(node.op, VisionBlocks) and node.module in self.rates:
                rates = tuple(self.rates[node.module])[: node.op.depth]
                (patches,) = (
                    source for source in graph.feeding(node.name) if source.endswith(".patches")
                )
                feed = f"{patches.removesuffix('.patches')}.drop_path"
                rows = _type(graph[node.inputs[0]]).sizes[0]
                nodes.append(Node.fed(feed, TensorType((node.op.depth, 2, rows), "f32")))
                node = replace(
                    node, op=replace(node.op, drop_path=rates), inputs=(*node.inputs, feed)
                )
            nodes.append(node)
        return infer(graph.with_nodes(nodes))


def _type(node: Node) -> TensorType:
    assert node.type is not None
    return node.type

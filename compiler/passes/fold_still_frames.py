"""Halves the work on pictures that a tower for clips sees as several equal frames."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..graph import Graph, Node
from ..ops import Input, PatchEmbed
from ..types import TensorType


@dataclass(frozen=True)
class FoldStillFrames:
    """Sums the patch kernel over its frames where all frames of a patch are the same.

    A convolution is linear in its input, so sum over f of w_f x equals (sum over f of w_f) x: the
    same number up to rounding, from rows that hold one frame.
    """

    def run(self, graph: Graph) -> Graph:
        """Rewrite each patch embedding of a still input, and the input with it."""
        changed = dict[str, Node]()
        for node in graph:
            if not (isinstance(node.op, PatchEmbed) and node.op.frames > 1 and not node.op.folded):
                continue
            source = graph[node.inputs[0]]
            if not (isinstance(source.op, Input) and source.op.still):
                continue
            folded = replace(node.op, folded=True)
            type_ = TensorType((*source.op.type.sizes[:-1], folded.row), source.op.type.dtype)
            changed[node.name] = replace(node, op=folded)
            changed[source.name] = replace(source, op=replace(source.op, type=type_), type=type_)
        return graph.with_nodes(changed.get(node.name, node) for node in graph)

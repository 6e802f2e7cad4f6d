"""Puts parts into precisions of their own, and casts between those that differ."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...dsl.precision import Word
from ..graph import Graph, Node
from ..ops import Cache, Cast, Input
from ..types import DType
from .infer_shapes import infer


@dataclass(frozen=True)
class PlacePrecisions:
    """Gives each node the precision of its part, and what it takes of other parts a cast before it.

    `parts` has a word for each part; where it is empty, the whole model has one precision, and
    nothing changes. What belongs to no part computes in the first precision that it is given, but
    for what yields float32 whatever it is given, such as a loss. A value that another method hands
    over comes in the precision of its part.
    """

    parts: Mapping[str, Word]

    def run(self, graph: Graph) -> Graph:
        """From the inputs on."""
        if not self.parts:
            return graph
        nodes = dict[str, Node]()
        for node in graph:
            if isinstance(node.op, Input | Cache):
                nodes[node.name] = self._given(graph, node)
                continue
            given = [nodes[source].precision for source in node.inputs]
            own = self.parts.get(node.module.partition(".")[0])
            wanted: DType | None = own or next(filter(None, given), None)
            inputs = list[str]()
            for source, have in zip(node.inputs, given, strict=True):
                if wanted is None or have is None or have == wanted:
                    inputs.append(source)
                    continue
                cast = Node(f"{source}.in_{wanted}", Cast(wanted), (source,), precision=wanted)
                cast = replace(cast, frozen=nodes[source].frozen, loc=node.loc)
                nodes.setdefault(cast.name, cast)
                inputs.append(cast.name)
            is_float = node.type is not None and node.type.dtype == "float"
            precision = wanted if is_float else None
            nodes[node.name] = replace(node, inputs=tuple(inputs), precision=precision)
        return infer(graph.with_nodes(nodes.values()))

    def _given(self, graph: Graph, node: Node) -> Node:
        """What the host or another method feeds; floats that have no part go by who takes them."""
        assert node.type
        if node.type.dtype != "float":
            return node
        takers = [user.module for user in graph.users(node.name)]
        near = [name.partition(".")[0] for name in (node.name, *takers)]
        precision: DType | None = next((self.parts[n] for n in near if n in self.parts), None)
        if precision is None or not isinstance(node.op, Input):
            return replace(node, precision=precision)
        type_ = replace(node.type, dtype=precision)
        return replace(node, op=replace(node.op, type=type_), type=type_, precision=precision)

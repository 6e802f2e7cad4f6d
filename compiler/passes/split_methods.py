"""Cuts one graph into the methods that a model is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..graph import Graph, Methods, Node
from ..ops import Concat, Input, Splice, TakeLast
from ..types import Size, Symbol, TensorType, substitute
from .drop_unused import drop_unused
from .infer_shapes import infer


@dataclass(frozen=True)
class SplitTraining:
    """Two methods: `prefix`, all that is frozen, and `step`, the rest up to the loss.

    What the step takes from the prefix is an output of the one and an input of the other, under the
    name of the node. A stage without a frozen prefix has `step` alone.
    """

    def run(self, graph: Graph) -> Methods:
        """Cut where frozen values reach nodes that learn, or an output."""
        ends = set(graph.outputs.values())
        edge = {
            node.name: node.name
            for node in graph
            if node.frozen
            and (node.name in ends or any(not user.frozen for user in graph.users(node.name)))
        }
        if not edge:
            return {"step": graph}
        return {"prefix": _cut(graph, edge, {}), "step": _cut(graph, graph.outputs, edge)}


@dataclass(frozen=True)
class SplitInference:
    """`vision_INPUT` for each input, `project`, `prefill` and `decode`.

    `towers` names the encoders. What a method hands to the next goes by the name of the node that
    makes it, and by that of its first call where there are several: both `vision_image` and
    `vision_video` yield `vit.blocks`, and `project` makes of it `merger`, whatever the input was.
    `prefill` takes the rows of all inputs, one after another, as `features`; `decode` takes one
    token a sequence, and no features.
    """

    towers: tuple[str, ...]

    def run(self, graph: Graph) -> Methods:
        """Cut behind the towers and before the places of features."""
        splice = next((node for node in graph if isinstance(node.op, Splice)), None)
        if splice is None:
            return {"prefill": graph, "decode": _one_token(graph)}
        vision, project = Methods(), Methods()
        features = graph[splice.inputs[1]]
        parts = features.inputs if isinstance(features.op, Concat) else (features.name,)
        for part in parts:
            before = graph.feeding(part)
            ends = {
                node.name: node.module
                for node in map(graph.__getitem__, before)
                if self._tower(node)
                and all(self._tower(user) != self._tower(node) for user in graph.users(node.name))
            }
            (medium,) = {name.partition(".")[0] for name in before if _is_patches(graph[name])}
            outputs = {module: name for name, module in ends.items()}
            vision[f"vision_{medium}"] = _cut(graph, outputs, {})
            if not project:
                rows = {f"{medium}.patches": Symbol("patches")}
                project["project"] = _renamed(_cut(graph, {part: part}, ends), rows)
        return {
            **vision,
            **project,
            "prefill": _given_features(graph, features),
            "decode": _one_token(_without_splice(graph, splice)),
        }

    def _tower(self, node: Node) -> str | None:
        """The tower that a node belongs to; None when it is none of one."""
        part = node.module.partition(".")[0]
        return part if part in self.towers and not isinstance(node.op, Input) else None


def _cut(graph: Graph, outputs: Mapping[str, str], given: Mapping[str, str]) -> Graph:
    """What makes `outputs` from the host's inputs and from what is `given`.

    `given` says under which name the value of a node is handed over: the node becomes an input.
    """
    nodes = []
    for node in graph:
        if node.name in given:
            assert node.type
            nodes.append(Node.fed(given[node.name], node.type))
        else:
            inputs = tuple(given.get(source, source) for source in node.inputs)
            nodes.append(replace(node, inputs=inputs))
    return drop_unused(graph.with_nodes(nodes, outputs))


def _is_patches(node: Node) -> bool:
    return isinstance(node.op, Input) and node.name.endswith(".patches")


def _renamed(graph: Graph, meaning: Mapping[str, Size]) -> Graph:
    """The graph with other symbols in the types of its inputs, and of all that follows."""
    nodes = []
    for node in graph:
        if isinstance(node.op, Input):
            sizes = [substitute(size, meaning) for size in node.op.type.sizes]
            type_ = TensorType(sizes, node.op.type.dtype)
            node = replace(node, op=replace(node.op, type=type_), type=type_)
        nodes.append(node)
    return infer(replace(graph.with_nodes(nodes), meaning={}))


def _given_features(graph: Graph, features: Node) -> Graph:
    """From text and finished features on."""
    assert features.type
    rows = TensorType(("features", features.type.width), features.type.dtype)
    return _cut(graph.change(features.name, type=rows), graph.outputs, {features.name: "features"})


def _without_splice(graph: Graph, splice: Node) -> Graph:
    """Text alone: whatever took the spliced sequence takes the embedded one."""
    (embedded, *_) = splice.inputs
    nodes = [
        replace(
            node,
            inputs=tuple(embedded if name == splice.name else name for name in node.inputs),
        )
        for node in graph
    ]
    return drop_unused(graph.with_nodes(nodes))


def _one_token(graph: Graph) -> Graph:
    """A sequence of one token: its last row is the only one, so nobody needs to say where it is."""
    nodes = [
        replace(node, inputs=node.inputs[:1]) if isinstance(node.op, TakeLast) else node
        for node in graph
    ]
    return _renamed(drop_unused(graph.with_nodes(nodes)), {"length": 1})

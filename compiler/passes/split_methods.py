"""Cuts one graph into the methods that a model is asked for."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from ...dsl.kinds import Selector
from ..caching import handed_on, kept_nodes
from ..graph import Graph, Methods, Node
from ..ops import Concat, Input, Pictures, QueryBlocks, Rows, Splice, TakeLast
from ..types import Size, Symbol, TensorType, substitute
from .drop_unused import drop_unused
from .infer_shapes import infer


@dataclass(frozen=True)
class SplitTraining:
    """Two methods: `prefix`, all that is frozen, and `step`, the rest up to the loss.

    What the step takes from the prefix is an output of the one and an input of the other, under the
    name of the node. A stage without a frozen prefix has `step` alone. Of what the stage keeps
    (`cache`), each input has a method before these: `features_INPUT`.
    """

    cache: Sequence[Selector] = ()

    def run(self, graph: Graph) -> Methods:
        """Cut where frozen values reach nodes that learn, or an output."""
        methods, kept = Methods(), dict[str, str]()
        if self.cache:
            media = handed_on(graph, kept_nodes(graph, self.cache))
            kept = {name: name for name in media}
            for medium in dict.fromkeys(media.values()):
                own = {name: name for name in kept if media[name] == medium}
                methods[f"features_{medium}"] = _cut(graph, own, {})
        ends = set(graph.outputs.values())
        edge = {
            node.name: node.name
            for node in graph
            if node.frozen
            and (node.name in ends or any(not user.frozen for user in graph.users(node.name)))
        }
        if not edge:
            return {"step": graph}
        prefix = {name: name for name in edge if name not in kept}
        if prefix:
            methods["prefix"] = _cut(graph, prefix, kept)
        return methods | {"step": _cut(graph, graph.outputs, edge)}


@dataclass(frozen=True)
class SplitInference:
    """`vision_INPUT` for each input, `project`, `prefill` and `decode`.

    `towers` names the encoders. What a method hands to the next goes by the name of the node that
    makes it, and by that of its first call where there are several: both `vision_image` and
    `vision_video` yield `vit.blocks`, and `project` makes of it `merger`, whatever the input was.
    Inputs that go through other parts than the first have a `project_INPUT` each. `prefill` takes
    the rows of all parts and inputs, one after another, as `features`; `decode` takes one token a
    sequence, and no features.
    """

    towers: tuple[str, ...]

    def run(self, graph: Graph) -> Methods:
        """Cut behind the towers and before the places of features."""
        splice = next((node for node in graph if isinstance(node.op, Splice | Pictures)), None)
        if splice is None:
            return {"prefill": graph, "decode": _one_token(graph)}
        vision, project = Methods(), dict[str, _Chain]()
        features = graph[splice.inputs[0 if isinstance(splice.op, Pictures) else 1]]
        parts = features.inputs if isinstance(features.op, Concat) else (features.name,)
        for medium, made in _by_medium(graph, parts).items():
            before = graph.feeding(*made)
            ends = {
                node.name: _called(node, medium)
                for node in graph
                if node.name in before
                and self._tower(node)
                and any(self._tower(user) != self._tower(node) for user in graph.users(node.name))
            }
            outputs = {name: node for node, name in ends.items()}
            vision[f"vision_{medium}"] = _cut(graph, outputs, {})
            made_as = {_called(graph[part], medium): part for part in made}
            project[medium] = _Chain(medium, made_as, ends)
        return {
            **vision,
            **_projects(graph, project),
            "prefill": _given_features(graph, features),
            "decode": _one_token(_text_alone(graph, splice)),
        }

    def _tower(self, node: Node) -> str | None:
        """The tower that a node belongs to; None when it is none of one."""
        part = node.module.partition(".")[0]
        return part if part in self.towers and not isinstance(node.op, Input | Rows) else None


@dataclass(frozen=True)
class SplitRoutes:
    """A method for each output, of its name; what one yields is given to those behind it."""

    def run(self, graph: Graph) -> Methods:
        """Cut behind each output."""
        methods, given = Methods(), dict[str, str]()
        for name, node in graph.outputs.items():
            methods[name] = _cut(graph, {name: node}, given)
            given[node] = name
        return methods


@dataclass(frozen=True)
class _Chain:
    """How one input gets from its towers to rows of features: what is made, of what is given."""

    medium: str
    made: Mapping[str, str]
    given: Mapping[str, str]


def _by_medium(graph: Graph, parts: Iterable[str]) -> dict[str, list[str]]:
    """For each input, the nodes that make features of it."""
    found = dict[str, list[str]]()
    for part in parts:
        fed = [graph[name].op for name in graph.feeding(part)]
        (medium,) = {op.medium for op in fed if isinstance(op, Input) and op.medium}
        found.setdefault(medium, []).append(part)
    return found


def _called(node: Node, medium: str) -> str:
    """The name that all calls of a node share."""
    return node.weights or node.name.replace(f"@{medium}", "")


def _projects(graph: Graph, chains: Mapping[str, _Chain]) -> Methods:
    """One `project` for all inputs that go the same way, one each for the others."""
    first = next(iter(chains.values()))
    methods = Methods()
    for medium, chain in chains.items():
        same = chain.made.keys() == first.made.keys() and {*chain.given.values()} == {
            *first.given.values()
        }
        if same and methods:
            continue
        rows = {
            f"{name}.{kind}": Symbol(kind)
            for kind in ("patches", "pictures")
            for name in _names_of(graph, medium)
        }
        cut = _cut(graph, chain.made, chain.given)
        methods["project" if same else f"project_{medium}"] = _renamed(cut, rows)
    return methods


def _names_of(graph: Graph, medium: str) -> list[str]:
    """The names that the sizes of an input go by: its own, and those of its views."""
    views = [
        node.name.removesuffix(".patches")
        for node in graph
        if isinstance(node.op, Input) and node.op.medium == medium
    ]
    return [medium, *views]


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
    wanted = {name: given.get(node, node) for name, node in outputs.items()}
    return drop_unused(graph.with_nodes(nodes, wanted))


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
    given = graph.change(features.name, type=rows)
    return infer(_cut(given, graph.outputs, {features.name: "features"}))


def _text_alone(graph: Graph, splice: Node) -> Graph:
    """Text behind the features: whatever took the spliced sequence takes the embedded one.

    Blocks that look at pictures go on with what their cache holds of them.
    """
    if isinstance(splice.op, Pictures):
        (blocks,) = graph.users(splice.name)
        assert isinstance(blocks.op, QueryBlocks)
        op = replace(blocks.op, use="go_on")
        return drop_unused(graph.change(blocks.name, op=op, inputs=blocks.inputs[2:]))
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

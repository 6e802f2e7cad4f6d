"""The graph: operations for nodes, values for edges.

A graph is a value: a pass makes a new one and leaves the old one as it was. Its nodes stand in an
order in which each comes after what it takes; an edge has the type of the node that it leaves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from ..dsl.source import Span
from ..dsl.stages import Lora
from .ops import Input, Operation, Param
from .types import Bounds, DType, Size, TensorType

if TYPE_CHECKING:
    import networkx

    Digraph = networkx.DiGraph[str]


@dataclass(frozen=True, slots=True)
class Node:
    """One operation, named by the path of the module that it becomes.

    `weights` names the node whose parameters it uses when it does not own them: a second call of
    the same module, or a tied head. `type` is what it yields, once types are inferred; `frozen`
    says that neither its parameters nor anything before it learns, once a stage is chosen.
    `precision` is what it computes in where parts differ in that. `loc` is the part of the recipe
    that it stands for.
    """

    name: str
    op: Operation
    inputs: tuple[str, ...] = ()
    weights: str | None = None
    type: TensorType | None = None
    frozen: bool = False
    precision: DType | None = None
    loc: Span | None = field(default=None, compare=False)

    @classmethod
    def fed(cls, name: str, type: TensorType) -> Node:
        """What the host feeds under this name."""
        return cls(name, Input(type), type=type)

    @property
    def module(self) -> str:
        """The node that owns the parameters: itself, or the one that `weights` names."""
        return self.weights or self.name

    def result(self, *inputs: TensorType) -> TensorType:
        """The type of what it yields; MisfitError when an input does not fit."""
        made = self.op.result(*inputs)
        if self.precision is None or made.dtype != "float":
            return made
        return replace(made, dtype=self.precision)

    @property
    def parameters(self) -> dict[str, Param]:
        """What it uses, by full name; empty where it has none."""
        return {f"{self.module}.{name}": param for name, param in self.op.parameters().items()}


@dataclass(frozen=True)
class Graph:
    """Nodes in order, outputs by name, and what the symbols in their types mean.

    `meaning` defines symbols by others: `image.patches` as a total over the images of a batch. What
    it does not define comes with the data.
    """

    nodes: Mapping[str, Node]
    outputs: Mapping[str, str]
    meaning: Mapping[str, Size] = field(default_factory=lambda: MappingProxyType({}))

    @classmethod
    def of(
        cls,
        nodes: Iterable[Node],
        outputs: Mapping[str, str],
        meaning: Mapping[str, Size] | None = None,
    ) -> Graph:
        """A graph of these nodes, which stand in an order that works; later names win."""
        table = {node.name: node for node in nodes}
        return cls(
            MappingProxyType(table),
            MappingProxyType(dict(outputs)),
            MappingProxyType(dict(meaning or {})),
        )

    def __iter__(self) -> Iterator[Node]:
        return iter(self.nodes.values())

    def __len__(self) -> int:
        return len(self.nodes)

    def __getitem__(self, name: str) -> Node:
        return self.nodes[name]

    def __contains__(self, name: str) -> bool:
        return name in self.nodes

    @cached_property
    def edges(self) -> Digraph:
        """The same graph for networkx: an edge from each node to each that takes its value."""
        # Imported here: a command that only reads the nodes should not wait for it (0.1 s).
        import networkx

        graph: Digraph = networkx.DiGraph()
        graph.add_nodes_from(self.nodes)
        graph.add_edges_from((source, node.name) for node in self for source in node.inputs)
        return graph

    def feeding(self, *names: str) -> frozenset[str]:
        """All nodes that these depend on, themselves included."""
        import networkx

        found = set(names)
        for name in names:
            found |= networkx.ancestors(self.edges, name)
        return frozenset(found)

    def users(self, name: str) -> tuple[Node, ...]:
        """The nodes that take the value of one, in order."""
        return tuple(node for node in self if name in node.inputs)

    def without(self, names: Iterable[str]) -> Graph:
        """The graph without some nodes, which nothing that stays may need."""
        gone = frozenset(names)
        return self.with_nodes(node for node in self if node.name not in gone)

    def with_nodes(self, nodes: Iterable[Node], outputs: Mapping[str, str] | None = None) -> Graph:
        """The graph with other nodes, and other outputs where they are given."""
        return Graph.of(nodes, self.outputs if outputs is None else outputs, self.meaning)

    def change(self, name: str, **facts: Any) -> Graph:
        """The graph with some facts of one node changed."""
        return self.with_nodes(
            replace(node, **facts) if node.name == name else node for node in self
        )

    def parameters(self) -> dict[str, Param]:
        """Every parameter that the graph uses, by full name, each once, in the order of use."""
        return {name: param for node in self for name, param in node.parameters.items()}


Methods = dict[str, Graph]
"""What a model can be asked to do: a graph for each, over one set of parameters."""


@dataclass(frozen=True)
class Program:
    """What is lowered: methods that share parameters, and what the host does around them.

    `parameters` lists each parameter of the whole model once, by its full name, also those that no
    method uses; `ties` says which name of a module stands for the parameter of another
    (`lm.head.weight` -> `lm.embed.weight`); `trained` names the parameters that learn (none for
    inference); `adapted` says which matrices add a low-rank change, of the parameters `.lora_a` and
    `.lora_b` beside them, to their own; `limits` bounds the symbols in the types of the methods;
    `spec` describes the host's part as plain JSON data.
    """

    methods: Methods
    parameters: Mapping[str, Param]
    ties: Mapping[str, str]
    trained: frozenset[str]
    adapted: Mapping[str, Lora]
    limits: Mapping[str, Bounds]
    spec: Mapping[str, Any]

"""Puts what a stage minimises in the place of the logits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

from ..graph import Graph, Node
from ..ops import Add, CrossEntropy, Embed, Head, Input, RegionWords, TakeRows
from ..types import TensorType
from .infer_shapes import infer


@dataclass(frozen=True)
class NextToken:
    """Cross entropy of the next token at the positions that the host names."""


@dataclass(frozen=True)
class MatchRegions:
    """Contrast of pooled rows of the module `regions` with words embedded by the module `words`."""

    regions: str
    words: str
    temperature: float


@dataclass(frozen=True)
class OwnRoute:
    """What has a route of its own through the model: it stands in the graph already."""


Objective = NextToken | MatchRegions | OwnRoute


@dataclass(frozen=True)
class AddLosses:
    """Adds each objective, and their sum as the output `loss`.

    The value of each is an output of its own as well: `loss.NAME`.
    """

    objectives: Mapping[str, Objective]

    def run(self, graph: Graph) -> Graph:
        """The logits are an output no longer, and the head sees only the rows that are scored."""
        nodes, outputs = list(graph), dict[str, str]()
        for name, objective in self.objectives.items():
            if isinstance(objective, NextToken):
                nodes = list(_next_token(nodes, f"loss.{name}"))
            elif isinstance(objective, MatchRegions):
                nodes += _match_regions(graph, objective, f"loss.{name}")
            outputs[f"loss.{name}"] = f"loss.{name}"
        nodes.append(Node("loss", Add(), tuple(outputs)))
        return infer(graph.with_nodes(nodes, {"loss": "loss"} | outputs))


def _next_token(nodes: list[Node], name: str) -> Iterator[Node]:
    for node in nodes:
        if not isinstance(node.op, Head):
            yield node
            continue
        (hidden,) = node.inputs
        yield Node.fed("loss.index", TensorType(("targets",), "i64"))
        yield Node(f"{node.name}.rows", TakeRows(), (hidden, "loss.index"), loc=node.loc)
        yield replace(node, inputs=(f"{node.name}.rows",))
        yield Node.fed("loss.targets", TensorType(("targets",), "i64"))
        yield Node.fed("loss.weight", TensorType(("targets",), "f32"))
        yield Node(name, CrossEntropy(), (node.name, "loss.targets", "loss.weight"))


def _match_regions(graph: Graph, objective: MatchRegions, name: str) -> Iterator[Node]:
    table, features = end_of(graph, objective.words), end_of(graph, objective.regions)
    assert table and isinstance(table.op, Embed) and features and features.type
    yield Node.fed("regions.pool", TensorType(("regions", features.type.sizes[0]), "f32"))
    yield Node.fed("regions.words", TensorType(("classes", "words"), "i64"))
    yield Node.fed("regions.word_mask", TensorType(("classes", "words"), "f32"))
    yield Node.fed("regions.target", TensorType(("regions",), "i64"))
    yield Node.fed("regions.weight", TensorType(("regions",), "f32"))
    words = Node(f"{name}.words", table.op, ("regions.words",), table.module)
    yield words
    yield Node(
        name,
        RegionWords(objective.temperature),
        (
            features.name,
            "regions.pool",
            words.name,
            "regions.word_mask",
            "regions.target",
            "regions.weight",
        ),
    )


def end_of(graph: Graph, module: str) -> Node | None:
    """The last node of the first call of a module or a part; None when there is no such thing."""
    calls = [node for node in graph if f"{node.name}.".startswith(f"{module}.")]
    return next((node for node in reversed(calls) if not isinstance(node.op, Input)), None)

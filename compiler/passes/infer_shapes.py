"""Gives every edge its type."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ...dsl.diagnostics import Diagnostic, Label, RecipeError
from ..graph import Graph, Node
from ..ops import MisfitError
from ..types import TensorType


@dataclass(frozen=True)
class InferShapes:
    """Works out the type of each node from those before it.

    A part that cannot take what another yields is the recipe's mistake: a RecipeError that points
    at both.
    """

    def run(self, graph: Graph) -> Graph:
        """From the inputs on."""
        return infer(graph)


def infer(graph: Graph) -> Graph:
    """The graph with the type of every node; a pass that adds nodes ends with it."""
    nodes = dict[str, Node]()
    for node in graph:
        given = [_type(nodes[source]) for source in node.inputs]
        try:
            nodes[node.name] = replace(node, type=node.result(*given))
        except MisfitError as misfit:
            giver = nodes[node.inputs[misfit.port]]
            raise RecipeError([_mismatch(node, giver, misfit)]) from misfit
    return graph.with_nodes(nodes.values())


def _type(node: Node) -> TensorType:
    assert node.type is not None
    return node.type


def _mismatch(taker: Node, giver: Node, misfit: MisfitError) -> Diagnostic:
    labels = []
    if taker.loc:
        labels.append(Label(taker.loc, f"`{taker.name}` takes {misfit.wanted}"))
    if giver.loc:
        labels.append(Label(giver.loc, f"`{giver.name}` yields {misfit.got}", primary=False))
    return Diagnostic(
        "S404",
        f"`{taker.name}` cannot take what `{giver.name}` yields",
        tuple(labels),
        f"it takes {misfit.wanted}, and is given {misfit.got}",
    )

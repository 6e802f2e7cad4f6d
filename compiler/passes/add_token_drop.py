"""Lets a stage leave out tokens of pictures by chance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ...dsl.diagnostics import Diagnostic, Fix, Label, RecipeError
from ..graph import Graph, Node
from ..ops import Positions, Splice, TakeTokens, VisionBlocks
from ..types import TensorType
from .infer_shapes import infer


@dataclass(frozen=True)
class AddTokenDrop:
    """Puts before a tower's blocks a choice of each picture's tokens, which the host draws.

    `rates` holds the share that is left out, by module. The class token always stays. The input is
    that of the view that the blocks see: `VIEW.kept_tokens`. RecipeError where something needs all
    tokens: positions in packed rows, a part that goes by the grid, a language model that has a
    place for each.
    """

    rates: Mapping[str, float]

    def run(self, graph: Graph) -> Graph:
        """Each call of such a module sees fewer tokens."""
        nodes, towers = list[Node](), list[Node]()
        for node in graph:
            if isinstance(node.op, VisionBlocks) and node.module in self.rates:
                if node.op.packed:
                    raise RecipeError([_needed(node)])
                towers.append(node)
                chosen = _choice(graph, node, self.rates[node.module])
                nodes += chosen
                node = replace(node, inputs=(chosen[-1].name, *node.inputs[1:]))
            nodes.append(node)
        if not towers:
            return graph
        try:
            made = infer(graph.with_nodes(nodes))
        except RecipeError as misfit:
            raise RecipeError([_needed(towers[0])]) from misfit
        if _placed(made) != _placed(graph):
            raise RecipeError([_needed(towers[0])])
        return made


def _choice(graph: Graph, node: Node, rate: float) -> tuple[Node, Node]:
    """What the host feeds, and the tokens that are left."""
    before = graph[node.inputs[0]]
    assert before.type
    pictures, tokens, _ = before.type.sizes
    assert isinstance(tokens, int)
    above = [graph[name] for name in graph.feeding(node.name)]
    always = int(any(isinstance(one.op, Positions) and one.op.class_token for one in above))
    kept = always + max(1, round((tokens - always) * (1 - rate)))
    (patches,) = (one.name for one in above if one.name.endswith(".patches"))
    feed = f"{patches.removesuffix('.patches')}.kept_tokens"
    take = TakeTokens(tokens, kept, always)
    return (
        Node.fed(feed, TensorType((pictures, kept), "i64")),
        Node(f"{node.name}.kept", take, (before.name, feed), loc=node.loc),
    )


def _placed(graph: Graph) -> list[TensorType | None]:
    """The features that language models have places for."""
    return [graph[node.inputs[1]].type for node in graph if isinstance(node.op, Splice)]


def _needed(tower: Node) -> Diagnostic:
    return Diagnostic(
        "F613",
        f"the tokens of `{tower.name.partition('.')[0]}` cannot be left out in this stage",
        (Label(tower.loc, "of this tower"),) if tower.loc else (),
        "what comes after it needs all of them: a grid, or a place for each in the text",
        Fix("drop `drop_tokens`, or put a part with queries of its own behind the tower"),
    )

"""What a stage can keep of its pictures: the values of a part of the model, picture by picture.

A stage names what it keeps; with it comes all that this is made from.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from ..dsl.kinds import Selector
from .graph import Graph, Node
from .ops import Input, SamBlocks, Tap, VisionBlocks

Blocks = VisionBlocks | SamBlocks
"""Operations that can be cut between two of their blocks."""


def chosen(node: Node, selectors: Iterable[Selector]) -> frozenset[str]:
    """The parameters of a node that are named."""
    selectors = tuple(selectors)
    return frozenset(name for name in node.parameters if any(s.matches(name) for s in selectors))


def end_in(node: Node, selectors: Sequence[Selector]) -> int | None:
    """Behind which block of a tower the selectors end, from 1; None where they end elsewhere."""
    if not isinstance(node.op, Blocks) or node.op.taps:
        return None
    named = chosen(node, selectors)
    inside = [
        {name for name in node.parameters if name.startswith(f"{node.module}.{block}.")}
        for block in range(node.op.depth)
    ]
    whole = [block for block, names in enumerate(inside) if names <= named]
    if not whole or named != {name for block in whole for name in inside[block]}:
        return None
    return whole[-1] + 1


def kept_nodes(graph: Graph, selectors: Sequence[Selector]) -> frozenset[str]:
    """The nodes that are named, and all that they are made from; of a tower, what it is tapped for.

    Towers that are named in part have been cut before (`SplitBlocks`).
    """
    named = graph.feeding(*(node.name for node in graph if chosen(node, selectors)))
    tapped = {node.name for node in graph if isinstance(node.op, Tap) and node.inputs[0] in named}
    return named | tapped


def handed_on(graph: Graph, nodes: Iterable[str]) -> dict[str, str | None]:
    """The nodes whose values others take, each with the one input that it sees, if it is one."""
    nodes, ends = frozenset(nodes), frozenset(graph.outputs.values())
    views = media_of_views(graph)
    found = dict[str, str | None]()
    for name in (node.name for node in graph if node.name in nodes):
        if isinstance(graph[name].op, Input):
            continue
        if name in ends or any(user.name not in nodes for user in graph.users(name)):
            fed = [one for one in graph.feeding(name) if isinstance(graph[one].op, Input)]
            media = {views.get(one.rpartition(".")[0]) for one in fed}
            found[name] = media.pop() if len(media) == 1 else None
    return found


def media_of_views(graph: Graph) -> Mapping[str, str]:
    """From what the inputs of a tower begin with, such as `image`, to the recipe's input."""
    return {
        node.name.rpartition(".")[0]: node.op.medium
        for node in graph
        if isinstance(node.op, Input) and node.op.medium
    }

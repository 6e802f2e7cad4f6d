"""Removes what no output needs."""

from __future__ import annotations

from dataclasses import dataclass, replace

from ..graph import Graph
from ..types import symbols


@dataclass(frozen=True)
class DropUnused:
    """Removes every operation from which no output can be reached, and what only its type used."""

    def run(self, graph: Graph) -> Graph:
        """Keep what feeds an output."""
        return drop_unused(graph)


def drop_unused(graph: Graph) -> Graph:
    """The graph without what no output needs; a pass that cuts ends with it."""
    needed = graph.feeding(*graph.outputs.values())
    return drop_unused_sizes(graph.without(set(graph.nodes) - needed))


def drop_unused_sizes(graph: Graph) -> Graph:
    """The graph with those definitions of symbols that its types, or one another, use."""
    sizes = [size for node in graph if node.type for size in node.type.sizes]
    wanted, used = [name for size in sizes for name in symbols(size)], set[str]()
    while wanted:
        name = wanted.pop()
        if name in graph.meaning and name not in used:
            used.add(name)
            wanted += symbols(graph.meaning[name])
    meaning = {name: size for name, size in graph.meaning.items() if name in used}
    return replace(graph, meaning=meaning)

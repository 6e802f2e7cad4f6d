"""Says how many rows and tokens each input takes, as closed forms of its size."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

from ..graph import Graph
from ..types import Size
from .drop_unused import drop_unused_sizes


@dataclass(frozen=True)
class PlaceTokens:
    """Defines the symbols in the types of the graph that the sizes of the inputs decide.

    `meaning` comes from `tokens.meaning_of`: `image.patches` as a total over the images of a batch.
    """

    meaning: Mapping[str, Size]

    def run(self, graph: Graph) -> Graph:
        """Keep the definitions that the graph uses."""
        return drop_unused_sizes(replace(graph, meaning=self.meaning))

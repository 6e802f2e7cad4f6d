"""Figures that a recipe does not write but that follow from it, told as `why` tells a value."""

from __future__ import annotations

from ..dsl.parse import parse_amendments
from ..dsl.recipe import Recipe
from ..dsl.source import Source
from ..dsl.why import Link, chain
from .build import reach
from .proofs.assertions import quantity
from .yields import views


def figure(recipe: Recipe, path: str) -> list[Link]:
    """The chain of the most tokens of a part or an input, `vit.tokens`; empty for anything else."""
    block, _, name = path.partition(".")
    if name != "tokens" or block not in recipe.inputs | recipe.encoders | recipe.adapters:
        return []
    (asked,) = parse_amendments(Source("PATH", f"this.figure = {path}"))
    most = quantity(recipe, asked.value)
    media = [medium for medium in reach(recipe)[block] if views(recipe, medium)]
    note = f"the most that one item of {' or '.join(media)} can become, whatever its size"
    found = [Link("is", 0, path, str(most), "counted", "", "", "", None, note=note)]
    for medium in media:
        for setting in ("aspect", "resize", "frames"):
            if recipe.origin(f"{medium}.{setting}"):
                found += chain(recipe, f"{medium}.{setting}", below=1)
    return found

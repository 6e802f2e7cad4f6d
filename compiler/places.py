"""Where in a recipe a proof points when it fails."""

from __future__ import annotations

from ..dsl.diagnostics import Label, is_own
from ..dsl.recipe import Recipe


def labels(recipe: Recipe, *places: tuple[str, str]) -> tuple[Label, ...]:
    """A label for each (path, what is to be seen there); the first is the primary one.

    A path that stands nowhere in the text, as in a recipe that a program made, is left out.
    """
    found = [(recipe.span(path), text) for path, text in places]
    return tuple(
        Label(span, text, primary=number == 0) for number, (span, text) in enumerate(found) if span
    )


def changed(recipe: Recipe, block: str) -> str:
    """The setting by which the recipe itself first changes a block of its base, else the block."""
    named, stated = recipe.span(""), recipe.span(block)
    if named is None or stated is None or is_own(stated, named.source):
        return block
    within = {p: s for p, s in recipe.facts.spans.items() if p.startswith(f"{block}.")}
    return next((path for path, span in within.items() if is_own(span, named.source)), block)

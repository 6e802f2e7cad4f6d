"""Where the files lie that a recipe names."""

from __future__ import annotations

from pathlib import Path

from ..blocks.input.writing import vocabulary_file
from ..dsl.recipe import Recipe


class ResourceError(Exception):
    """A file that the recipe names is nowhere to be found."""


def resources(recipe: Recipe, *beside: Path) -> Path | None:
    """The folder that has the recipe's vocabulary; None when it ships with triptych.

    It is looked for in the folder of the recipe that names it, then in those `beside`: the data it
    was made from, or the run whose weights know it. ResourceError names the folders.
    """
    assert recipe.tokens
    tokenizer = recipe.tokens.tokenizer.model_dump()
    span = recipe.span("tokens.tokenizer")
    folders = [*([Path(span.source.name).parent] if span else []), *beside]
    for folder in folders:
        if vocabulary_file(tokenizer, folder).is_relative_to(folder):
            return folder
    shipped = vocabulary_file(tokenizer)
    if shipped.is_file():
        return None
    looked = ", ".join(dict.fromkeys(map(str, folders)))
    raise ResourceError(
        f"the vocabulary {shipped.name} of {recipe.name} is in none of: {looked}. Put it there, or "
        "name with --weights the run that it was trained with"
    )

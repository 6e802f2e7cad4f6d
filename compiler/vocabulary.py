"""Where the file of a recipe's tokenizer lies on this machine, before any data or weights do."""

from __future__ import annotations

import os
from collections.abc import Iterator
from glob import escape
from pathlib import Path

from ..blocks.input.writing import vocabulary_file
from ..dsl.recipe import Recipe
from .pieces import KINDS, Pieces


def pieces_of(recipe: Recipe) -> Pieces | None:
    """The tokens of its vocabulary; None where the file is not at hand, or cannot be read.

    It is looked for beside the recipe, among those that ship, and in the cache of the Hugging Face
    hub under the names that the weights have there. Nothing is fetched.
    """
    assert recipe.tokens
    said = recipe.tokens.tokenizer.model_dump()
    for folder in _folders(recipe):
        try:
            file = vocabulary_file(said, folder)
            if not file.is_file():
                continue
            return KINDS[said["call"]](file)
        except (OSError, ValueError, RuntimeError, KeyError):
            return None  # training and inference say what is wrong with the file
    return None


def _folders(recipe: Recipe) -> Iterator[Path]:
    span = recipe.span("tokens.tokenizer")
    if span:
        yield Path(span.source.name).parent
    for source in recipe.weights.from_ if recipe.weights else ():
        yield from _cached(source.repository)


def _cached(repository: str) -> Iterator[Path]:
    """The snapshots of a repository in the hub's cache."""
    home = Path(os.environ.get("HF_HOME") or "~/.cache/huggingface").expanduser()
    hub = Path(os.environ.get("HF_HUB_CACHE") or home / "hub")
    name = escape(repository.replace("/", "--"))
    yield from sorted(hub.glob(f"models--{name}/snapshots/*"))

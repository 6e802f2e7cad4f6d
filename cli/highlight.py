"""Recipes and commands in the colours of a terminal."""

from __future__ import annotations

from rich.text import Text

from ..dsl.explain import Sample
from ..dsl.whole import NAMED_BLOCKS, SINGLE_BLOCKS

_VERBS = ("amend", "add", "replace", "drop")
_WORDS = ("recipe", "extends", "import", "assert", "special", "map", "fresh", "ignore", *_VERBS)
# Later rules paint over earlier ones, so that a string or a comment keeps what stands in it plain.
_COLOURS = (
    (r"\b\d[\d.]*(e-?\d+)?\w*", "cyan"),
    (rf"\b({'|'.join((*_WORDS, *SINGLE_BLOCKS, *NAMED_BLOCKS))})\b(?!\s*[=:(])", "bold magenta"),
    (r"\b\w+(?=\s*=)", "blue"),
    (r'"(\\.|[^"\\\n])*"', "not bold green"),
    (r"(?m)#.*$", "not bold bright_black"),
)


def highlighted(sample: Sample) -> Text:
    """The text of a sample, coloured if it is a recipe."""
    text = Text(sample.text.rstrip("\n"))
    if sample.language == "vlm":
        for pattern, style in _COLOURS:
            text.highlight_regex(pattern, style)
    return text

"""Where a name is declared, and every place that speaks of it."""

from __future__ import annotations

from collections.abc import Iterator

from ...dsl.diagnostics import RecipeError
from ...dsl.source import Span
from .desk import Desk, Reading, path_of
from .symbols import Mention

Identity = tuple[object, ...]
"""What tells two things of one name apart: where the first of their declarations stands."""


def definition(reading: Reading, offset: int) -> Span | None:
    """Where the thing at an offset is declared; at a change of it, where what it changes stands."""
    mention = reading.mention_at(offset)
    return mention.declared.last if mention else None


def identity(mention: Mention) -> Identity:
    """What all mentions of one thing share."""
    first = mention.declared.first
    return mention.key[0], mention.key[-1], path_of(first.source), first.start


def uses(desk: Desk, mention: Mention) -> Iterator[tuple[Reading, Mention]]:
    """Every place that speaks of what a mention does, in all files that can be seen."""
    wanted = identity(mention)
    name = mention.span.text
    for path in {path_of(mention.declared.first.source): None, **dict.fromkeys(desk.neighbours())}:
        try:
            if name not in desk.text(path):
                continue
            reading = desk.reading(path)
        except RecipeError:
            continue  # a file that is gone
        for other in reading.mentions:
            if identity(other) == wanted:
                yield reading, other

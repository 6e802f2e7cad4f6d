"""Boxes of an answer, for eyes: as lines, and drawn on the picture that they lie in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..blocks.input.places import Box, Place, Quad

COLOURS = ("#e6194b", "#3cb44b", "#4363d8", "#f58231", "#911eb4", "#008080")


class Corners(click.ParamType[tuple[float, float, float, float]]):
    """`LEFT,TOP,RIGHT,BOTTOM` in pixels of the picture."""

    name = "LEFT,TOP,RIGHT,BOTTOM"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[float, float, float, float]:
        """The four numbers."""
        try:
            left, top, right, bottom = map(float, str(value).split(","))
        except ValueError:
            self.fail(f"{value!r} is not four numbers with commas between them", param, ctx)
        return left, top, right, bottom


def found(
    read: Callable[[str, tuple[int, int]], Sequence[str | Place]], answer: str, picture: Path
) -> list[tuple[str, Box | Quad]]:
    """What an answer about a picture points at: the words for it, if any, and where it is.

    `read` finds the parts of an answer about a picture of a size, as a processor does.
    """
    from PIL import Image

    from ..blocks.input.places import named

    with Image.open(picture) as opened:
        return named(read(answer, opened.size))


def in_words(name: str, place: Box | Quad) -> str:
    """A place in words."""
    where = ", ".join(f"{number:.0f}" for number in place.corners)
    return f"{name or 'something'}: {where}"


def draw_places(picture: Path, places: Sequence[tuple[str, Box | Quad]], file: Path) -> None:
    """Write the picture with an outline around each place, and its name beside it."""
    from PIL import Image, ImageDraw

    from ..blocks.input.places import Box

    with Image.open(picture) as opened:
        shown = opened.convert("RGB")
    pen = ImageDraw.Draw(shown)
    width = max(1, round(max(shown.size) / 200))
    for number, (name, place) in enumerate(places):
        points = list(zip(place.corners[::2], place.corners[1::2], strict=True))
        if isinstance(place, Box):
            (left, top), (right, bottom) = points
            points = [(left, top), (right, top), (right, bottom), (left, bottom)]
        colour = COLOURS[number % len(COLOURS)]
        pen.line([*points, points[0]], fill=colour, width=width)
        pen.text((points[0][0] + width + 1, points[0][1] + width), name, fill=colour)
    shown.save(file)

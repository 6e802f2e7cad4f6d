"""What pictures, or clips of one length, take over a range of sizes: rows of heights."""

from __future__ import annotations

import re
from collections.abc import Sequence

import click

from ..dsl.recipe import Recipe
from ..dsl.texts import Layout
from .output import table

MOST_SIDES = 32
"""So many columns are as much as a person reads."""
RECORDED = 30.0
"""Frames a second of a clip where none are given: no recipe samples more."""


def sides_of(context: click.Context, option: click.Parameter, given: str | None) -> list[int]:
    """The sides that `224..2048:224` names, both ends included where they are met."""
    if given is None:
        return []
    match = re.fullmatch(r"([1-9]\d{0,6})\.\.([1-9]\d{0,6}):([1-9]\d{0,6})", given)
    if match is None or int(match[1]) > int(match[2]):
        raise click.BadParameter(f"{given!r} is no range of sides; write 224..2048:224")
    sides = list(range(int(match[1]), int(match[2]) + 1, int(match[3])))
    if len(sides) > MOST_SIDES:
        raise click.BadParameter(f"{given!r} has {len(sides)} sides; {MOST_SIDES} at most")
    return sides


def counts(
    recipe: Recipe, layout: Layout, sides: Sequence[int], seconds: float | None
) -> list[list[int | None]]:
    """The most tokens, tags included, by height and width; None where the recipe refuses one."""
    from ..blocks.input.sizes import SizeError
    from ..compiler.tokens import counted

    medium = "image" if seconds is None else "video"
    recorded = (1, 1.0) if seconds is None else (round(seconds * RECORDED), RECORDED)

    def count(width: int, height: int) -> int | None:
        try:
            return counted(recipe, layout, medium, (width, height), recorded).tagged.most
        except SizeError:
            return None

    return [[count(width, height) for width in sides] for height in sides]


def show(sides: Sequence[int], found: Sequence[Sequence[int | None]]) -> None:
    """Print it: widths along the top, heights down the side, a dash for what is refused."""
    rows = [
        [f"{height:,}", *("-" if count is None else f"{count:,}" for count in row)]
        for height, row in zip(sides, found, strict=True)
    ]
    table(rows, ("height \\ width", *(f"{side:,}" for side in sides)))

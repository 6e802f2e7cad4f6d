"""`triptych tokens`: how many tokens pictures and clips take."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..dsl.load import load_recipe
from ..dsl.recipe import Recipe
from ..dsl.texts import Layout
from .output import amend_option, echo_json, heading, json_option, table

if TYPE_CHECKING:
    from ..compiler.tokens import Counted

EXAMPLES = """\b
Examples:
  triptych tokens qwen2_vl_7b                                  the closed forms, and their bounds
  triptych tokens qwen2_vl_7b --image 224x224 --image 1280x720
  triptych tokens qwen2_vl_7b --video 1920x1080,60s --video 1280x720,10s@24fps
  triptych tokens qwen2_vl_7b --video 1920x1080,60s --set video.resize.clip=24576tok
"""


RECORDED = 30.0
"""Frames a second of a clip where none are given: no recipe samples more."""


def _sizes(
    context: click.Context, option: click.Parameter, given: Sequence[str]
) -> list[tuple[int, int]]:
    """Each `WxH` as width and height."""
    found = []
    for text in given:
        match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", text)
        if match is None:
            raise click.BadParameter(f"{text!r} is no size; write 1280x720", context, option)
        found.append((int(match[1]), int(match[2])))
    return found


def _clips(
    context: click.Context, option: click.Parameter, given: Sequence[str]
) -> list[tuple[int, int, float, float]]:
    """Each `WxH,SECONDSs[@FPSfps]` as width, height, seconds, and frames a second."""
    found = []
    for text in given:
        match = re.fullmatch(
            r"([1-9]\d{0,6})x([1-9]\d{0,6}),(\d+(?:\.\d+)?)s(?:@(\d+(?:\.\d+)?)fps)?", text
        )
        if match is None:
            raise click.BadParameter(
                f"{text!r} is no clip; write 1280x720,10s or 1280x720,10s@24fps", context, option
            )
        seconds, rate = float(match[3]), float(match[4] or RECORDED)
        if not seconds * rate:
            raise click.BadParameter(f"{text!r} has no frames", context, option)
        found.append((int(match[1]), int(match[2]), seconds, rate))
    return found


@click.command("tokens", epilog=EXAMPLES)
@click.argument("recipe")
@click.option(
    "--image",
    "images",
    multiple=True,
    metavar="WxH",
    callback=_sizes,
    help="A picture, in pixels. Repeatable.",
)
@click.option(
    "--video",
    "videos",
    multiple=True,
    metavar="WxH,SECONDSs[@FPSfps]",
    callback=_clips,
    help="A clip. Repeatable.",
)
@click.option("--layout", help="The layout whose tags are counted; by default the first.")
@amend_option
@json_option
def tokens_command(
    recipe: str,
    images: Sequence[tuple[int, int]],
    videos: Sequence[tuple[int, int, float, float]],
    layout: str | None,
    amend: Sequence[str],
    as_json: bool,
) -> None:
    """Count the tokens that pictures and clips take in RECIPE.

    Without a picture or a clip, prints the closed forms and their bounds. A recipe's rule that
    refuses a size says so; the exit code is 1 then.
    """
    from ..blocks.input.sizes import SizeError
    from ..compiler.tokens import counted, placed

    loaded = load_recipe(recipe, amend=amend)
    if not loaded.layouts:
        raise click.ClickException(f"{recipe} has no layout, so nothing says what tokens it takes")
    if layout is not None and layout not in loaded.layouts:
        known = ", ".join(loaded.layouts)
        raise click.UsageError(f"{recipe} has no layout {layout}; it has {known}.")
    name = layout or next(iter(loaded.layouts))
    for medium, wanted in (("image", images), ("video", videos)):
        if wanted and medium not in placed(loaded, [loaded.layouts[name]]):
            raise click.ClickException(f"layout {name} of {recipe} places no {medium}")
    rules = loaded.layouts[name]
    try:
        items = [counted(loaded, rules, "image", size) for size in images]
        items += [
            counted(loaded, rules, "video", (w, h), (round(seconds * rate), rate))
            for w, h, seconds, rate in videos
        ]
    except SizeError as error:
        raise click.ClickException(str(error)) from error
    if as_json:
        forms = {medium: form for medium, form, _ in _forms(loaded, rules)}
        echo_json({"layout": name, "forms": forms, "items": [asdict(item) for item in items]})
    elif items:
        _show(items)
    else:
        for medium, form, limits in _forms(loaded, rules):
            heading(f"{medium}: {limits}")
            click.echo(f"  {form}")


def _forms(recipe: Recipe, layout: Layout) -> Iterator[tuple[str, str, str]]:
    """For each input of a layout: its name, its tokens with tags in closed form, their bounds."""
    from ..compiler.tokens import domain, item_cost, placed
    from ..compiler.types import bounds

    for medium in placed(recipe, [layout]):
        cost = item_cost(recipe, layout, medium)
        found = bounds(cost.places, domain(recipe))
        most = "any number" if found.most is None else f"{found.most:,}"
        text = "" if cost.is_exact else f", and {cost.text} of text"
        yield medium, str(cost.places), f"{found.least:,} to {most} tokens with tags{text}"


def _show(items: Sequence[Counted]) -> None:
    rows = []
    for item in items:
        width, height = item.size
        tagged = item.tagged
        exact = tagged.least == tagged.most
        rows.append(
            (
                item.medium,
                f"{width}x{height}",
                f"{item.frames}",
                f"{item.pictures}",
                f"{item.resized[0]}x{item.resized[1]}",
                ",".join(map(str, item.grid)),
                f"{item.patches:,}",
                f"{item.tokens:,}",
                f"{tagged.least:,}" if exact else f"{tagged.least:,}..{tagged.most:,}",
            )
        )
    table(
        rows,
        (
            "input",
            "size",
            "frames",
            "pictures",
            "resized",
            "grid t,h,w",
            "patches",
            "tokens",
            "tagged",
        ),
    )

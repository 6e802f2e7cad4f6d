"""What commands share that are asked about pictures and clips of given sizes."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import click

from .token_table import RECORDED


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


image_option = click.option(
    "--image",
    "images",
    multiple=True,
    metavar="WxH",
    callback=_sizes,
    help="A picture, in pixels. Repeatable.",
)
video_option = click.option(
    "--video",
    "videos",
    multiple=True,
    metavar="WxH,SECONDSs[@FPSfps]",
    callback=_clips,
    help="A clip. Repeatable.",
)


@contextmanager
def sizes_refused() -> Iterator[None]:
    """What the recipe says of a size that it refuses, as an error of the command."""
    from ..blocks.input.sizes import SizeError

    try:
        yield
    except SizeError as error:
        raise click.ClickException(str(error)) from error

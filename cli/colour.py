"""When to print in colour: on a terminal, unless `--color`, NO_COLOR or FORCE_COLOR says else."""

from __future__ import annotations

import os
import sys
from typing import TextIO

import click


def wants_colour(stream: TextIO) -> bool:
    """Whether what is written to a stream is coloured."""
    if os.environ.get("NO_COLOR"):
        return False
    if os.environ.get("FORCE_COLOR"):
        return True
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def _choose(context: click.Context, parameter: click.Parameter, choice: str) -> None:
    """Say it where this command and the libraries that draw for it look: in the environment."""
    if choice != "auto":
        os.environ.pop("NO_COLOR", None)
        os.environ.pop("FORCE_COLOR", None)
        os.environ["NO_COLOR" if choice == "never" else "FORCE_COLOR"] = "1"
    context.color = wants_colour(sys.stdout)


color_option = click.option(
    "--color",
    type=click.Choice(["auto", "always", "never"]),
    default="auto",
    show_default=True,
    expose_value=False,
    callback=_choose,
    help="When to print in colour; auto: on a terminal, unless NO_COLOR is set.",
)

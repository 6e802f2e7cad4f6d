"""What commands share: the option `--set`, and tables, drawn for a person or plain for a pipe."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from typing import Any

import click

amend_option = click.option(
    "--set",
    "amend",
    multiple=True,
    metavar="PATH=VALUE",
    help="Lay a setting over the recipe, as in `lm.depth=2`. Repeatable.",
)
json_option = click.option("--json", "as_json", is_flag=True, help="Plain data for a program.")


def echo_json(data: Any) -> None:
    """Print data as JSON that a person can read as well."""
    click.echo(json.dumps(data, indent=2, ensure_ascii=False))


def heading(text: str) -> None:
    """Print a line that begins a section."""
    click.secho(text, bold=True)


def table(rows: Sequence[Sequence[str]], header: Sequence[str] = ()) -> None:
    """Print rows in columns; columns whose cells are all numbers are aligned to the right."""
    cells = [*([header] if header else []), *rows]
    if not cells:
        return
    columns = range(max(map(len, cells)))
    right = [all(_is_number(row[i]) for row in rows if i < len(row)) for i in columns]
    if sys.stdout.isatty():
        _draw(rows, header, right)
        return
    widths = [max(len(row[i]) for row in cells if i < len(row)) for i in columns]
    for row in cells:
        padded = [
            cell.rjust(widths[i]) if right[i] else cell.ljust(widths[i])
            for i, cell in enumerate(row)
        ]
        click.echo("  ".join(padded).rstrip())


def _draw(rows: Sequence[Sequence[str]], header: Sequence[str], right: Sequence[bool]) -> None:
    """The same, with the terminal's width and colours."""
    from rich.console import Console
    from rich.table import Table

    drawn = Table(*header, box=None, show_header=bool(header), header_style="bold", pad_edge=False)
    for index, is_right in enumerate(right):
        if not header:
            drawn.add_column()
        drawn.columns[index].justify = "right" if is_right else "left"
    for row in rows:
        drawn.add_row(*row)
    Console(highlight=False, markup=False).print(drawn)


def _is_number(cell: str) -> bool:
    return not cell or cell.replace(",", "").lstrip("-+").isdigit()

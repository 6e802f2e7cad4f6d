"""`triptych fmt`: write recipe files in the one canonical form."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

import click

from ..dsl.format import format_text
from ..dsl.load import read_text, write_text

EXAMPLES = """\b
Examples:
  triptych fmt my_model.vlm           rewrite the file
  triptych fmt --check recipes/*.vlm  exit 1 when a file would change
  triptych fmt --diff my_model.vlm    show the change, write nothing
"""


@click.command("fmt", epilog=EXAMPLES)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when a file would change.")
@click.option("--diff", is_flag=True, help="Write nothing; show what would change.")
@click.pass_context
def fmt_command(context: click.Context, files: Sequence[str], check: bool, diff: bool) -> None:
    """Format recipe files.

    Every comment stays, and so does what the recipe means. There are no options to choose a style.
    """
    changed = False
    for name in files:
        path = Path(name)
        before = read_text(path)
        after = format_text(before, name)
        if after == before:
            continue
        changed = True
        if diff:
            lines = difflib.unified_diff(
                before.splitlines(keepends=True), after.splitlines(keepends=True), name, name
            )
            click.echo("".join(lines), nl=False)
        elif check:
            click.echo(f"{name}: would be formatted")
        else:
            write_text(path, after)
            click.echo(f"{name}: formatted")
    context.exit(1 if changed and check else 0)

"""`triptych fmt`: write recipe files in the one canonical form."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ..dsl.diagnostics import Diagnostic, RecipeError
from ..dsl.files import read_text, write_text
from ..dsl.format import format_text
from .fixing import echo_diff, unified

STDIN = "-"
EXAMPLES = """\b
Examples:
  triptych fmt my_model.vlm           rewrite the file
  triptych fmt --check recipes/*.vlm  exit 1 when a file would change
  triptych fmt --diff my_model.vlm    show the change, write nothing; exit 1 when there is one
  triptych fmt - < my_model.vlm       from standard input to standard output, for editors
"""


@click.command("fmt", epilog=EXAMPLES)
@click.argument("files", nargs=-1, required=True, metavar="FILE...")
@click.option("--check", is_flag=True, help="Write nothing; exit 1 when a file would change.")
@click.option("--diff", is_flag=True, help="The same, and show what would change.")
@click.pass_context
def fmt_command(context: click.Context, files: Sequence[str], check: bool, diff: bool) -> None:
    """Format recipe files; `-` is standard input, whose form goes to standard output.

    Every comment stays, and so does what the recipe means. There are no options to choose a style.
    A file that does not follow the grammar is left as it is, and the others are formatted.
    """
    changed = False
    wrong: list[Diagnostic] = []
    for name in files:
        try:
            before = _read(name)
            after = format_text(before, name)
        except RecipeError as error:
            wrong += error.diagnostics
            continue
        changed |= after != before
        if name == STDIN and not (check or diff):
            click.echo(after, nl=False)
        elif after == before:
            continue
        elif diff:
            echo_diff(unified(before, after, name))
        elif check:
            click.echo(f"{name}: would be formatted")
        else:
            write_text(Path(name), after)
            click.echo(f"{name}: formatted")
    if wrong:
        raise RecipeError(wrong)
    context.exit(1 if changed and (check or diff) else 0)


def _read(name: str) -> str:
    if name != STDIN:
        return read_text(Path(name))
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError:
        reason = "it is not UTF-8 text"
        raise RecipeError([Diagnostic("E107", "- cannot be read", reason=reason)]) from None

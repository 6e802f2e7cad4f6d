"""`triptych diff`: how two recipes differ."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click

from ..dsl.load import load_recipe
from .output import amend_option, echo_json, json_option, table

if TYPE_CHECKING:
    from ..compiler.diff import Difference

EXAMPLES = """\b
Examples:
  triptych diff qwen2_vl_7b qwen2_vl_2b
  triptych diff my.vlm my.vlm --set lm.depth=4    what a change would do
"""


@click.command("diff", epilog=EXAMPLES)
@click.argument("old")
@click.argument("new")
@amend_option
@json_option
@click.pass_context
def diff_command(
    context: click.Context, old: str, new: str, amend: Sequence[str], as_json: bool
) -> None:
    """Show how the model of recipe NEW differs from that of OLD.

    Edits are grouped by what they touch: weights, tokens, prompts, numerics, stages. The table says
    how many parameters NEW can take from a checkpoint of OLD, by published name and shape. `--set`
    lays settings over NEW. The exit code is 0 when nothing differs and 1 when something does.
    """
    from ..compiler.diff import diff

    found = diff(load_recipe(old), load_recipe(new, amend=amend))
    if as_json:
        echo_json(found.to_json())
    else:
        _show(found)
    context.exit(1 if found else 0)


def _show(found: Difference) -> None:
    rows = []
    for edit in found.edits:
        if edit.old is None:
            change = f"(new) {edit.new}".rstrip()
        elif edit.new is None:
            change = f"(gone) {edit.old}".rstrip()
        else:
            change = f"{edit.old} -> {edit.new}{' (derived)' if edit.derived else ''}"
        rows.append((edit.group, edit.path, change))
    table(rows)
    if found.same:
        column = max((len(row[0]) for row in rows), default=len("SAME"))
        click.echo(f"{'SAME':<{column}}  {', '.join(found.same)}")
    click.echo()
    counts = [[part.old, part.new, part.reusable] for part in found.parts]
    named = dict(zip([part.name for part in found.parts], counts, strict=True))
    named["total"] = [sum(column) for column in zip(*counts, strict=True)]
    table(
        [(name, *(f"{number:,}" for number in numbers)) for name, numbers in named.items()],
        ("part", found.old, found.new, "reusable"),
    )

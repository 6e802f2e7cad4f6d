"""`triptych list`: the recipes that ship."""

from __future__ import annotations

import click

from ..dsl.files import shipped_recipes, title_of
from ..dsl.load import load_recipe


@click.command("list")
def list_command() -> None:
    """List the recipes that ship.

    Each with its number of parameters and the first sentence of its opening comment.
    """
    from ..compiler.pipeline import model
    from ..compiler.plan import count

    rows = [
        (name, f"{count(model(load_recipe(name)).parameters()):,}", title_of(name))
        for name in shipped_recipes()
    ]
    widths = [max(len(row[column]) for row in rows) for column in (0, 1)]
    for name, parameters, title in rows:
        click.echo(f"{name:<{widths[0]}}  {parameters:>{widths[1]}}  {title}".rstrip())

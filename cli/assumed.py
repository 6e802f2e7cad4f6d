"""`triptych assumed`: what a recipe says though no publication does."""

from __future__ import annotations

from collections.abc import Sequence

import click

from ..dsl.assumed import assumed
from ..dsl.files import shipped_recipes
from ..dsl.load import load_recipe
from ..dsl.recipe import Recipe
from ..dsl.worth import at
from .output import amend_option, echo_json, heading, json_option, table

EXAMPLES = """\b
Examples:
  triptych assumed qwen2_vl_7b        one row a value: path, value, where it stands
  triptych assumed --all              of every recipe that ships
  triptych assumed my.vlm --json
"""


@click.command("assumed", epilog=EXAMPLES)
@click.argument("recipes", nargs=-1, metavar="RECIPE...")
@click.option("--all", "shipped", is_flag=True, help="Every recipe that ships.")
@amend_option
@json_option
def assumed_command(
    recipes: Sequence[str], shipped: bool, amend: Sequence[str], as_json: bool
) -> None:
    """List the values of a RECIPE that are written `assumed(...)`: its source does not say them.

    Each is an author's choice that a reproduction may get wrong. `triptych why RECIPE PATH` says
    more of one.
    """
    if not recipes and not shipped:
        raise click.UsageError("Name a recipe, or say --all.")
    names = [*recipes, *(shipped_recipes() if shipped else ())]
    found = {name: _rows(load_recipe(name, amend=amend)) for name in names}
    if as_json:
        keys = ("path", "value", "file", "line", "recipe")
        data = {
            name: [dict(zip(keys, row, strict=True)) for row in rows]
            for name, rows in found.items()
        }
        echo_json(data if len(data) > 1 or shipped else data[names[0]])
        return
    for number, (name, rows) in enumerate(found.items()):
        if len(found) > 1:
            if number:
                click.echo()
            heading(f"{name}: {len(rows)} assumed")
        table([(path, value, f"{file}:{line}") for path, value, file, line, _ in rows])


def _rows(recipe: Recipe) -> list[tuple[str, str, str, int, str]]:
    """Path, value, file, line and the recipe that wrote it, in the order of the recipe."""
    rows = []
    for path in assumed(recipe):
        origin = recipe.origin(path)
        assert origin and origin.span
        file, line = origin.span.source.name, origin.span.place.line
        rows.append((path, str(at(recipe, path)), file, line, origin.recipe))
    return rows

"""`triptych check`: prove what can be proved about recipes, before a weight is loaded."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import click

from ..dsl.assumed import assumed
from ..dsl.diagnostics import Diagnostic, RecipeError, ansi, message, plain, read_more
from ..dsl.files import shipped_recipes
from ..dsl.load import Shelf, load_recipe, recipes_of
from ..dsl.recipe import Recipe
from .colour import wants_colour
from .output import amend_option, echo_json

EXAMPLES = """\b
Examples:
  triptych check my_model.vlm                  every recipe of the file
  triptych check my_model.vlm:small            one of them
  triptych check qwen2_vl_7b --set lm.depth=2  as if the recipe said so
  triptych check --all                         every recipe that ships
  triptych check my_model.vlm --diff           what --fix would change
  triptych check qwen2_vl_2b --weights DIR     and whether a checkpoint fits its map
  triptych check *.vlm --format sarif          for a code-scanning service
"""


@dataclass(frozen=True, slots=True)
class Checked:
    """What came of one recipe; `recipe` is None where it is wrong."""

    name: str
    recipe: Recipe | None
    diagnostics: Sequence[Diagnostic]


@click.command("check", epilog=EXAMPLES)
@click.argument("recipes", nargs=-1, metavar="RECIPE...")
@click.option("--all", "shipped", is_flag=True, help="Check every recipe that ships.")
@amend_option
@click.option(
    "--format",
    "form",
    type=click.Choice(["text", "json", "sarif"]),
    default="text",
    show_default=True,
    help="How findings are printed.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path, exists=True),
    metavar="PATH",
    help="A .safetensors file, or a folder of them, whose names and shapes have to fit the map.",
)
@click.option("--fix", is_flag=True, help="Make the safe fixes, each shown as a diff.")
@click.option("--unsafe-fixes", "unsafe", is_flag=True, help="Make all fixes.")
@click.option("--diff", "only_show", is_flag=True, help="Show what would be fixed; write nothing.")
@click.pass_context
def check_command(
    context: click.Context,
    recipes: Sequence[str],
    shipped: bool,
    amend: Sequence[str],
    form: str,
    weights: Path | None,
    fix: bool,
    unsafe: bool,
    only_show: bool,
) -> None:
    """Prove what can be proved about a recipe.

    RECIPE is the name of a recipe that ships or the path of a .vlm file. Prints one line for each
    good recipe; what is wrong goes to standard error, or with `--format json` and `sarif` to
    standard output. The exit code is 1 when an error is left.

    A fix is safe when it cannot change what was right; the others may change what the recipe means.
    Fixes go into the file that they are for, also where another one extends it, and never into a
    recipe that ships.
    """
    if not recipes and not shipped:
        raise click.UsageError("Name a recipe, or say --all.")
    names = [*recipes, *(shipped_recipes() if shipped else ())]
    look = partial(_look, names, amend, weights)
    if fix or unsafe or only_show:
        _mend(look, unsafe, only_show, err=form != "text")
    checked = look({})
    _PRINT[form](checked)
    context.exit(1 if any(one.recipe is None for one in checked) else 0)


def _look(
    names: Sequence[str],
    amend: Sequence[str],
    weights: Path | None,
    unsaved: Mapping[Path, str],
) -> list[Checked]:
    """What comes of each recipe that the names and files stand for; `unsaved` as for a shelf."""
    return [one for name in names for one in _checked(name, amend, weights, Shelf(unsaved))]


def _checked(
    name: str, amend: Sequence[str], weights: Path | None, shelf: Shelf
) -> Iterator[Checked]:
    from ..compiler.pipeline import prove

    try:
        inside = recipes_of(name, shelf)
        if inside != [name]:
            for recipe in inside:
                yield from _checked(recipe, amend, weights, shelf)
            return
        read = load_recipe(name, amend=amend, shelf=shelf)
        found = (*prove(read), *(_unfit(read, weights) if weights else ()))
        good = all(one.severity == "warning" for one in found)
        yield Checked(name, read if good else None, found)
    except RecipeError as error:
        yield Checked(name, None, error.diagnostics)


def _unfit(recipe: Recipe, weights: Path) -> Sequence[Diagnostic]:
    from ..backends.headers import prove_checkpoint

    return prove_checkpoint(recipe, weights)


def _found(checked: Sequence[Checked]) -> list[Diagnostic]:
    """All findings; what a base has wrong is said once, not again for each of its variants."""
    return list(dict.fromkeys(found for one in checked for found in one.diagnostics))


def _mend(look: partial[list[Checked]], unsafe: bool, only_show: bool, err: bool) -> None:
    """Show what fixes change, and write it unless it is only to be shown."""
    from .fixing import echo_diff, mend

    mending = mend(lambda texts: _found(look(texts)), unsafe)
    echo_diff(mending.diff(), err)
    for name in mending.kept:
        click.echo(f"{name} ships with triptych and stays as it is", err=True)
    if not only_show:
        mending.write()


# Printing ----------------------------------------------------------------------------------------


def _as_text(checked: Sequence[Checked]) -> None:
    said: dict[Diagnostic, None] = {}
    paint = ansi if wants_colour(sys.stderr) else plain
    for one in checked:
        new = [found for found in one.diagnostics if found not in said]
        said.update(dict.fromkeys(new))
        if new:
            messages = "\n\n".join(message(found, paint) for found in new)
            click.echo(f"{messages}\n", err=True, color=paint is ansi)
        if one.recipe:
            click.echo(f"{one.name}: {_summary(one.recipe)}")
    if said:
        click.echo(paint(read_more(list(said)), "gutter"), err=True, color=paint is ansi)
        _say_what_can_be_fixed(list(said))


def _say_what_can_be_fixed(found: Sequence[Diagnostic]) -> None:
    fixes = [one.fix for one in found if one.fix and one.fix.edits]
    safe = sum(fix.safe for fix in fixes)
    ways = [(safe, "--fix"), (len(fixes) - safe, "--unsafe-fixes")]
    told = [f"{count} with `{option}`" for count, option in ways if count]
    if told:
        click.echo(f"can be fixed: {', '.join(told)}; `--diff` shows how", err=True)


def _as_json(checked: Sequence[Checked]) -> None:
    from ..dsl.reports import to_json

    echo_json(
        {
            "recipes": [_facts(one) for one in checked],
            "diagnostics": [to_json(found) for found in _found(checked)],
        }
    )


def _facts(one: Checked) -> dict[str, Any]:
    if one.recipe is None:
        return {"name": one.name, "holds": False}
    return {
        "name": one.name,
        "holds": True,
        "stages": list(one.recipe.stages),
        "modes": list(one.recipe.modes),
        "assumed": assumed(one.recipe),
    }


def _as_sarif(checked: Sequence[Checked]) -> None:
    from ..dsl.reports import sarif

    echo_json(sarif(_found(checked)))


_PRINT = {"text": _as_text, "json": _as_json, "sarif": _as_sarif}


def _summary(recipe: Recipe) -> str:
    count = len(assumed(recipe))
    counts = [(len(recipe.stages), "stage"), (len(recipe.modes), "mode")]
    shown = [f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in counts]
    if count:
        shown.append(f"{count} value{'' if count == 1 else 's'} assumed")
    return f"all proofs hold ({', '.join(shown)})"

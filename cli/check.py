"""`triptych check`: prove what can be proved about recipes, before a weight is loaded."""

from __future__ import annotations

import sys
from collections.abc import Sequence

import click

from ..dsl.assumed import assumed
from ..dsl.diagnostics import Diagnostic, RecipeError, ansi, plain, render
from ..dsl.load import load_recipe, recipes_of, shipped_recipes
from ..dsl.recipe import Recipe

EXAMPLES = """\b
Examples:
  triptych check my_model.vlm                  every recipe of the file
  triptych check my_model.vlm:small            one of them
  triptych check qwen2_vl_7b --set lm.depth=2  as if the recipe said so
  triptych check --all                         every recipe that ships
"""


@click.command("check", epilog=EXAMPLES)
@click.argument("recipes", nargs=-1, metavar="RECIPE...")
@click.option("--all", "shipped", is_flag=True, help="Check every recipe that ships.")
@click.option(
    "--set",
    "amend",
    multiple=True,
    metavar="PATH=VALUE",
    help="Lay a setting over each recipe. Repeatable.",
)
@click.pass_context
def check_command(
    context: click.Context, recipes: Sequence[str], shipped: bool, amend: Sequence[str]
) -> None:
    """Prove what can be proved about a recipe.

    RECIPE is the name of a recipe that ships or the path of a .vlm file. Prints one line for each
    good recipe; what is wrong goes to standard error, and the exit code is 1 then.
    """
    if not recipes and not shipped:
        raise click.UsageError("Name a recipe, or say --all.")
    names = [*recipes, *(shipped_recipes() if shipped else ())]
    said: dict[Diagnostic, None] = {}
    bad = [name for name in names if not _is_good(name, amend, said)]
    context.exit(1 if bad else 0)


def _is_good(name: str, amend: Sequence[str], said: dict[Diagnostic, None]) -> bool:
    """Check the recipes that a name or file stands for, and say what came of each.

    What a base has wrong is said once, not again for each of its variants; `said` remembers.
    """
    from ..compiler.pipeline import prove

    try:
        inside = recipes_of(name)
        if inside != [name]:
            good = [_is_good(recipe, amend, said) for recipe in inside]
            return all(good)
        recipe = load_recipe(name, amend=amend)
        found = prove(recipe)
    except RecipeError as error:
        _say(error.diagnostics, said)
        return False
    _say(found, said)
    click.echo(f"{name}: {_summary(recipe)}")
    return True


def _say(diagnostics: Sequence[Diagnostic], said: dict[Diagnostic, None]) -> None:
    new = [diagnostic for diagnostic in diagnostics if diagnostic not in said]
    said.update(dict.fromkeys(new))
    if new:
        click.echo(render(new, ansi if sys.stderr.isatty() else plain) + "\n", err=True)


def _summary(recipe: Recipe) -> str:
    count = len(assumed(recipe))
    counts = [(len(recipe.stages), "stage"), (len(recipe.modes), "mode")]
    shown = [f"{number} {noun}{'' if number == 1 else 's'}" for number, noun in counts]
    if count:
        shown.append(f"{count} value{'' if count == 1 else 's'} assumed")
    return f"all proofs hold ({', '.join(shown)})"

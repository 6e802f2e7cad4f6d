"""`triptych why`: the chain of where a value came from."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import click
from click.shell_completion import CompletionItem

from ..dsl.load import load_recipe
from .output import amend_option, echo_json, json_option

if TYPE_CHECKING:
    from ..dsl.why import Link

EXAMPLES = """\b
Examples:
  triptych why qwen2_vl_2b merger.out            an adapter's width follows the language model's
  triptych why qwen2_vl_7b image.resize.budget   an argument of a call
  triptych why my.vlm "sft.train[0]"             a member of a list
  triptych why qwen2_vl_7b vit.tokens            a figure that is counted, not written
  triptych why my.vlm lm.width --set lm.width=64
"""


def _paths(
    context: click.Context, parameter: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """The paths of the recipe on the command line, for the shell to complete."""
    from ..dsl.diagnostics import RecipeError
    from ..dsl.why import paths_of

    try:
        recipe = load_recipe(context.params["recipe"])
    except (RecipeError, KeyError):
        return []
    return [CompletionItem(path) for path in paths_of(recipe) if path.startswith(incomplete)]


@click.command("why", epilog=EXAMPLES)
@click.argument("recipe")
@click.argument("path", metavar="PATH.TO.VALUE", shell_complete=_paths)
@amend_option
@json_option
def why_command(recipe: str, path: str, amend: Sequence[str], as_json: bool) -> None:
    """Show where a value of RECIPE came from, link by link, to what somebody wrote.

    The path starts at a block: a setting (`lm.width`), an argument of a call, a special token, a
    rule of a layout, a statement of the weights (`weights.rules[3]`), an assert (`asserts[0]`), or
    the most tokens that a part or an input makes (`vit.tokens`).
    """
    from ..compiler.figures import figure
    from ..dsl.why import chain

    read = load_recipe(recipe, amend=amend)
    links = figure(read, path) or chain(read, path)
    if as_json:
        echo_json([link.to_json() for link in links])
        return
    replaced = {(link.path, link.depth - 1) for link in links if link.relation == "over"}
    for link in links:
        _show(link, amends=(link.path, link.depth) in replaced)


_OPENINGS = {"is": "", "part": "inside ", "from": "where ", "over": "over "}
"""What comes before a link, by how it belongs to the one above."""
_HOWS = {
    "given": "given",
    "derived": "derived",
    "assumed": "assumed: no publication says it",
    "default": "the default",
    "declared": "declared",
    "asserted": "asserted, and proved by `triptych check`",
    "counted": "counted",
}


def _show(link: Link, amends: bool) -> None:
    """A link: the value, how it came about, and the line that says so."""
    indent = "  " * link.depth
    named = link.path if not link.worth else f"{link.path} = {link.worth}"
    if link.how in ("declared", "asserted"):
        named = link.worth
    if link.relation == "over":
        click.echo(f"{indent}over {link.text or 'the default'}{_by(link)}")
    else:
        shown = click.style(named, bold=link.relation == "is")
        click.echo(f"{indent}{_OPENINGS[link.relation]}{shown}")
        click.echo(f"{indent}  {_how(link, amends)}")
    if link.note and link.relation != "over":
        click.echo(f"{indent}  {click.style(link.note, italic=True)}")
    if link.span:
        place = link.span.place
        where = click.style(f"{link.span.source.name}:{place.line}", fg="blue")
        line = link.span.source.line(place.line).strip()
        click.echo(f"{indent}  {where}  {click.style(line, dim=True)}")


def _how(link: Link, amends: bool) -> str:
    """`derived from lm.width, inherited from qwen2_vl_7b`."""
    words = "amended" if amends and link.how == "given" else _HOWS[link.how]
    if link.recipe == "--set":
        words = "set on the command line"
    if link.how == "derived":
        words += f" from `{link.text}`"
    if link.how == "default":
        words += f" of {link.owner}" if link.owner else ""
        words += f": `{link.text}`" if link.text else ""
    elif link.owner.endswith("()"):
        words += f", an argument of {link.owner}"
    return words + _by(link)


def _by(link: Link) -> str:
    """The recipe that says so."""
    if not link.recipe or link.recipe == "--set":
        return ""
    return f", {link.via} from {link.recipe}" if link.via else f" in {link.recipe}"

"""`triptych new`: a commented recipe to start from."""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

import click

from ..dsl.diagnostics import RecipeError
from ..dsl.files import SUFFIX, read_text, write_text
from ..dsl.load import load_text
from .choices import SIZES, chosen, completed, table_of_choices
from .colour import wants_colour
from .output import table
from .template import TEMPLATE

EXAMPLES = """\b
Examples:
  triptych new my_model                writes my_model.vlm: a small model of the Qwen2-VL family
  triptych new my_model models/a.vlm   writes models/a.vlm
  triptych new --list                  the towers, adapters and language models to choose from
  triptych new mine --encoder qwen_vl_7b.vit --adapter minigpt4_7b.qformer --lm deepseek_vl_1_3b.lm
  triptych new mine --lm deepseek_vl_7b --size tiny   all of one system, in sizes that run anywhere
  triptych new mine --from recipe.json                from JSON as `triptych schema` describes it
"""


def _list(context: click.Context, _: click.Parameter, asked: bool) -> None:
    if asked and not context.resilient_parsing:
        table(table_of_choices(), ("option", "part", "what it is"))
        context.exit()


@click.command("new", epilog=EXAMPLES)
@click.argument("name")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
@click.option(
    "--encoder",
    "encoders",
    multiple=True,
    metavar="RECIPE.PART",
    help="What sees. Repeatable, for adapters that join several towers.",
)
@click.option(
    "--adapter",
    metavar="RECIPE.PART",
    help="What carries features to the language model, with the adapters behind it.",
)
@click.option("--lm", metavar="RECIPE", help="What speaks, with its tokens and its layout.")
@click.option(
    "--size",
    type=click.Choice(SIZES),
    default=SIZES[0],
    show_default=True,
    help="Take the parts from the variants of this size of the recipes named.",
)
@click.option(
    "--from",
    "source",
    type=click.Path(path_type=Path, dir_okay=False, exists=True),
    metavar="JSON",
    help="Write the recipe that a JSON file holds.",
)
@click.option(
    "--list",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=_list,
    help="Show the parts that can be chosen, and leave.",
)
def new_command(
    name: str,
    file: Path | None,
    encoders: Sequence[str],
    adapter: str | None,
    lm: str | None,
    size: str,
    source: Path | None,
) -> None:
    """Write a commented recipe to start from.

    Without options it is a small model of the Qwen2-VL family. With --encoder, --adapter or --lm it
    imports these parts; what is not chosen comes from the recipe of what is. Parts that cannot
    follow one another are refused, with the reason. No file is overwritten.
    """
    name = name.removesuffix(SUFFIX)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise click.BadParameter("a name is made of letters, digits and `_`", param_hint="NAME")
    path = file or Path(f"{name}{SUFFIX}")
    if path.exists():
        raise click.ClickException(f"{path} is there already; nothing was written.")
    mixes = bool(encoders or adapter or lm)
    if source and mixes:
        raise click.UsageError("Choose parts or a JSON file, not both.")
    if size != SIZES[0] and not mixes:
        raise click.UsageError("--size goes with --encoder, --adapter or --lm.")
    try:
        if source:
            text = _from_json(source, name, path)
        elif mixes:
            text = _mixed(name, encoders, adapter, lm, size)
        else:
            text = TEMPLATE.replace("NAME", name)
    except RecipeError as error:
        click.echo(error.render(colour=wants_colour(sys.stderr)), err=True)
        wrong = "these parts do not fit one another" if mixes else f"{source} holds no right recipe"
        raise click.ClickException(f"{wrong}; nothing was written.") from None
    write_text(path, text)
    click.echo(f"{path}: written. Look at it, then: triptych check {path}")


def _from_json(source: Path, name: str, path: Path) -> str:
    from ..dsl.generated import read_json, to_text

    text = to_text(read_json(read_text(source), str(source)), name)
    load_text(text, str(path))
    return text


def _mixed(
    name: str, encoders: Sequence[str], adapter: str | None, lm: str | None, size: str
) -> str:
    from .mixture import Mixture

    towers, behind, speaker = completed(
        [chosen("encoder", text, size) for text in encoders],
        chosen("adapter", adapter, size) if adapter else None,
        chosen("lm", lm, size) if lm else None,
    )
    return Mixture(name, towers, behind, speaker).text()

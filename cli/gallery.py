"""`triptych gallery`: pages that stay true, for the tool writes what they show."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from itertools import takewhile
from pathlib import Path

import click

from ..dsl.diagnostics import RecipeError
from ..dsl.files import read_text, title_of, write_text
from ..dsl.load import load_recipe
from ..dsl.recipe import Recipe

EXAMPLES = """\b
Examples:
  triptych gallery docs/recipes.md            write its sections anew, and the pictures beside it
  triptych gallery docs/recipes.md --check    say whether they are as the recipes are now

\b
A section stands between marks, which a reader of the page does not see:
  <!-- recipe: qwen2_vl_7b -->                picture, parts, stages, tokens of a recipe
  <!-- diff: qwen2_vl_7b qwen2_vl_2b -->      what differs between two
  <!-- command: tokens qwen2_vl_7b -->        what a command of triptych prints
  <!-- file: my_model.vlm -->                 a recipe's own comment, and its text
  <!-- end -->
"""
SECTION = re.compile(r"<!-- (recipe|diff|command|file): ([^\n]*?) -->\n.*?<!-- end -->", re.DOTALL)
SIZES = ((224, 224), (640, 480), (1920, 1080), (800, 1300))
"""Pictures whose tokens are counted, in pixels."""
CLIP = (1280, 720, 10.0)
"""A clip whose tokens are counted: width, height, seconds."""
GROUPS = ("WEIGHTS", "TOKENS", "NUMERICS", "STAGES")
"""What a page tells of a difference: prompts are many lines, and `triptych diff` has them."""


@click.command("gallery", epilog=EXAMPLES)
@click.argument("page", type=click.Path(path_type=Path, exists=True, dir_okay=False))
@click.option("--check", "checking", is_flag=True, help="Write nothing; exit with 1 if it is old.")
@click.pass_context
def gallery_command(context: click.Context, page: Path, checking: bool) -> None:
    """Write the sections of PAGE, a Markdown file, that show what triptych says of recipes.

    The picture of a recipe's graph goes to PAGE's folder, as pictures/RECIPE.svg.
    """
    old = page.read_text(encoding="utf-8")
    drawn: dict[Path, str] = {}
    new = SECTION.sub(lambda found: _section(found, page.parent, drawn), old)
    files = {page: new, **drawn}
    stale = [path for path, text in files.items() if not path.exists() or _read(path) != text]
    for path in stale:
        if checking:
            click.echo(f"{path} is not as the recipes are now")
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_text(path, files[path])
            click.echo(f"wrote {path}", err=True)
    context.exit(1 if checking and stale else 0)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8")


def _section(found: re.Match[str], folder: Path, drawn: dict[Path, str]) -> str:
    kind, names = found[1], found[2].split()
    if kind == "diff":
        lines = list(_difference(*names))
    elif kind == "command":
        lines = list(_printed(shlex.split(found[2])))
    elif kind == "file":
        lines = list(_file(read_text(Path(names[0]))))
    else:
        recipe = load_recipe(names[0])
        picture = Path("pictures") / f"{recipe.name}.svg"
        drawn[folder / picture] = _picture(recipe)
        lines = list(_recipe(recipe, picture))
    return "\n".join([f"<!-- {kind}: {found[2]} -->", *lines, "<!-- end -->"])


def _printed(argv: list[str]) -> Iterator[str]:
    """A command of ours with what it prints, as at the end of a pipe."""
    from .main import cli

    said = io.StringIO()
    with redirect_stdout(said), redirect_stderr(said):
        try:
            cli.main(argv, standalone_mode=False)
        except RecipeError as error:
            said.write(error.render())
        except click.ClickException as error:
            error.show(said)
    yield "```text"
    yield f"$ triptych {shlex.join(argv)}"
    yield said.getvalue().rstrip()
    yield "```"


def _file(text: str) -> Iterator[str]:
    """The comment at the head of a recipe file as prose, and what stands below it as it is."""
    lines = text.splitlines()
    comment = list(takewhile(lambda line: line.startswith("#"), lines))
    yield from (line.lstrip("# ") for line in comment)
    yield from ("", "```vlm", *lines[len(comment) :], "```")


def _picture(recipe: Recipe) -> str:
    from ..compiler.picture import picture
    from ..compiler.pipeline import WHOLE, model

    return picture({WHOLE: model(recipe)}, title=recipe.name)


def _recipe(recipe: Recipe, picture: Path) -> Iterator[str]:
    from ..compiler.plan import by_part, count, plan

    made = plan(recipe)
    parts = " + ".join(f"{part} {number:,}" for part, number in by_part(made.parameters).items())
    yield f"{title_of(recipe.name)}\n"
    yield f"![the graph of {recipe.name}]({picture.as_posix()})\n"
    yield f"**{made.total:,} parameters** in {len(made.parameters):,} tensors: {parts}.\n"
    yield "| stage | trained | frozen | parts that learn |"
    yield "| --- | ---: | ---: | --- |"
    for stage in made.stages:
        learning = ", ".join(map(str, stage.settings.train))
        frozen = count(stage.coverage.frozen)
        yield f"| {stage.name} | {count(stage.trained):,} | {frozen:,} | {learning} |"
    yield ""
    yield from _tokens(recipe)
    if made.assumed:
        yield f"Nothing published says: {', '.join(f'`{path}`' for path in made.assumed)}.\n"


def _tokens(recipe: Recipe) -> Iterator[str]:
    """The closed form of each input that the language model takes, and its value for some sizes."""
    from ..blocks.input.sizes import SizeError
    from ..compiler.tokens import counted, ends, item_tokens

    for medium in recipe.inputs:
        if not ends(recipe, medium):
            continue
        yield f"Tokens of `{medium}`: `{item_tokens(recipe, medium)}`\n"
        layout = next((one for one in recipe.layouts.values() if medium in one.rules), None)
        if layout is None:
            continue
        is_clip = recipe.inputs[medium].kind == "video"
        said = []
        for width, height in (CLIP[:2],) if is_clip else SIZES:
            recorded = (round(CLIP[2] * 30), 30.0) if is_clip else (1, 1.0)
            name = f"{width}x{height}" + (f", {CLIP[2]:g} s" if is_clip else "")
            try:
                item = counted(recipe, layout, medium, (width, height), recorded)
                said.append(f"{name}: {item.tokens:,}")
            except SizeError:
                said.append(f"{name}: refused")
        yield f"{'; '.join(said)}.\n"


def _difference(old: str, new: str) -> Iterator[str]:
    from ..compiler.diff import diff

    found = diff(load_recipe(old), load_recipe(new))
    yield "```text"
    yield f"$ triptych diff {old} {new}"
    for edit in found.edits:
        if edit.group in GROUPS and not edit.derived:
            yield f"{edit.group:<9} {edit}"
    yield "```"

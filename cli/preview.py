"""`triptych preview`: a sample as a layout writes it, what is learnt of it, and what is asked."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..dsl.load import load_recipe
from .colour import wants_colour
from .output import amend_option, echo_json, heading, json_option, table

if TYPE_CHECKING:
    from ..backends.preview import Page, Piece
    from ..blocks.input.sample import Turn

EXAMPLES = """\b
Examples:
  triptych preview qwen2_vl_7b                     a question about a picture, in the first layout
  triptych preview qwen2_vl_7b --layout caption    in another
  triptych preview qwen_vl_7b --sample one.json    a record of your data, LLaVA or chat messages
  triptych preview minigpt4_7b --weights DIR       with ids, by the vocabulary of a checkpoint
  triptych preview qwen2_vl_7b --json              text, ids and mask, for a program
"""

_FEW = 8
"""So many ids of a run are told."""
_WIDE = 48
"""So many letters of a run are told in the table."""


@click.command("preview", epilog=EXAMPLES)
@click.argument("recipe")
@click.option("--layout", help="The layout; by default that of the first mode, else of a stage.")
@click.option("--stage", help="The stage that is fed; by default the first with the layout.")
@click.option("--mode", help="The mode that is asked; by default the first with the layout.")
@click.option(
    "--sample",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="A record of training data; of a list or of lines, see --index.",
)
@click.option("--index", type=click.IntRange(0), default=0, help="Which record of the sample's.")
@click.option(
    "--size",
    metavar="WxH",
    help="Pixels of every picture and clip, whose files are then not read.",
)
@click.option(
    "--weights",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="The folder of a checkpoint, for its vocabulary.",
)
@click.option("--lot", type=click.IntRange(0), default=0, help="Which of several lines is taken.")
@click.option("--ids", "every", is_flag=True, help="Every id, not the first few of each run.")
@amend_option
@json_option
def preview_command(
    recipe: str,
    layout: str | None,
    stage: str | None,
    mode: str | None,
    sample: Path | None,
    index: int,
    size: str | None,
    weights: Path | None,
    lot: int,
    every: bool,
    amend: tuple[str, ...],
    as_json: bool,
) -> None:
    """Show how a layout of RECIPE writes a sample: text, ids, what is learnt, and the prompt.

    What is learnt is coloured on a terminal, and stands between ⟦ and ⟧ elsewhere. The prompt is
    what a mode asks: the same layout, up to what the model says.
    """
    from ..backends.preview import PreviewError, choose, example, preview

    loaded = load_recipe(recipe, amend=amend)
    if not loaded.layouts:
        raise click.ClickException(
            f"{recipe} has no layout, so nothing says how a sample is written"
        )
    for option, name, known in (
        ("layout", layout, loaded.layouts),
        ("stage", stage, loaded.stages),
        ("mode", mode, loaded.modes),
    ):
        if name is not None and name not in known:
            raise click.UsageError(f"{recipe} has no {option} {name}; it has {', '.join(known)}.")
    chosen = choose(loaded, layout, stage, mode)
    turns = _read(sample, index) if sample else example(loaded, chosen)
    if size is None and sample is None:
        size = "448x448"
    try:
        made = preview(loaded, chosen, turns, size=_size(size), vocabularies=weights, lot=lot)
    except PreviewError as problem:
        raise click.ClickException(str(problem)) from problem
    if as_json:
        echo_json({"recipe": loaded.name, **made.to_json()})
        return
    fed = f", as {made.whole.user} is fed" if made.whole.user else ""
    _page(made.whole, f"layout {made.layout}{fed}")
    _runs(made.whole, every)
    if made.prompt:
        click.echo()
        asked = f", as {made.prompt.user} asks" if made.prompt.user else ""
        _page(made.prompt, f"the prompt{asked}")
        if made.agrees is not None:
            click.echo(_compared(made.agrees))
        click.echo(f"An answer ends at {', '.join(made.stops)}.")
    if made.draws:
        click.echo("One of several lines is chosen for each batch; --lot N shows another.")
    if made.without:
        click.echo(f"No ids of text: {made.without}; --weights DIR names its folder.")
    others = [name for name in loaded.layouts if name != made.layout]
    if others and layout is None:
        click.echo(f"Other layouts: {', '.join(others)}.")


def _compared(agrees: bool) -> str:
    if agrees:
        return "It is the sample up to its last answer, token for token."
    return "Earlier answers are cut into tokens together with the text around them."


def _size(text: str | None) -> tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", text)
    if match is None:
        raise click.BadParameter(f"{text!r} is no size; write 448x448", param_hint="--size")
    return int(match[1]), int(match[2])


def _read(file: Path, index: int) -> tuple[Turn, ...]:
    """The turns of a record: of a file with one, a list of them, or one a line."""
    from ..backends.data import example_of

    text = file.read_text(encoding="utf-8")
    try:
        if file.suffix == ".jsonl":
            records = [json.loads(line) for line in text.splitlines() if line.strip()]
        else:
            content = json.loads(text)
            records = content if isinstance(content, list) else [content]
        if index >= len(records):
            raise click.UsageError(f"{file} has {len(records)} records, counted from 0.")
        return example_of(records[index], file.parent).turns
    except ValueError as problem:
        raise click.ClickException(f"{file.name}[{index}]: {problem}") from problem


def _page(page: Page, title: str) -> None:
    """The text as it is written, with what is learnt marked."""
    ids, mask = page.ids, page.mask
    learnt = sum(mask) if mask is not None else 0
    counts = ""
    if ids is not None:
        counts = f": {len(ids):,} tokens" + (f", {learnt:,} learnt" if learnt else "")
    heading(f"{title}{counts}")
    coloured = wants_colour(sys.stdout)
    text = "".join(_shown(piece, coloured) for piece in page.pieces)
    if not coloured:
        text = text.replace("⟧⟦", "")
    for line in text.split("\n"):
        click.echo(f"  {line}".rstrip())


def _shown(piece: Piece, coloured: bool) -> str:
    times = f" x {len(piece.ids or ())} " if piece.kind == "places" else ""
    text = f"{piece.text}{times}"
    if not coloured:
        return f"⟦{text}⟧" if piece.learnt else text
    if piece.learnt:
        return click.style(text, fg="black", bg="green")
    if piece.kind == "text":
        return text
    return click.style(text, fg="cyan" if piece.kind == "places" else None, dim=True)


def _runs(page: Page, every: bool) -> None:
    """One row a run: where it begins, how long it is, whether it is learnt, its ids and text."""
    rows = []
    place: int | None = 0
    for piece in page.pieces:
        count = piece.count
        rows.append(
            (
                "" if place is None else f"{place:,}",
                "" if count is None else f"{count:,}",
                "learnt" if piece.learnt else "",
                _ids(piece, every),
                _cut(repr(piece.text)[1:-1]),
            )
        )
        place = None if place is None or count is None else place + count
    click.echo()
    table(rows, ("at", "tokens", "", "ids", "text"))


def _ids(piece: Piece, every: bool) -> str:
    if piece.ids is None:
        return ""
    if piece.kind == "places":
        return f"{piece.ids[0]} x {len(piece.ids)}" if piece.ids else ""
    few = piece.ids if every else piece.ids[:_FEW]
    return " ".join(map(str, few)) + (" …" if len(few) < len(piece.ids) else "")


def _cut(text: str) -> str:
    return text if len(text) <= _WIDE else f"{text[: _WIDE - 1]}…"

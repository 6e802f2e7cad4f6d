"""`triptych tokens`: how many tokens pictures and clips take."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from ..dsl.load import load_recipe
from ..dsl.recipe import Recipe
from .media_options import image_option, sizes_refused, video_option
from .output import amend_option, echo_json, heading, json_option, table
from .token_table import counts, show, sides_of

if TYPE_CHECKING:
    from ..compiler.forms import Form
    from ..compiler.tokens import Counted

EXAMPLES = """\b
Examples:
  triptych tokens qwen2_vl_7b                                  the closed forms, and their bounds
  triptych tokens qwen2_vl_7b --image 224x224 --image 1280x720
  triptych tokens qwen2_vl_7b --video 1920x1080,60s --video 1280x720,10s@24fps
  triptych tokens qwen2_vl_7b --table 224..1344:224            over widths and heights
  triptych tokens qwen2_vl_7b --table 224..1344:224 --seconds 60
  triptych tokens qwen2_vl_7b --video 1920x1080,60s --set video.resize.clip=24576tok
"""


@click.command("tokens", epilog=EXAMPLES)
@click.argument("recipe")
@image_option
@video_option
@click.option(
    "--table",
    "sides",
    metavar="LOW..HIGH:STEP",
    callback=sides_of,
    help="Pictures of all widths and heights in a range, in pixels.",
)
@click.option(
    "--seconds", type=click.FloatRange(min=0.1), help="With --table: clips that are so long."
)
@click.option("--layout", help="The layout that is counted; by default the first with pictures.")
@amend_option
@json_option
def tokens_command(
    recipe: str,
    images: Sequence[tuple[int, int]],
    videos: Sequence[tuple[int, int, float, float]],
    sides: Sequence[int],
    seconds: float | None,
    layout: str | None,
    amend: Sequence[str],
    as_json: bool,
) -> None:
    """Count the tokens that pictures, clips, turns, samples and packs take in RECIPE.

    Without a picture or a clip, prints the closed forms and their bounds; with some, what each of
    them takes, and what a dialogue of them leaves in each stage and mode. A recipe's rule that
    refuses a size says so; the exit code is 1 then.
    """
    from ..compiler.tokens import counted, placed

    loaded = load_recipe(recipe, amend=amend)
    name = _layout(loaded, recipe, layout)
    rules = loaded.layouts[name]
    if seconds is not None and not sides:
        raise click.UsageError("--seconds says how long the clips of a --table are.")
    wanted = {
        "image": bool(images) or (bool(sides) and seconds is None),
        "video": bool(videos) or seconds is not None,
    }
    for medium in (one for one, is_wanted in wanted.items() if is_wanted):
        if medium not in loaded.inputs or (loaded.lm and medium not in placed(loaded, [rules])):
            raise click.ClickException(f"layout {name} of {recipe} places no {medium}")
    with sizes_refused():
        found = counts(loaded, rules, sides, seconds)
        clips = [(w, h, (round(length * rate), rate)) for w, h, length, rate in videos]
        items = [counted(loaded, rules, "image", size) for size in images]
        items += [counted(loaded, rules, "video", (w, h), clip) for w, h, clip in clips]
        rooms = _rooms(loaded, name, images, clips) if items else []
    if as_json:
        echo_json(_data(loaded, name, items, rooms, sides, found))
    elif sides:
        show(sides, found)
    elif items:
        _show(items)
        _show_rooms(rooms)
    else:
        _show_forms(loaded, name)


def _layout(loaded: Recipe, recipe: str, wanted: str | None) -> str:
    """The layout that is asked for; else the first that places something, else the first."""
    from ..compiler.tokens import placed

    if not loaded.layouts:
        raise click.ClickException(f"{recipe} has no layout, so nothing says what tokens it takes")
    if wanted is not None and wanted not in loaded.layouts:
        known = ", ".join(loaded.layouts)
        raise click.UsageError(f"{recipe} has no layout {wanted}; it has {known}.")
    placing = (name for name, rules in loaded.layouts.items() if placed(loaded, [rules]))
    return wanted or next(placing, next(iter(loaded.layouts)))


def _rooms(
    loaded: Recipe,
    name: str,
    images: Sequence[tuple[int, int]],
    clips: Sequence[tuple[int, int, tuple[int, float]]],
) -> list[tuple[str, int, int]]:
    """For each stage and mode that uses the layout: its name, its room, and what a sample of all
    these takes there without what is said, at most."""
    from ..compiler.proofs.context import rooms
    from ..compiler.tokens import counted, frame_cost

    found = []
    for room in rooms(loaded):
        if room.layout != name:
            continue
        rules, taken = room.recipe.layouts[name], 0
        items = [counted(room.recipe, rules, "image", size) for size in images]
        items += [counted(room.recipe, rules, "video", (w, h), clip) for w, h, clip in clips]
        taken = sum(item.tagged.most or 0 for item in items)
        found.append((room.user, room.tokens, taken + (frame_cost(loaded, rules).most({}) or 0)))
    return found


def _data(
    loaded: Recipe,
    name: str,
    items: Sequence[Counted],
    rooms: Sequence[tuple[str, int, int]],
    sides: Sequence[int],
    found: Sequence[Sequence[int | None]],
) -> dict[str, object]:
    """All of it for a program."""
    from ..compiler.forms import forms

    every = forms(loaded, name)
    return {
        "layout": name,
        "forms": {form.kind: str(form.size) for form in every if form.kind in loaded.inputs},
        "closed": [asdict(form) | {"size": str(form.size)} for form in every],
        "items": [asdict(item) for item in items],
        "rooms": [{"user": user, "room": room, "taken": taken} for user, room, taken in rooms],
        "table": {"sides": list(sides), "tokens": found} if sides else None,
    }


def _show_forms(recipe: Recipe, layout: str) -> None:
    """Print the closed forms: of each input, turn, sample and pack."""
    from ..compiler.forms import forms

    for form in forms(recipe, layout):
        heading(f"{_title(form, recipe)}: {_limits(form)}")
        click.echo(f"  {form.size}{_texts(form)}")


def _title(form: Form, recipe: Recipe) -> str:
    return form.kind if form.kind in recipe.inputs else f"{form.kind} {form.name}"


def _limits(form: Form) -> str:
    least, most = form.found.least, form.found.most
    if most is None:
        return f"at least {least:,} tokens"
    return f"{least:,} tokens" if least == most else f"{least:,} to {most:,} tokens"


def _texts(form: Form) -> str:
    """What fixed text adds: how many tokens it takes is the tokenizer's to say."""
    once = f", and {form.text} of fixed text" if form.text.most else ""
    return f"{once}, and {form.each} of it for each of the turns" if form.each.most else once


def _show_rooms(rooms: Sequence[tuple[str, int, int]]) -> None:
    """Print what a dialogue of these pictures and clips leaves for what is said."""
    if not rooms:
        return
    click.echo()
    rows = [
        (user.replace("`", ""), f"{room:,}", f"{taken:,}", f"{room - taken:,}")
        for user, room, taken in rooms
    ]
    table(rows, ("one sample of all these", "room", "takes at most", "leaves"))


def _show(items: Sequence[Counted]) -> None:
    rows = []
    for item in items:
        width, height = item.size
        tagged = item.tagged
        exact = tagged.least == tagged.most
        rows.append(
            (
                item.medium,
                f"{width}x{height}",
                f"{item.frames}",
                f"{item.pictures}",
                f"{item.resized[0]}x{item.resized[1]}",
                ",".join(map(str, item.grid)),
                f"{item.patches:,}",
                f"{item.tokens:,}",
                f"{tagged.least:,}" if exact else f"{tagged.least:,}..{tagged.most:,}",
            )
        )
    table(
        rows,
        (
            "input",
            "size",
            "frames",
            "pictures",
            "resized",
            "grid t,h,w",
            "patches",
            "tokens",
            "tagged",
        ),
    )

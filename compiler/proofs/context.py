"""A picture or a clip, with what its layout puts around it, fits where it is used."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

from ...dsl.diagnostics import Diagnostic, Edit, Findings, Fix
from ...dsl.inputs import ImageInput, Native, VideoInput
from ...dsl.recipe import Recipe
from ..places import labels
from ..repairs import stated
from ..tokens import Cost, as_seen, domain, frame_cost, item_cost, placed
from ..types import MOST_TRIED, Bounds, evaluate

SHAPES = ((1280, 720), (1920, 1080), (640, 480), (1024, 1024), (720, 1280))
"""Pictures and frames that a reader knows, in pixels: the first that fails is the example."""

SHORT = 28
"""The shorter side of the thinnest frame that is tried, in pixels."""


@dataclass(frozen=True)
class Room:
    """How many tokens a use of a layout has for a sample, and the setting that says so.

    `recipe` is as the use sees it: with its own resize, if it has one, which stands at `resize`.
    `cuts` says that a longer sample is cut off there, and not refused.
    """

    user: str
    layout: str
    tokens: int
    path: str
    recipe: Recipe
    resize: str | None = None
    cuts: bool = False


def prove_context(recipe: Recipe, findings: Findings) -> None:
    """Gather limits beyond the context, and for each input the tightest use that it can outgrow.

    Where a stage cuts samples off, a picture or clip must stand before the cut, whole. To outgrow
    a use is a mistake, unless the recipe caps a whole clip within the room, only the least share
    of a frame breaks the cap, as in a published system, and the recipe says that such clips are
    refused, which whoever feeds the model does by name.
    """
    if recipe.lm is None:
        return
    every = sorted(rooms(recipe), key=lambda room: room.tokens)
    for room in every:
        if room.tokens > recipe.lm.context:
            findings.add(_beyond(recipe, room, recipe.lm.context))
    for name, stage in recipe.stages.items():
        if stage.truncate and stage.pack and stage.truncate > stage.pack:
            findings.add(_cut_too_late(recipe, name, stage.truncate, stage.pack))
    # Of uses that write and resize alike, what the tightest has room for, all have.
    tightest = dict[object, Room]()
    for room in every:
        tightest.setdefault((room.layout, room.resize, room.cuts), room)
    for medium in recipe.inputs:
        for room in tightest.values():
            found = _overflow(room.recipe, medium, room)
            if found:
                findings.add(found)
                break


def _beyond(recipe: Recipe, room: Room, context: int) -> Diagnostic:
    return Diagnostic(
        "T506",
        f"{room.user} has room for more tokens than the language model",
        labels(
            recipe,
            (room.path, f"{room.tokens:,} tok"),
            ("lm.context", f"the language model knows {context:,} positions"),
        ),
        "positions beyond the context were never learnt",
        Fix(
            f"write at most {context}tok",
            stated(recipe, room.path, f"{'..' * room.path.endswith('.prompt')}{context}tok"),
            safe=False,
        ),
    )


def _cut_too_late(recipe: Recipe, name: str, cut: int, pack: int) -> Diagnostic:
    return Diagnostic(
        "T511",
        f"stage `{name}` cuts samples off behind more than a pack holds",
        labels(
            recipe,
            (f"{name}.truncate", f"what is left has up to {cut:,} tok"),
            (f"{name}.pack", f"samples are joined up to {pack:,}"),
        ),
        "a sample that is longer than a pack is refused, however it was cut",
        Fix(f"write `truncate = {pack}tok`"),
    )


def rooms(recipe: Recipe) -> Iterator[Room]:
    """What each stage and each mode has room for, by layout; none without a language model."""
    if recipe.lm is None:
        return
    for name, stage in recipe.stages.items():
        path = f"{name}.truncate" if stage.truncate else f"{name}.pack"
        room, seen = stage.truncate or stage.pack, as_seen(recipe, stage)
        if room is None:
            path, room = "lm.context", recipe.lm.context
        resize = f"{name}.resize" if stage.resize else None
        for layout in stage.layouts:
            yield Room(
                f"stage `{name}`", layout, room, path, seen, resize, stage.truncate is not None
            )
    for name, mode in recipe.chats.items():
        seen, resize = as_seen(recipe, mode), f"{name}.resize" if mode.resize else None
        path = f"{name}.prompt"
        yield Room(f"mode `{name}`", mode.layout, mode.prompt.high, path, seen, resize)


def _overflow(recipe: Recipe, medium: str, room: Room) -> Diagnostic | None:
    """One item of an input does not fit into a room with what the layout puts around it."""
    layout = recipe.layouts[room.layout]
    if medium not in placed(recipe, [layout]):
        return None
    item = item_cost(recipe, layout, medium)
    alone, around = item.most(domain(recipe)), frame_cost(recipe, layout).most({})
    if around is None:  # places in a turn, which `prove_layouts` refuses
        return None
    if alone is not None and alone + around <= room.tokens:
        return None
    given = recipe.inputs[medium]
    cap = given.resize.clip if isinstance(given.resize, Native) else None
    if _is_refused(given) and cap is not None and cap + around <= room.tokens and not room.cuts:
        return None
    return Diagnostic(
        "T507" if room.cuts else "T504",
        f"{room.user} can cut through {_noun(given)}"
        if room.cuts
        else f"{_noun(given)} can outgrow {room.user}",
        labels(
            recipe,
            *_places(medium, given, alone, room),
            (room.path, f"{'cut off behind' if room.cuts else 'room for'} {room.tokens:,}"),
        ),
        _reason(recipe, medium, item, room, around),
        Fix(_advice(given, room, alone is None), _bounded(recipe, medium, alone is None), False),
    )


def _is_refused(given: ImageInput | VideoInput) -> bool:
    """Whether the recipe says that what takes too many tokens is refused when it comes."""
    return isinstance(given, VideoInput) and given.overlong == "refused"


def _noun(given: ImageInput | VideoInput) -> str:
    return "a clip" if isinstance(given, VideoInput) else "a picture"


def _places(
    medium: str, given: ImageInput | VideoInput, most: int | None, room: Room
) -> Iterator[tuple[str, str]]:
    """The settings that decide how large an item becomes, and what each of them does."""
    greatest = "any number of tokens" if most is None else f"up to {most:,} tok, tags included"
    path = f"{medium}.resize.budget" if isinstance(given.resize, Native) else f"{medium}.resize"
    yield room.resize or path, f"{_noun(given)} takes {greatest}"
    if isinstance(given, VideoInput):
        yield f"{medium}.frames", f"up to {given.frames.high} frames"
        if isinstance(given.resize, Native) and given.resize.clip is not None:
            yield f"{medium}.resize.slack", "a frame keeps its least share, cap or no cap"


def _reason(recipe: Recipe, medium: str, item: Cost, room: Room, around: int) -> str:
    """An item that fails by itself; else one that fails by what stands around it; else why not."""
    alone = _example(recipe, medium, item, room.tokens)
    if alone is not None:
        return alone
    with_layout = _example(recipe, medium, item, room.tokens - around)
    if with_layout is not None:
        return f"{with_layout}, and up to {around:,} around it"
    if item.most(domain(recipe)) is None:
        return "nothing bounds how thin it may be, nor how many tokens one row takes"
    return f"with the {around:,} tok that `{room.layout}` puts around it at most"


def _bounded(recipe: Recipe, medium: str, unbounded: bool) -> tuple[Edit, ...]:
    """Bounds how thin what an input takes may be, where nothing does."""
    if not unbounded or recipe.inputs[medium].aspect is not None:
        return ()
    return stated(recipe, f"{medium}.aspect", "..200")


def _advice(given: ImageInput | VideoInput, room: Room, unbounded: bool) -> str:
    if unbounded and given.aspect is None:
        return "bound how thin it may be: `aspect = ..200`"
    if not isinstance(given.resize, Native):
        things = "frames" if isinstance(given, VideoInput) else "tiles"
        return f"show fewer {things}, or a smaller `side`; or widen the room"
    if isinstance(given, ImageInput):
        return "lower the high end of `budget`"
    if given.resize.clip is None:
        return "cap the whole clip: `clip: 16384tok`"
    fewer = "allow fewer `frames`, or lower the low end of `budget`"
    return f"{fewer}; or {'cut later' if room.cuts else 'write `overlong = refused`'}"


def _example(recipe: Recipe, medium: str, item: Cost, room: int) -> str | None:
    """The smallest item that fails, found by search over the domain.

    Of pictures that keep their shape it is the smallest square, or where all squares fit the
    smallest strip; of others the first of a familiar shape; of clips the shortest of one.
    """
    given = recipe.inputs[medium]
    assert item.text.most is not None
    if isinstance(given, VideoInput):
        return _shortest_clip(recipe, medium, given, item, room)
    for shape, width, height in _pictures(given):
        if _is_admitted(given, width, height):
            size = {f"{medium}.width": width, f"{medium}.height": height}
            tokens = evaluate(item.places, size) + item.text.most
            if tokens > room:
                return f"{shape.format(f'{width}x{height}')} takes {tokens:,} tok"
    return None


def _pictures(given: ImageInput) -> Iterator[tuple[str, int, int]]:
    """Pictures to try, those of a kind in growing size: what to call them, width and height."""
    if not isinstance(given.resize, Native):
        yield from (("one of {}", *shape) for shape in SHAPES)
        return
    longest = (math.isqrt(given.resize.budget.high) + 1) * given.resize.multiple
    for side in range(1, longest + 1):
        yield "the smallest square that fails, {},", side, side
    thinnest = given.aspect.high if given.aspect else 1
    for side in range(1, longest + 1 if thinnest > 1 else 0):
        yield "the smallest strip that fails, {},", thinnest * side, side


def _is_admitted(given: ImageInput | VideoInput, width: int, height: int) -> bool:
    """Whether a picture or a frame is not too thin."""
    return not given.aspect or max(width, height) <= given.aspect.high * min(width, height)


def _shortest_clip(
    recipe: Recipe, medium: str, given: VideoInput, item: Cost, room: int
) -> str | None:
    """The clip of a familiar shape that fails with the fewest frames."""
    clips = _clips(domain(recipe)[f"{medium}.frames"])
    assert item.text.most is not None
    thin = [(given.aspect.high * SHORT, SHORT)] if given.aspect else []
    for width, height in (*SHAPES, *thin):
        if not _is_admitted(given, width, height):
            continue
        size = {f"{medium}.width": width, f"{medium}.height": height}
        taken = {n: evaluate(item.places, size | {f"{medium}.frames": n}) for n in clips}
        first = next((n for n in clips if taken[n] + item.text.most > room), None)
        if first is not None:
            return (
                f"the shortest {width}x{height} clip that fails has {first} frames"
                f" ({first / given.rate:g} s at {given.rate:g} fps): {taken[first]:,} tok;"
                f" the longest takes {max(taken.values()):,}"
            )
    return None


def _clips(frames: Bounds) -> list[int]:
    """The numbers of frames to try: all of them, or so many that the answer comes in a blink."""
    assert frames.most is not None
    every = range(frames.least, frames.most + 1, frames.step)
    return [*every[:: 1 + len(every) // MOST_TRIED], every[-1]]

"""What a step or an answer is fed for samples of a given size: the symbols of its methods."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from ..blocks.input import sizes
from ..blocks.input.calls import cache_slots, slot_range
from ..blocks.input.sizes import grid_of
from ..dsl.inputs import VideoInput
from ..dsl.modes import AnyMode, Mode
from ..dsl.objectives import Matching, Uniform
from ..dsl.parts import QueryDecoder
from ..dsl.recipe import Recipe
from ..dsl.stages import Stage
from .costing import Shapes
from .tokens import as_seen, clip_rule, item_tokens, pictures, shown, size_rule
from .types import evaluate
from .yields import views, yielded

WORDS = 4
"""Tokens that a region's label is taken to have; each picture is taken to have one region."""


@dataclass(frozen=True)
class Item:
    """A picture or a clip: its size in pixels, and its frames with their rate as recorded."""

    medium: str
    size: tuple[int, int]
    recorded: tuple[int, float] = (1, 1.0)


@dataclass(frozen=True)
class Sample:
    """What a sample holds: pictures and clips, tokens that are not theirs, and those scored."""

    items: tuple[Item, ...]
    text: int
    answer: int


@dataclass(frozen=True)
class Seen:
    """What becomes of an item: its places in the language model, and what the towers see.

    `segments` lists the rows of each segment of patches by view; `shown` counts pictures of one
    size.
    """

    medium: str
    tokens: int
    segments: Mapping[str, tuple[int, ...]]
    shown: int


def seen(recipe: Recipe, item: Item) -> Seen:
    """What a stage or mode sees of an item; SizeError when the recipe refuses it."""
    rule, given = size_rule(recipe, item.medium), recipe.inputs[item.medium]
    width, height = item.size
    frames = 1
    if isinstance(given, VideoInput):
        frames = clip_rule(given).sampled(*item.recorded)
        resized = rule.resized_frame(width, height, frames)
    else:
        resized = rule.size(width, height)
    named = {"width": width, "height": height, "frames": frames}
    values = {f"{item.medium}.{name}": value for name, value in named.items()}
    count = evaluate(pictures(recipe, item.medium), values)
    segments = {}
    for view in views(recipe, item.medium):
        if view.is_packed:
            tower = recipe.encoders[view.encoder]
            clip = isinstance(given, VideoInput)
            slots = ceil(frames / tower.frames_per_patch) if clip else count
            side = resized if view.side is None else (view.side, view.side)
            grid = grid_of(side, tower.patch, slots)
            segments[view.name] = (grid.rows * grid.columns,) * grid.slots
    tokens = evaluate(item_tokens(recipe, item.medium), values) if recipe.lm else 0
    return Seen(item.medium, tokens, segments, count)


def nothing(recipe: Recipe, medium: str) -> Seen:
    """What towers are fed where a sample shows nothing to an input: an empty picture."""
    rule = size_rule(recipe, medium)
    side = rule.multiple if isinstance(rule, sizes.Native) else rule.size(1, 1)[0]
    segments = {}
    for view in views(recipe, medium):
        if view.is_packed:
            patch = recipe.encoders[view.encoder].patch
            segments[view.name] = ((view.side or side) ** 2 // patch**2,)
    return Seen(medium, 0, segments, 1)


def row_of(recipe: Recipe, stage: Stage, sample: Sample) -> tuple[int, int]:
    """How many samples share a row of a stage, and how long a sample is."""
    recipe = as_seen(recipe, stage)
    length = sample.text + sum(seen(recipe, item).tokens for item in sample.items)
    return max(1, stage.pack // length) if stage.pack else 1, length


def shapes_of(recipe: Recipe, purpose: Stage | AnyMode, sample: Sample, batch: int) -> Shapes:
    """The sizes of all that is fed: `batch` rows of a stage, prompts or pairs of a mode."""
    recipe = as_seen(recipe, purpose)
    packed = 1
    if isinstance(purpose, Stage):
        packed, length = row_of(recipe, purpose, sample)
    else:
        length = sample.text + sum(seen(recipe, item).tokens for item in sample.items)
    count = batch * packed
    each = [seen(recipe, item) for item in sample.items]
    values = {
        "batch": batch,
        "length": packed * length,
        "targets": max(1, count * sample.answer),
        "texts": batch,
        "features": max(1, count * sum(one.tokens for one in each)),
        "questions": max(1, count * len(each)),
        "question.length": max(1, sample.text - sample.answer),
        "regions": max(1, count * len(each)),
        "classes": max(1, count * len(each)),
        "words": WORDS,
    }
    if isinstance(purpose, Mode):
        assert recipe.lm
        most = min(purpose.prompt.high + purpose.new, recipe.lm.context)
        values["slots"] = cache_slots(length + purpose.new - 1, *slot_range(most))
    segments: dict[str, Sequence[int]] = {"text.segment_id": (length,) * count}
    for medium in shown(recipe, purpose):
        own = [one for one in each if one.medium == medium] * count
        own = own or [nothing(recipe, medium)]
        values[f"{medium}.pictures"] = sum(one.shown for one in own)
        values.setdefault("pictures", values[f"{medium}.pictures"])
        for view in own[0].segments:
            rows = tuple(n for one in own for n in one.segments[view])
            segments[f"{view}.segment_id"] = rows
            values[f"{view}.patches"] = sum(rows)
            values.setdefault("patches", sum(rows))
    if isinstance(recipe.lm, QueryDecoder) and "pictures" in values:
        # What it takes is what the tower yields; its queries have the places.
        (source,) = recipe.adapters[recipe.lm.in_[0].part].in_
        tokens = yielded(recipe, source, shown(recipe, purpose)[0]).tokens
        assert tokens
        values["features"] = values["pictures"] * tokens
    for name, objective in recipe.objectives.items():
        twice = isinstance(objective, Matching) and objective.negatives == Uniform(share="all")
        values[f"{name}.texts"] = (1 + twice) * batch
        values[f"{name}.length"] = max(1, sample.text)
        values[f"{name}.targets"] = max(1, batch * sample.answer)
    return Shapes(values, segments)

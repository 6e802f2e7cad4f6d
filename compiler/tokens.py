"""How many tokens pictures, clips and samples take: closed forms, and their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping

from ..blocks.input.sizes import ClipRule, SizeRule
from ..dsl.recipe import ImageInput, MergeMLP, Mode, Recipe, Stage, VideoInput, ViT
from .sizing import fit, fit_frame
from .types import Bounds, Option, Size, Symbol, divide, multiply, total


def size_rule(recipe: Recipe, medium: str) -> SizeRule:
    """The geometry of an input: its resize, and the patches and windows of the parts it reaches."""
    given, tower = recipe.inputs[medium], tower_of(recipe, medium)
    window = window_of(recipe, medium)
    return SizeRule(
        multiple=given.resize.multiple,
        least=given.resize.budget.at_least(1),
        most=given.resize.budget.high,
        patch=tower.patch,
        frames_per_patch=tower.frames_per_patch,
        window=window,
        aspect=given.aspect.high if isinstance(given, ImageInput) and given.aspect else None,
        clip=_clip(given) if isinstance(given, VideoInput) else None,
    )


def _clip(given: VideoInput) -> ClipRule:
    return ClipRule(
        rate=given.rate,
        least=given.frames.at_least(given.frames.step),
        most=given.frames.high,
        step=given.frames.step,
        cap=given.resize.clip,
        slack=given.resize.slack,
    )


def tower_of(recipe: Recipe, medium: str) -> ViT:
    """The encoder that an input reaches."""
    return next(tower for tower in recipe.encoders.values() if medium in tower.in_)


def window_of(recipe: Recipe, medium: str) -> tuple[int, int]:
    """Rows and columns of patches behind one token."""
    towers = {name for name, tower in recipe.encoders.items() if medium in tower.in_}
    for adapter in recipe.adapters.values():
        if isinstance(adapter, MergeMLP) and towers & set(adapter.in_):
            return adapter.window.rows, adapter.window.columns
    return 1, 1


def item_tokens(recipe: Recipe, medium: str) -> Size:
    """The tokens of one picture or clip, as a closed form of its width, height and frames."""
    given, rule = recipe.inputs[medium], size_rule(recipe, medium)
    width, height = Symbol(f"{medium}.width"), Symbol(f"{medium}.height")
    limits: dict[str, Option] = {
        "multiple": rule.multiple,
        "least": rule.least,
        "most": rule.most,
    }
    if rule.aspect:
        limits["aspect"] = rule.aspect
    rows, columns = (rule.multiple // (rule.patch * side) for side in rule.window)
    if isinstance(given, ImageInput):
        return multiply(rows * columns, fit(width, height, **limits))
    frames = Symbol(f"{medium}.frames")
    if rule.clip and rule.clip.cap:
        limits |= {"cap": rule.clip.cap, "slack": rule.clip.slack}
    limits["per"] = rule.frames_per_patch
    slots = divide(frames, rule.frames_per_patch, up=True)
    return multiply(slots, rows * columns, fit_frame(width, height, frames, **limits))


def meaning_of(recipe: Recipe) -> dict[str, Size]:
    """What the symbols in the graph's types mean: `image.patches` is a total over the images."""
    meaning = dict[str, Size]()
    for medium in recipe.inputs:
        rows, columns = window_of(recipe, medium)
        each = Symbol(f"{medium}.tokens")
        meaning[f"{medium}.patches"] = multiply(rows * columns, total(medium, each))
        meaning[each.name] = item_tokens(recipe, medium)
    return meaning


def inference_limits(recipe: Recipe, mode: Mode, media: Iterable[str]) -> dict[str, Bounds]:
    """How large the symbols of a mode's methods can be, in one call.

    The features of a prompt are part of it, so its length bounds them, and they the patches.
    """
    assert recipe.lm
    prompt, batch = mode.prompt.high, Bounds(mode.batch.at_least(1), mode.batch.high)
    areas = {medium: math.prod(window_of(recipe, medium)) for medium in media}
    return {
        "batch": batch,
        "length": Bounds(1, prompt),
        "slots": Bounds(1, min(prompt + mode.new, recipe.lm.context)),
        **_rows(areas, prompt * mode.batch.high),
    }


def training_limits(recipe: Recipe, stage: Stage, media: Iterable[str]) -> dict[str, Bounds]:
    """How large the symbols of a stage's methods can be, in one call."""
    assert recipe.lm
    length = stage.pack or recipe.lm.context
    areas = {medium: math.prod(window_of(recipe, medium)) for medium in media}
    return {
        "batch": Bounds(1, stage.batch),
        "length": Bounds(1, length),
        "targets": Bounds(1, stage.batch * length),
        **_rows(areas, stage.batch * length),
    }


def _rows(areas: Mapping[str, int], tokens: int) -> dict[str, Bounds]:
    """Patches of each input, in whole windows, and the rows of features that they become."""
    if not areas:
        return {}
    patches = {
        f"{medium}.patches": Bounds(area, area * tokens, area) for medium, area in areas.items()
    }
    return {**patches, "patches": next(iter(patches.values())), "features": Bounds(1, tokens)}

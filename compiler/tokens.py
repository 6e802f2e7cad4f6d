"""How many tokens pictures, clips and samples take: closed forms, and their values."""

from __future__ import annotations

from ..blocks.input.sizes import ClipRule, SizeRule
from ..dsl.recipe import ImageInput, MergeMLP, Recipe, VideoInput, ViT
from .sizing import fit, fit_frame
from .types import Option, Size, Symbol, divide, multiply, total


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

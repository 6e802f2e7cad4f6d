"""How many tokens pictures, clips and samples take: closed forms, and their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..blocks.input.sizes import ClipRule, SizeRule
from ..dsl.recipe import (
    ImageInput,
    IndexItem,
    Layout,
    LayoutItem,
    LossItem,
    MergeMLP,
    Mode,
    Recipe,
    RepeatItem,
    RuleItem,
    SpecialItem,
    Stage,
    TextItem,
    VideoInput,
    ViT,
)
from .build import reach
from .sizing import fit, fit_frame
from .types import (
    Bounds,
    Option,
    Size,
    Symbol,
    add,
    bounds,
    divide,
    evaluate,
    multiply,
    substitute,
    total,
)

TURNS = ("system", "user", "assistant")
"""The rules of a dialogue; a layout without them writes whole samples by one of `SAMPLES`."""
SAMPLES = ("pair", "text")
MOST_ITEMS = 9999
"""No sample numbers more pictures or clips than this."""


def size_rule(recipe: Recipe, medium: str) -> SizeRule:
    """The geometry of an input: its resize, and the patches and windows of the parts it reaches."""
    given, tower = recipe.inputs[medium], tower_of(recipe, medium)
    assert tower, f"no encoder sees {medium}"
    return SizeRule(
        multiple=given.resize.multiple,
        least=given.resize.budget.at_least(1),
        most=given.resize.budget.high,
        patch=tower.patch,
        frames_per_patch=tower.frames_per_patch,
        window=window_of(recipe, medium),
        aspect=given.aspect.high if given.aspect else None,
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


def tower_of(recipe: Recipe, medium: str) -> ViT | None:
    """The encoder that an input reaches."""
    return next((tower for tower in recipe.encoders.values() if medium in tower.in_), None)


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
        if tower_of(recipe, medium) is None:
            continue
        rows, columns = window_of(recipe, medium)
        each = Symbol(f"{medium}.tokens")
        meaning[f"{medium}.patches"] = multiply(rows * columns, total(medium, each))
        meaning[each.name] = item_tokens(recipe, medium)
    return meaning


NONE = Bounds(0, 0)


@dataclass(frozen=True)
class Cost:
    """The tokens of a piece of a layout: its places and special tokens, and those of fixed text.

    How many tokens a text takes is the tokenizer's to say; without it they are bounded: at least
    one where there is text, at most one a byte.
    """

    places: Size = 0
    text: Bounds = NONE

    def __add__(self, other: Cost) -> Cost:
        assert self.text.most is not None and other.text.most is not None
        text = Bounds(self.text.least + other.text.least, self.text.most + other.text.most)
        return Cost(add(self.places, other.places), text)

    @property
    def is_exact(self) -> bool:
        """Whether there is no text in it."""
        return self.text.most == 0

    def most(self, domain: Mapping[str, Bounds]) -> int | None:
        """The greatest number of tokens over a domain; None when there is no limit."""
        places = bounds(self.places, domain).most
        return None if places is None or self.text.most is None else places + self.text.most


def rule_cost(recipe: Recipe, layout: Layout, rule: str, *, media: bool = True) -> Cost:
    """What a rule of a layout adds to a sample, besides what its parameters hold.

    `media` says whether to count the pictures and clips that it places by other rules.
    """
    return _cost(recipe, layout, layout.rules[rule].items, rule, media)


def _cost(
    recipe: Recipe, layout: Layout, items: Iterable[LayoutItem], rule: str, media: bool
) -> Cost:
    cost = Cost()
    for item in items:
        match item:
            case SpecialItem():
                cost += Cost(1)
            case TextItem(text=text):
                cost += Cost(0, _text(text))
            case IndexItem():
                cost += Cost(0, Bounds(1, len(str(MOST_ITEMS))))
            case RepeatItem():
                cost += Cost(Symbol(f"{rule}.tokens"))
            case RuleItem(rule=used) if media or used not in recipe.inputs:
                cost += _cost(recipe, layout, layout.rules[used].items, used, media)
            case LossItem(items=inner):
                cost += _cost(recipe, layout, inner, rule, media)
    return cost


def _text(text: str) -> Bounds:
    """A byte-level tokenizer makes at most one token of each byte."""
    return Bounds(min(1, len(text)), len(text.encode()))


def frame_cost(recipe: Recipe, layout: Layout) -> Cost:
    """What the shortest sample of a layout takes without its content: one turn of each kind."""
    turns = [rule for rule in TURNS if rule in layout.rules]
    if layout.system is None and "system" in turns:
        turns.remove("system")
    costs = [
        rule_cost(recipe, layout, rule, media=False)
        for rule in turns or SAMPLES
        if rule in layout.rules
    ]
    if turns:
        return sum(costs, Cost(0, _text(layout.system or "")))
    return max(costs, key=lambda cost: cost.most({}) or 0, default=Cost())


def item_cost(recipe: Recipe, layout: Layout, medium: str) -> Cost:
    """What one picture or clip takes, tags included, as a closed form of its size."""
    cost = rule_cost(recipe, layout, medium)
    return Cost(substitute(cost.places, meaning_of(recipe)), cost.text)


@dataclass(frozen=True)
class Counted:
    """One picture or clip: what it becomes, and what it takes.

    Sizes are (width, height) in pixels; `frames` are those that are seen, 1 for a picture;
    `tagged` counts the tokens with the tags that a layout puts around them.
    """

    medium: str
    size: tuple[int, int]
    frames: int
    resized: tuple[int, int]
    grid: tuple[int, int, int]
    patches: int
    tokens: int
    tagged: Bounds


def counted(
    recipe: Recipe,
    layout: Layout,
    medium: str,
    size: tuple[int, int],
    recorded: tuple[int, float] = (1, 1.0),
) -> Counted:
    """What a picture takes, or a clip of which `recorded` gives all frames and their rate.

    SizeError when the recipe refuses it; KeyError when the layout places no such thing.
    """
    rule, (width, height) = size_rule(recipe, medium), size
    frames = rule.clip.sampled(*recorded) if rule.clip else 1
    grid = rule.clip_grid(width, height, frames) if rule.clip else rule.image_grid(width, height)
    resized = grid.columns * rule.patch, grid.rows * rule.patch
    values = {f"{medium}.width": width, f"{medium}.height": height, f"{medium}.frames": frames}
    cost = item_cost(recipe, layout, medium)
    places = evaluate(cost.places, values)
    assert cost.text.most is not None
    return Counted(
        medium,
        size,
        frames,
        resized,
        (grid.slots, grid.rows, grid.columns),
        grid.patches,
        evaluate(item_tokens(recipe, medium), values),
        Bounds(places + cost.text.least, places + cost.text.most),
    )


def worst(recipe: Recipe, layout: Layout, items: Mapping[str, int]) -> int | None:
    """The most tokens of a sample with so many items of each input, and no text of its own.

    None when nothing bounds them.
    """
    found = frame_cost(recipe, layout).most({})
    for medium, number in items.items():
        item = item_cost(recipe, layout, medium).most(domain(recipe))
        found = None if found is None or item is None else found + number * item
    return found


def domain(recipe: Recipe) -> dict[str, Bounds]:
    """What the sizes of inputs can be, as far as the recipe bounds them."""
    found = dict[str, Bounds]()
    for medium, given in recipe.inputs.items():
        found[f"{medium}.width"] = found[f"{medium}.height"] = Bounds(1, None)
        if isinstance(given, VideoInput):
            frames = given.frames
            least = frames.at_least(frames.step)
            found[f"{medium}.frames"] = Bounds(least, frames.high, frames.step)
    return found


def placed(recipe: Recipe, layouts: Iterable[Layout]) -> list[str]:
    """The inputs for which one of the layouts reserves places, and that reach the model."""
    rules = [rule for layout in layouts for rule in layout.rules.values()]
    marked = {rule.name for rule in rules if any(isinstance(i, RepeatItem) for i in rule.items)}
    seen = reach(recipe).get("lm", ())
    return [medium for medium in recipe.inputs if medium in marked and medium in seen]


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

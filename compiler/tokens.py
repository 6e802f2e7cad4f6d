"""How many tokens pictures, clips and samples take: closed forms, and their values."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from ..blocks.input import sizes
from ..blocks.input.sizes import ClipRule, SizeRule, grid_of
from ..dsl.inputs import (
    Crop,
    ImageInput,
    Letterbox,
    Native,
    Padded,
    Square,
    Tiles,
    VideoInput,
)
from ..dsl.kinds import Selector
from ..dsl.modes import AnyMode, Features, Mode, Retrieval
from ..dsl.objectives import Captioning, Contrastive, Matching, Objective
from ..dsl.parts import QueryDecoder
from ..dsl.recipe import Recipe
from ..dsl.stages import Stage
from ..dsl.texts import (
    ApartItem,
    ChoiceItem,
    CornersItem,
    IndexItem,
    Layout,
    LayoutItem,
    LossItem,
    RepeatItem,
    RuleItem,
    SentencePiece,
    SpecialItem,
    TextItem,
    items_within,
)
from .build import reach
from .routes import reads
from .scaling import mean_colour
from .sizing import fit, fit_frame, tiles
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
from .yields import Yield, views, yielded

TURNS = ("system", "user", "assistant")
"""The rules of a dialogue; a layout without them writes whole samples by one of `SAMPLES`."""
SAMPLES = ("pair", "text")
MOST_ITEMS = 9999
"""No sample numbers more pictures or clips than this."""

LONGEST_CORNERS = len("(999,999),(999,999),(999,999),(999,999)")
"""The text of a quadrilateral takes no more tokens than it has letters."""


def as_seen(recipe: Recipe, purpose: Stage | AnyMode) -> Recipe:
    """The recipe with the resize of a stage or a mode in place of that of its pictures.

    Of a mode that another part than the language model writes, with that in its place.
    """
    if isinstance(purpose, Mode) and purpose.from_:
        writer = recipe.adapters[purpose.from_.part]
        lm = writer.model_copy(update={"in_": (Selector.of(purpose.from_.part),)})
        recipe = recipe.model_copy(update={"lm": lm})
    if purpose.resize is None:
        return recipe
    inputs = {
        name: given.model_copy(update={"resize": purpose.resize})
        if isinstance(given, ImageInput)
        else given
        for name, given in recipe.inputs.items()
    }
    return recipe.model_copy(update={"inputs": inputs})


def size_rule(recipe: Recipe, medium: str) -> SizeRule:
    """The geometry of an input: what becomes of a picture or a frame before it is cut up."""
    given = recipe.inputs[medium]
    aspect = given.aspect.high if given.aspect else None
    match given.resize:
        case Native() as resize:
            return sizes.Native(
                multiple=resize.multiple,
                least=resize.budget.at_least(1),
                most=resize.budget.high,
                aspect=aspect,
                per_slot=frames_per_slot(recipe, medium),
                cap=resize.clip,
                slack=resize.slack,
            )
        case Square(side=side):
            return sizes.Square(side, aspect)
        case Crop(side=side):
            return sizes.Crop(side, aspect)
        case Letterbox(side=side, pad=pad, least=least):
            return sizes.Letterbox(side, pad or mean_colour(recipe, medium), least, aspect)
        case Padded(side=side, pad=pad):
            return sizes.Padded(side, pad or mean_colour(recipe, medium), aspect)
        case Tiles(side=side, count=count, thumbnail=thumbnail):
            return sizes.Tiles(side, count.at_least(1), count.high, thumbnail, aspect)


def clip_rule(given: VideoInput) -> ClipRule:
    """Which frames of a clip are seen."""
    return ClipRule(
        rate=given.rate,
        least=given.frames.at_least(given.frames.step),
        most=given.frames.high,
        step=given.frames.step,
    )


def frames_per_slot(recipe: Recipe, medium: str) -> int:
    """How many frames share a slot of patches, where these are packed."""
    towers = [recipe.encoders[shown.encoder] for shown in views(recipe, medium) if shown.is_packed]
    return max((tower.frames_per_patch for tower in towers), default=1)


def ends(recipe: Recipe, medium: str) -> dict[str, Yield]:
    """What the language model takes of an input: for each part that it names, what that yields."""
    if recipe.lm is None:
        return {}
    return {
        source.part: yielded(recipe, source, medium)
        for source in recipe.lm.in_
        if medium in reach(recipe)[source.part]
    }


def item_tokens(recipe: Recipe, medium: str, part: str | None = None) -> Size:
    """The tokens of one picture or clip, as a closed form of its width, height and frames.

    Those of all parts whose features the language model takes, or what one `part` yields.
    """
    found = ends(recipe, medium)
    if part is not None and part not in found:
        return _taken(recipe, medium, yielded(recipe, Selector.of(part), medium))
    chosen = found.values() if part is None else (found[part],)
    return add(*(_taken(recipe, medium, end) for end in chosen))


def _taken(recipe: Recipe, medium: str, end: Yield) -> Size:
    if end.tokens is not None:
        return multiply(pictures(recipe, medium), end.tokens)
    given = recipe.inputs[medium]
    resize = given.resize
    shown = next(view for view in views(recipe, medium) if view.is_packed)
    patch = recipe.encoders[shown.encoder].patch
    per_slot = frames_per_slot(recipe, medium) if isinstance(given, VideoInput) else 1
    if shown.side is not None:
        cells = math.prod(shown.side // patch // side for side in end.window)
        return multiply(divide(pictures(recipe, medium), per_slot, up=True), cells)
    assert isinstance(resize, Native), "the others have one size"
    width, height = Symbol(f"{medium}.width"), Symbol(f"{medium}.height")
    limits: dict[str, Option] = {
        "multiple": resize.multiple,
        "least": resize.budget.at_least(1),
        "most": resize.budget.high,
    }
    if given.aspect:
        limits["aspect"] = given.aspect.high
    rows, columns = (resize.multiple // (patch * side) for side in end.window)
    if isinstance(given, ImageInput):
        return multiply(rows * columns, fit(width, height, **limits))
    frames = Symbol(f"{medium}.frames")
    if resize.clip:
        limits |= {"cap": resize.clip, "slack": resize.slack}
    limits["per"] = per_slot
    slots = divide(frames, per_slot, up=True)
    return multiply(slots, rows * columns, fit_frame(width, height, frames, **limits))


def pictures(recipe: Recipe, medium: str) -> Size:
    """How many pictures a tower of one size sees of one item: tiles, or the frames of a clip."""
    given = recipe.inputs[medium]
    if isinstance(given, VideoInput):
        return Symbol(f"{medium}.frames")
    if not isinstance(given.resize, Tiles):
        return 1
    count = given.resize.count
    limits: dict[str, Option] = {
        "side": given.resize.side,
        "low": count.at_least(1),
        "high": count.high,
        "thumbnail": int(given.resize.thumbnail),
    }
    if given.aspect:
        limits["aspect"] = given.aspect.high
    return tiles(Symbol(f"{medium}.width"), Symbol(f"{medium}.height"), **limits)


def meaning_of(recipe: Recipe) -> dict[str, Size]:
    """What the symbols in the graph's types mean: `image.patches` is a total over the images."""
    meaning = dict[str, Size]()
    for medium in recipe.inputs:
        found = ends(recipe, medium)
        meaning[f"{medium}.pictures"] = total(medium, pictures(recipe, medium))
        for shown in views(recipe, medium):
            packed = next((part for part, end in found.items() if end.is_packed), None)
            if shown.is_packed and packed:
                each = Symbol(f"{medium}.{packed if len(found) > 1 else 'tokens'}")
                area = math.prod(found[packed].window)
                meaning[f"{shown.name}.patches"] = multiply(area, total(medium, each))
        for part in found:
            meaning[f"{medium}.{part}"] = item_tokens(recipe, medium, part)
        if found:
            meaning[f"{medium}.tokens"] = item_tokens(recipe, medium)
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
                cost += text_cost(recipe, text)
            case IndexItem():
                cost += Cost(0, Bounds(1, len(str(MOST_ITEMS))))
            case RepeatItem(part=part) if part is None or part in _given(recipe):
                cost += Cost(Symbol(f"{rule}.{part or 'tokens'}"))
            case RuleItem(rule=used) if media or used not in recipe.inputs:
                cost += _cost(recipe, layout, layout.rules[used].items, used, media)
            case CornersItem():
                cost += Cost(0, Bounds(1, LONGEST_CORNERS))
            case LossItem(items=inner) | ApartItem(items=inner):
                cost += _cost(recipe, layout, inner, rule, media)
            case ChoiceItem(lines=lines):
                costs = (_cost(recipe, layout, line, rule, media) for line in lines)
                cost += max(costs, key=lambda line: line.most({}) or 0)
    return cost


def _given(recipe: Recipe) -> list[str]:
    """The parts whose features the language model takes."""
    return [source.part for source in recipe.lm.in_] if recipe.lm else []


def text_cost(recipe: Recipe, text: str) -> Cost:
    """A tokenizer makes at most one token of each byte, and one of a space that it puts before."""
    assert recipe.tokens
    prefixed = isinstance(recipe.tokens.tokenizer, SentencePiece) and bool(text)
    return Cost(0, Bounds(min(1, len(text)), len(text.encode()) + prefixed))


def frame_cost(recipe: Recipe, layout: Layout) -> Cost:
    """What the shortest sample of a layout takes without its content: one turn of each kind."""
    turns = [rule for rule in TURNS if rule in layout.rules]
    if layout.system is None and "system" in turns:
        turns.remove("system")
    begin = rule_cost(recipe, layout, "begin") if "begin" in layout.rules else Cost()
    costs = [
        rule_cost(recipe, layout, rule, media=False)
        for rule in turns or SAMPLES
        if rule in layout.rules
    ]
    if turns:
        return sum(costs, begin + text_cost(recipe, layout.system or ""))
    return begin + max(costs, key=lambda cost: cost.most({}) or 0, default=Cost())


def item_cost(recipe: Recipe, layout: Layout, medium: str) -> Cost:
    """What one picture or clip takes, tags included, as a closed form of its size."""
    cost = rule_cost(recipe, layout, medium) + text_cost(recipe, layout.gap or "")
    return Cost(substitute(cost.places, meaning_of(recipe)), cost.text)


@dataclass(frozen=True)
class Counted:
    """One picture or clip: what it becomes, and what it takes.

    Sizes are (width, height) in pixels; `frames` are those that are seen, 1 for a picture;
    `resized` is the size of each of the `pictures` that it becomes (1 where a tower sees a clip as
    a whole), and `grid` how the first tower cuts them; `tagged` counts the tokens with the tags
    that a layout puts around them.
    """

    medium: str
    size: tuple[int, int]
    frames: int
    resized: tuple[int, int]
    pictures: int
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

    SizeError when the recipe refuses it. A layout that places no such thing gives it no tokens.
    """
    rule, (width, height) = size_rule(recipe, medium), size
    given, first = recipe.inputs[medium], views(recipe, medium)[0]
    if isinstance(given, VideoInput):
        frames = clip_rule(given).sampled(*recorded)
        resized = rule.resized_frame(width, height, frames)
        shown = 1 if first.is_packed else frames
        slots = math.ceil(frames / frames_per_slot(recipe, medium))
    else:
        frames, resized = 1, rule.size(width, height)
        shown = slots = rule.pictures(width, height)
    tower = recipe.encoders[first.encoder]
    grid = grid_of(resized, tower.patch, slots)
    values = {f"{medium}.width": width, f"{medium}.height": height, f"{medium}.frames": frames}
    cost = item_cost(recipe, layout, medium) if medium in layout.rules else Cost()
    places = evaluate(cost.places, values)
    assert cost.text.most is not None
    return Counted(
        medium,
        size,
        frames,
        resized,
        shown,
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
    marked = {
        rule.name
        for rule in rules
        if any(isinstance(item, RepeatItem) for item in items_within(rule.items))
    }
    seen = reach(recipe).get("lm", ())
    return [medium for medium in recipe.inputs if medium in marked and medium in seen]


def shown(recipe: Recipe, purpose: Stage | AnyMode) -> list[str]:
    """The inputs that a stage or a mode takes: what a layout places, and what a route needs."""
    if isinstance(purpose, Retrieval):
        wanted = {*reach(recipe)[purpose.image.part]}
    elif isinstance(purpose, Features):
        wanted = {*reach(recipe)[purpose.of.part]}
    elif isinstance(purpose, Mode):
        wanted = {*placed(recipe, [recipe.layouts[purpose.layout]])}
    else:
        wanted = {*placed(recipe, [recipe.layouts[name] for name in purpose.layouts])}
        for objective in map(recipe.objectives.get, purpose.loss):
            wanted |= {medium for part in _seeing(objective) for medium in reach(recipe)[part]}
    return [medium for medium in recipe.inputs if medium in wanted]


def _seeing(objective: Objective | None) -> list[str]:
    """The parts whose pictures an objective compares with texts."""
    match objective:
        case Contrastive(image=sources):
            return [source.part for source in sources]
        case Matching(scores=source) | Captioning(text=source):
            return [source.part]
    return []


def route_limits(recipe: Recipe, mode: Retrieval | Features) -> dict[str, Bounds]:
    """How large the symbols can be, in one call, of a mode that has routes of its own."""
    batch = Bounds(mode.batch.at_least(1), mode.batch.high)
    found = {f"{medium}.pictures": batch for medium in shown(recipe, mode)}
    if isinstance(mode, Retrieval):
        found |= {"texts": batch, "length": Bounds(1, mode.prompt.high)}
    return found


def inference_limits(recipe: Recipe, mode: Mode, media: Iterable[str]) -> dict[str, Bounds]:
    """How large the symbols of a mode's methods can be, in one call.

    The features of a prompt are part of it, so its length bounds them, and they the patches. Of
    each prompt, `decode` takes all beams.
    """
    assert recipe.lm
    prompt = mode.prompt.high
    batch = Bounds(mode.batch.at_least(1), mode.batch.high * mode.beams)
    return {
        "batch": batch,
        "length": Bounds(1, prompt),
        "slots": Bounds(1, min(prompt + mode.new, recipe.lm.context)),
        **_rows(recipe, media, prompt * mode.batch.high),
    }


def training_limits(recipe: Recipe, stage: Stage, media: Iterable[str]) -> dict[str, Bounds]:
    """How large the symbols of a stage's methods can be, in one call."""
    assert recipe.speaker
    length = stage.pack or stage.truncate or recipe.speaker.context
    return {
        "batch": Bounds(1, stage.batch),
        "length": Bounds(1, length),
        "targets": Bounds(1, stage.batch * length),
        **_rows(recipe, media, stage.batch * length),
    }


def _rows(recipe: Recipe, media: Iterable[str], tokens: int) -> dict[str, Bounds]:
    """Patches of each input, in whole windows, or its pictures, and the rows of features."""
    found = dict[str, Bounds]()
    for medium in media:
        taken = ends(recipe, medium).values()
        dense = sum(end.tokens for end in taken if end.tokens is not None)
        if dense:
            found[f"{medium}.pictures"] = Bounds(1, max(1, tokens // dense))
            found.setdefault("pictures", found[f"{medium}.pictures"])
        area = math.prod(next((end.window for end in taken if end.is_packed), (1, 1)))
        for shown in views(recipe, medium):
            if shown.is_packed:
                patches = Bounds(area, area * tokens, area)
                found[f"{shown.name}.patches"] = patches
                found.setdefault("patches", patches)
    if isinstance(recipe.lm, QueryDecoder):
        (source,) = recipe.adapters[recipe.lm.in_[0].part].in_
        each = yielded(recipe, source, next(iter(media))).tokens
        assert each
        most = found["pictures"].most
        return {**found, "features": Bounds(each, each * (most or 1), each)}
    takes = recipe.lm.in_ if recipe.lm else ()
    if found and any(reads(recipe, source.part) for source in takes):
        found |= {"questions": Bounds(1, tokens), "question.length": Bounds(1, tokens)}
    return {**found, "features": Bounds(1, tokens)} if found else {}

"""What each picture, clip, turn, sample and pack of a layout takes, as closed forms."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from ..dsl.recipe import Recipe
from ..dsl.texts import Layout, SlotItem, items_within
from .tokens import (
    NONE,
    SAMPLES,
    TURNS,
    Cost,
    as_seen,
    domain,
    item_cost,
    meaning_of,
    placed,
    rule_cost,
    text_cost,
)
from .types import Bounds, Size, Symbol, add, bounds, multiply, substitute, symbols, total

CONTENT = "text"
"""The symbol of what is said: the tokens of all text that is not the layout's own."""
MANY = "turns"
"""The symbol of how many questions a dialogue has, each with its answer."""
TAGGED = "tagged"
"""The symbol of what a picture or clip takes with its tags: its own form says it."""
SHOWN_AGAIN = "recalls"
"""The symbol of how many later questions show the earlier pictures once more."""


@dataclass(frozen=True)
class Form:
    """The tokens of one thing: places and special tokens as a size, fixed text within bounds.

    `kind` is `image`, `video`, `turn`, `sample` or `pack`, `name` the rule, layout or stage.
    `text` is what the layout writes once, `each` what it writes for each question with its answer.
    `found` is the least and the most over all that the recipe lets in.
    """

    kind: str
    name: str
    size: Size
    text: Bounds
    each: Bounds
    found: Bounds


def forms(recipe: Recipe, layout: str) -> list[Form]:
    """The closed forms of a layout: of its inputs, its turns, its samples, and its packs.

    A stage or a mode that resizes pictures in its own way has other inputs: see `as_seen`.
    """
    rules = recipe.layouts[layout]
    media = [_medium(recipe, rules, medium) for medium in placed(recipe, [rules])]
    turns = [_turn(recipe, rules, rule) for rule in TURNS if rule in rules.rules]
    samples = list(_samples(recipe, layout, rules))
    packs = [
        _pack(recipe, layout, stage)
        for stage, one in recipe.stages.items()
        if one.pack and layout in one.layouts
    ]
    return [*media, *turns, *samples, *packs]


def _form(
    recipe: Recipe, kind: str, name: str, cost: Cost, most: int | None = None, each: Bounds = NONE
) -> Form:
    """A form with its bounds; what is said takes a token at least, and all no more than `most`."""
    limits = domain(recipe) | {CONTENT: Bounds(1, None), MANY: Bounds(1, None)}
    found = bounds(cost.places, limits)
    assert cost.text.most is not None
    # A dialogue may go on for any number of turns, so that its size has no end of its own.
    ends = [] if found.most is None else [found.most + cost.text.most]
    ends += [] if most is None else [most]
    least = found.least + cost.text.least + each.least
    found = Bounds(least, min(ends) if ends else None)
    return Form(kind, name, cost.places, cost.text, each, found)


def _medium(recipe: Recipe, layout: Layout, medium: str) -> Form:
    return _form(recipe, medium, medium, item_cost(recipe, layout, medium))


def _shown(recipe: Recipe, layout: Layout) -> Cost:
    """All pictures and clips of a dialogue, with their tags, and once more where that is said."""
    cost = Cost()
    for medium in placed(recipe, [layout]):
        each = item_cost(recipe, layout, medium)
        known = each.is_exact and isinstance(each.places, int)
        cost += Cost(total(medium, each.places if known else Symbol(f"{medium}.{TAGGED}")))
        if "recall" in layout.rules:
            again = rule_cost(recipe, layout, "recall").places
            parts = {f"recall.{end}": Symbol(f"{medium}.{end}") for end in _ends(again)}
            size = substitute(substitute(again, parts), meaning_of(recipe))
            cost += Cost(multiply(Symbol(SHOWN_AGAIN), total(medium, size)))
    return cost


def _ends(size: Size) -> list[str]:
    """What a rule counts of its parameter: `tokens`, or the parts whose features it places."""
    return [name.partition(".")[2] for name in symbols(size)]


def _turn(recipe: Recipe, layout: Layout, rule: str) -> Form:
    """One turn: its frame, what is said, and in a question the pictures that it shows."""
    cost = rule_cost(recipe, layout, rule, media=False) + Cost(Symbol(CONTENT))
    if rule == "user":
        cost += _shown(recipe, layout)
    return _form(recipe, "turn", rule, cost)


def _samples(recipe: Recipe, name: str, layout: Layout) -> Iterator[Form]:
    """A whole dialogue, and each kind of sample that is no dialogue."""
    most = _room(recipe, name)
    begin = rule_cost(recipe, layout, "begin") if "begin" in layout.rules else Cost()
    if "assistant" in layout.rules:
        cost = begin
        if layout.system is not None and "system" in layout.rules:
            cost += rule_cost(recipe, layout, "system") + text_cost(recipe, layout.system)
        each = Cost()
        for rule in ("user", "assistant"):
            if rule in layout.rules:
                each += rule_cost(recipe, layout, rule, media=False)
        cost += Cost(add(multiply(Symbol(MANY), each.places), Symbol(CONTENT)))
        cost += _shown(recipe, layout)
        yield _form(recipe, "sample", "dialogue", cost, most, each.text)
    for rule in SAMPLES:
        if rule not in layout.rules:
            continue
        cost = begin + rule_cost(recipe, layout, rule)
        said = any(isinstance(one, SlotItem) for one in items_within(layout.rules[rule].items))
        places = substitute(cost.places, meaning_of(recipe))
        content = Symbol(CONTENT) if said else 0
        yield _form(recipe, "sample", rule, Cost(add(places, content), cost.text), most)


def _room(recipe: Recipe, layout: str) -> int | None:
    """The longest sample that any stage takes in a layout, or the context where none does."""
    writer = recipe.speaker
    rooms = [
        stage.truncate or stage.pack or (writer.context if writer else None)
        for stage in recipe.stages.values()
        if layout in stage.layouts
    ]
    known = [room for room in rooms if room is not None]
    return max(known, default=writer.context if writer else None)


def _pack(recipe: Recipe, layout: str, stage: str) -> Form:
    """A row of samples, each with positions of its own: as many as there is room for."""
    chosen = recipe.stages[stage]
    assert chosen.pack
    seen = as_seen(recipe, chosen)
    samples = list(_samples(seen, layout, recipe.layouts[layout]))
    least = min(form.found.least for form in samples)
    return Form(
        "pack",
        stage,
        total("sample", Symbol("sample.tokens")),
        NONE,
        NONE,
        Bounds(least, chosen.pack),
    )

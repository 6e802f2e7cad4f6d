"""The closed forms are what layouts really write: turn by turn, for every recipe that ships."""

from __future__ import annotations

import pytest

from triptych.blocks.input.layout import Layout, Medium, Message, Places, Special
from triptych.compiler.forms import CONTENT, MANY, SHOWN_AGAIN, TAGGED, forms
from triptych.compiler.spec import layout_json
from triptych.compiler.tokens import counted, ends, item_cost, item_tokens, placed
from triptych.compiler.types import evaluate
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe

SIZE = (96, 64)
CLIP = (8, 2.0)


def written(recipe, layout, messages):
    """How many special tokens and places a layout writes."""
    runs = Layout(layout, layout_json(recipe, recipe.layouts[layout])).render(messages)
    marks = sum(isinstance(run, Special) for run in runs)
    return marks + sum(run.count for run in runs if isinstance(run, Places))


def shown(recipe, medium):
    """A picture or clip, and what the symbols of its form are worth."""
    values = {f"{medium}.width": SIZE[0], f"{medium}.height": SIZE[1], f"{medium}.frames": 8}
    parts = ends(recipe, medium)
    places = {part: evaluate(item_tokens(recipe, medium, part), values) for part in parts}
    return Medium(medium, places, SIZE), values


def worth(recipe, rules, form, media, turns, again):
    """The value of a form where so many questions were asked of these pictures."""
    items, values = {}, {CONTENT: 0, MANY: turns, SHOWN_AGAIN: again}
    for medium in placed(recipe, [rules]):
        _, sizes = shown(recipe, medium)
        tagged = evaluate(item_cost(recipe, rules, medium).places, sizes)
        count = media.count(medium)
        items[medium] = [{**sizes, f"{medium}.{TAGGED}": tagged} for _ in range(count)]
        values |= {f"{medium}.count": count, **sizes}
    return evaluate(form.size, {**values, **items})


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_dialogue_takes_what_its_form_says(name):
    recipe = load_recipe(name)
    for layout, rules in recipe.layouts.items():
        for form in forms(recipe, layout):
            if (form.kind, form.name) != ("sample", "dialogue") or "user" not in rules.rules:
                continue
            media = [*placed(recipe, [rules]), *placed(recipe, [rules])[:1]]
            asked = [shown(recipe, medium)[0] for medium in media]
            first = [Message("user", (*asked, "a")), Message("assistant", ("a",))]
            later = [Message("user", ("a",)), Message("assistant", ("a",))]
            for turns in (1, 3):
                again = (turns - 1) * ("recall" in rules.rules)
                messages = [*first, *later * (turns - 1)]
                found = written(recipe, layout, messages)
                assert found == worth(recipe, rules, form, media, turns, again), (layout, turns)


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_sample_that_is_no_dialogue_takes_what_its_form_says(name):
    recipe = load_recipe(name)
    for layout, rules in recipe.layouts.items():
        for form in forms(recipe, layout):
            if form.kind != "sample" or form.name == "dialogue":
                continue
            media = placed(recipe, [rules])[:1] if form.name == "pair" else []
            parts = (*(shown(recipe, medium)[0] for medium in media), "a")
            if len(parts) == len(rules.rules[form.name].parameters):
                found = written(recipe, layout, [Message(form.name, parts)])
                assert found == worth(recipe, rules, form, media, 1, 0), layout


@pytest.mark.parametrize("name", shipped_recipes())
def test_bounds_hold_a_value(name):
    recipe = load_recipe(name)
    for layout, rules in recipe.layouts.items():
        every = {form.kind: form for form in forms(recipe, layout)}
        for medium in placed(recipe, [rules]):
            taken = counted(recipe, rules, medium, SIZE, CLIP).tagged
            found = every[medium].found
            assert found.least <= taken.least
            assert taken.most is not None
            assert found.most is None or taken.most <= found.most
        if "pack" in every:
            least, most = every["pack"].found.least, every["pack"].found.most
            assert most is not None and 0 < least <= most

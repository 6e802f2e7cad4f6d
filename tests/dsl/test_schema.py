"""A recipe as JSON: the schema takes it, and the text made of it means the same."""

from __future__ import annotations

import copy
import json
import random
import re
from pathlib import Path

import jsonschema
import pytest

import triptych
from triptych.compiler.pipeline import prove
from triptych.dsl import load
from triptych.dsl.assumed import assumed
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.evaluate import settings_of, types_of
from triptych.dsl.files import shipped_recipes
from triptych.dsl.format import format_text
from triptych.dsl.generated import read_json, to_text
from triptych.dsl.recipe import CALLS
from triptych.dsl.schema import schema, to_json


def load_recipe(name):
    return load.load_recipe(name)


def load_text(text, name="<text>"):
    return load.load_text(text, name)


PAGE = (Path(triptych.__file__).parent / "docs" / "generated.md").read_text(encoding="utf-8")


def test_the_example_of_the_docs_is_a_recipe(validator):
    (text,) = re.findall(r"^```json\n(.*?)^```$", PAGE, re.M | re.S)
    data = json.loads(text)
    assert [error.message for error in validator.iter_errors(data)] == []
    recipe = load_text(to_text(data, data["name"]), "small.vlm")
    prove(recipe)
    assert assumed(recipe) == data["assumed"]
    assert recipe.stages["first"].stop.value == 1000


@pytest.fixture(scope="module")
def whole():
    return schema()


@pytest.fixture(scope="module")
def validator(whole):
    jsonschema.Draft202012Validator.check_schema(whole)
    return jsonschema.Draft202012Validator(whole)


def plain(recipe):
    """The JSON of a recipe as a reader has it."""
    return json.loads(json.dumps(to_json(recipe)))


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_go_through_json_and_come_back(name, validator):
    recipe = load_recipe(name)
    data = plain(recipe)
    assert [error.message for error in validator.iter_errors(data)] == []
    text = to_text(data, name)
    assert format_text(text) == text
    back = load_text(text, f"{name}.vlm")
    assert back == recipe
    assert set(assumed(back)) == set(assumed(recipe))
    assert plain(back) == data
    prove(back)


def test_the_schema_is_that_of_the_models(whole, golden):
    for model in (*CALLS.values(), *(m for kind in KINDS for m in types_of(kind).values())):
        stated = set(whole["$defs"][model.__name__]["properties"])
        assert set(settings_of(model)) <= stated, model
    golden.check("schema/mrope.json", json.dumps(whole["$defs"]["Mrope"], indent=2) + "\n")


KINDS = ("input", "encoder", "adapter", "lm", "objective", "mode")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("lm.width", "48"),
        ("lm.width", 0),
        ("lm.width", 4.5),
        ("lm.context", 1024),
        ("lm.context", "1024px"),
        ("lm.act", "silo"),
        ("lm.widht", 4),
        ("lm.pos", {"call": "rope2d", "theta": 100}),
        ("lm.pos", {"call": "mrope", "sections": [2, 3], "theta": 100}),
        ("lm.pos", {"call": "mrope", "sections": [2, 3, 3]}),
        ("encoders.vit.type", "Vit"),
        ("encoders.vit.in", "image"),
        ("encoders.vit.in", []),
        ("stages.first.stop", "100px"),
        ("stages.first.train", ["vit blocks"]),
        ("tokens.specials.end.id", -1),
        ("layouts.caption.rules.pair.items", [{"item": "loss"}]),
    ],
)
def test_the_schema_refuses(path, value, small, validator):
    data = plain(load_text(small))
    assert validator.is_valid(data)
    *way, last = path.split(".")
    place = data
    for key in way:
        place = place[key]
    place[last] = value
    assert not validator.is_valid(data)


def test_expressions_and_assumptions(small, validator):
    data = plain(load_text(small))
    data["adapters"]["merger"]["out"] = {"expression": "lm.width"}
    data["encoders"]["vit"]["ffn"] = {"expression": "4 * vit.width"}
    data["assumed"] = ["lm.context", "first.optim.lr", "first.train"]
    assert validator.is_valid(data)
    recipe = load_text(to_text(data, "small"))
    assert recipe.origin("merger.out").kind == "derived"
    assert recipe.encoders["vit"].ffn == 4 * recipe.encoders["vit"].width
    assert set(assumed(recipe)) == set(data["assumed"])


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"lm": 3}, "E101"),
        ({"lm": {"type": "Decoder", "width": None}}, "E101"),
        ({"lm": {"type": "De coder"}}, "E101"),
        ({"lm": {"type": "Decoder", "width": "4 depth = 2"}}, "E101"),
        ({"lm": {"type": "Decoder", "width": "4 a.b = 2"}}, "E101"),
        ({"lm": {"type": "Decoder", "width": {"expression": "4 }"}}}, "E103"),
        ({"asserts": ["1 == 1 drop lm"]}, "E101"),
        ({"asserts": "1 == 1"}, "E101"),
        ({"layouts": {"l": {"rules": {"a": {"parameters": ["b c"], "items": []}}}}}, "E101"),
        (
            {"layouts": {"l": {"rules": {"a": {"parameters": [], "items": [{"item": "x"}]}}}}},
            "E101",
        ),
        ({"encoder": {}}, "E101"),
        ({"assumed": [1]}, "E101"),
    ],
)
def test_json_of_another_shape_is_refused_by_its_path(change, code, small):
    with pytest.raises(RecipeError) as caught:
        to_text(plain(load_text(small)) | change, "small")
    assert {diagnostic.code for diagnostic in caught.value.diagnostics} == {code}


def test_what_is_wrong_with_the_recipe_is_said_of_its_text(small):
    data = plain(load_text(small))
    data["lm"] |= {"widht": 48, "context": 1024}
    with pytest.raises(RecipeError) as caught:
        load_text(to_text(data, "small"), "small.vlm")
    assert {diagnostic.code for diagnostic in caught.value.diagnostics} == {"N202", "V302"}


@pytest.mark.parametrize("text", ["{", "[1, 2", '{"lm": NaN}', "[" * 100_000, '"xx', "1" * 9_000])
def test_what_is_no_json(text):
    with pytest.raises(RecipeError):
        to_text(read_json(text, "recipe.json"), "small")


WORDS = ("", "lm", "4 *", "}", '"', "a\nb", "\ud800", "1 # x", "#")
TABLES: tuple[dict[str, object], ...] = (
    {},
    {"call": "x"},
    {"call": "mix", "shares": 3},
    {"expression": 3},
    {"item": "text"},
)
ODD: list[object] = [None, True, -1, 1e400, 10**30, [], [[]], *WORDS, *TABLES]


def places(data, path=()):
    """The way to each value inside."""
    items = data.items() if isinstance(data, dict) else enumerate(data)
    for key, inner in items:
        yield (*path, key)
        if isinstance(inner, dict | list):
            yield from places(inner, (*path, key))


@pytest.mark.parametrize("name", ["qwen2_vl_tiny", "internvl_14b_tiny"])
def test_whatever_the_json_holds_the_answer_is_a_recipe_or_a_diagnostic(name):
    whole = plain(load_recipe(name))
    chance = random.Random(name)
    for _ in range(80):
        data = copy.deepcopy(whole)
        *way, last = chance.choice(list(places(data)))
        inner = data
        for key in way:
            inner = inner[key]
        inner[last] = chance.choice(ODD)
        try:
            load_text(to_text(data, "odd"), "odd.vlm")
        except RecipeError as error:
            assert error.render().startswith("error[")


def test_texts_keep_every_letter(small):
    data = plain(load_text(small))
    text = 'a "quoted" \\ \n\t ünïcode \u2028 end'
    data["layouts"]["caption"]["system"] = text
    assert load_text(to_text(data, "small")).layouts["caption"].system == text

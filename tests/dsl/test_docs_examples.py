"""What docs/language.md shows is accepted, and what it lists is complete."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import triptych
from triptych.compiler.pipeline import prove
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.evaluate import STATED_OTHERWISE, settings_of
from triptych.dsl.format import format_text
from triptych.dsl.inputs import INPUTS
from triptych.dsl.load import load_text
from triptych.dsl.modes import MODES
from triptych.dsl.objectives import OBJECTIVES
from triptych.dsl.parts import ADAPTERS, ENCODERS, LANGUAGE_MODELS
from triptych.dsl.reading import names_of
from triptych.dsl.recipe import CALLS
from triptych.dsl.stages import Stage
from triptych.dsl.texts import Layout, Tokens
from triptych.dsl.units import UNITS
from triptych.dsl.whole import NAMED_BLOCKS, SINGLE_BLOCKS

PAGE = (Path(triptych.__file__).parent / "docs" / "language.md").read_text(encoding="utf-8")
FENCES = re.findall(r"^```(\S+)( wrong)?\n(.*?)^```$", PAGE, re.M | re.S)
RECIPES = [text for language, wrong, text in FENCES if language == "vlm" and not wrong]
FIRST = RECIPES[0]


def whole(text):
    """An example as a text that loads on its own."""
    if text is FIRST:
        return text
    if text.startswith("recipe "):
        return f"{FIRST}\n{text}"
    return f"{FIRST}\nrecipe example extends first {{\n{text}}}\n"


@pytest.mark.parametrize("text", RECIPES, ids=lambda text: text.splitlines()[0])
def test_examples_hold(text):
    recipe = load_text(whole(text), "docs/language.md")
    if "add weights" not in text:  # shown in part: a map is total in a recipe
        prove(recipe)


def test_the_first_example_is_formatted():
    assert format_text(FIRST) == FIRST


def test_the_message_is_the_one_shown():
    (at,) = (i for i, (_, wrong, _) in enumerate(FENCES) if wrong)
    with pytest.raises(RecipeError) as caught:
        load_text(FENCES[at][2], "mine.vlm")
    assert caught.value.render() == FENCES[at + 1][2]


def test_python_examples_run(capsys):
    for language, _, text in FENCES:
        if language == "python":
            exec(compile(text, "docs/language.md", "exec"), {})
    assert "1536 Origin(kind='given'" in capsys.readouterr().out


def section(title: str):
    """The text of a block's section."""
    match = re.search(rf"^### {title}\n(.*?)(?=^##)", PAGE, re.M | re.S)
    assert match, title
    return match[1]


@pytest.mark.parametrize(
    ("title", "models"),
    [
        ("tokens", [Tokens]),
        ("input", INPUTS.values()),
        ("encoder", ENCODERS.values()),
        ("adapter", ADAPTERS.values()),
        ("lm", LANGUAGE_MODELS.values()),
        ("layout", [Layout]),
        ("objective", OBJECTIVES.values()),
        ("stage", [Stage]),
        ("mode", MODES.values()),
    ],
)
def test_every_setting_is_listed(title, models):
    known = {name for model in models for name in settings_of(model)}
    text = section(title)
    assert known <= set(re.findall(r"`(\w+)`", text) + re.findall(r"`(\w+) =", text))
    for table in re.findall(r"^\| setting [^\n]*\n\|[-|]*\n((?:\|[^\n]*\n)*)", text, re.M):
        first_columns = re.findall(r"^\| ([^|]*) \|", table, re.M)
        assert set(re.findall(r"`(\w+)`", " ".join(first_columns))) <= known


def test_every_call_is_shown():
    for name in CALLS:
        assert re.search(rf"\b{name}\(", PAGE), name
    for model in CALLS.values():
        for field in set(names_of(model)) - {model.open_arguments, *model.positional}:
            assert re.search(rf"\b{field}: ", PAGE), (model, field)


def test_every_block_and_unit_is_named():
    for kind in (*SINGLE_BLOCKS, *NAMED_BLOCKS):
        assert section(kind)
    for unit in UNITS:
        shown = unit if len(unit) < 3 or unit.endswith("iB") else unit.lstrip("kMGT")
        assert f"`{shown}`" in PAGE or f"`{unit[-1]}`" in PAGE, unit
    assert {"specials", "rules", "fresh", "ignored"} == STATED_OTHERWISE

"""The Python face does what its docstrings say."""

from __future__ import annotations

import doctest

import pytest

import triptych
from triptych.blocks.input.sample import Turn
from triptych.dsl.diagnostics import RecipeError

TINY = (
    "lm.depth = 1",
    "lm.width = 32",
    "lm.heads = 2",
    "lm.kv_heads = 1",
    "lm.ffn = 64",
    "lm.pos.sections = [2, 3, 3]",
    "vit.depth = 1",
    "vit.width = 32",
    "vit.heads = 2",
    "vit.ffn = 64",
)


def test_doctest():
    assert doctest.testmod(triptych).failed == 0


def test_from_a_recipe_to_an_answer():
    tiny = triptych.recipe("qwen2_vl_2b", amend=TINY)
    session = triptych.compile(tiny, weights=0)
    (answer,) = session.chat([[Turn("user", ("Hello",))]], new=4)
    again = triptych.compile(tiny, weights=0).chat([[Turn("user", ("Hello",))]], new=4)
    assert answer.tokens and again == [answer]


def test_a_recipe_that_does_not_hold_is_not_handed_out():
    with pytest.raises(RecipeError):
        triptych.recipe("qwen2_vl_2b", amend=["lm.heads = 5"])

"""The Python face does what its docstrings say."""

from __future__ import annotations

import doctest

import pytest

import triptych
from triptych.backends.embedding import Embedder
from triptych.backends.generation import Session
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
    session, other = (triptych.compile(tiny, weights=0) for _ in range(2))
    assert isinstance(session, Session) and isinstance(other, Session)
    (answer,) = session.batch([[Turn("user", ("Hello",))]], new=4)
    assert answer.tokens and other.batch([[Turn("user", ("Hello",))]], new=4) == [answer]


def test_a_mode_that_compares_gives_vectors():
    tiny = triptych.recipe("internvl_14b_tiny")
    session = triptych.compile(tiny, weights=0, mode="retrieval_c")
    assert isinstance(session, Embedder)
    texts = session.texts(["a red fox", "two boats"])
    assert session.cosines(texts, texts).diagonal().tolist() == pytest.approx([1, 1])


def test_a_recipe_that_does_not_hold_is_not_handed_out():
    with pytest.raises(RecipeError):
        triptych.recipe("qwen2_vl_2b", amend=["lm.heads = 5"])

"""Towers and parts of each kind, compiled just in time, yield what eager does; so do answers.

`benchmarks/parity.py` says the same of every method of every small recipe in every backend and
precision, and of the tokens of answers; what is here is as much as a test may take.
"""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from triptych.backends.eager import Eager
from triptych.backends.inductor import Inductor
from triptych.backends.job import job
from triptych.benchmarks.agreement import places
from triptych.dsl.load import load_recipe

from .conftest import DIALOGUES, asked, assert_same_methods, made, picture

KINDS = ("deepseek_vl_tiny", "minigpt4_tiny", "internvl_chat_qllama_tiny")
"""Two towers, one of them over maps; queries that look; a decoder that reads and looks."""
TOLERANCE = 2e-5
LANGUAGE = {"prefill", "decode", "vision_video"}
"""What other tests compile, of a model whose methods are the same."""


@pytest.mark.parametrize("name", KINDS)
def test_what_is_seen_is_what_eager_sees(name, tmp_path):
    recipe = load_recipe(name)
    whole = made(recipe, mode=next(iter(recipe.modes)))
    methods = {name: method for name, method in whole.methods.items() if name not in LANGUAGE}
    part = replace(whole, methods=methods)
    ours = Inductor(tmp_path).compile(part)
    assert_same_methods(part, ours, Eager().compile(part), TOLERANCE)
    assert ours.recompiles == 0
    assert {method for method, _ in ours.graphs} == methods.keys()


def test_a_decoder_that_looks_fills_its_cache_as_eagers(tmp_path):
    """Sizes that several inputs share are known to be equal in stretches that are compiled once."""
    caption = job(load_recipe("internvl_14b_tiny"), "caption", weights=0)
    caption = replace(caption, methods={"prefill": caption.methods["prefill"]})
    ours, eager = (one.compile(caption) for one in (Inductor(tmp_path), Eager()))
    assert_same_methods(caption, ours, eager, TOLERANCE, batch=1)


@pytest.fixture(scope="module")
def halves(recipe):
    """A job in bfloat16, and eager with its weights in float32."""
    half, exact = made(recipe, dtype=torch.bfloat16), made(recipe, dtype=torch.float32)
    weights = half.lowered.module.state_dict()
    for name, tensor in exact.lowered.module.state_dict().items():
        tensor.copy_(weights[name])
    return half, Eager().compile(exact)


def test_greedy_tokens_in_bfloat16_are_eagers_but_at_near_ties(halves, tmp_path, monkeypatch):
    """What comes before an answer is eager's here, so that one graph is compiled and not four."""
    half, exact = halves
    ours, eager = Inductor(tmp_path).compile(half), Eager().compile(half)
    decode = ours.run
    monkeypatch.setattr(
        ours, "run", lambda name, fed: (decode if name == "decode" else eager.run)(name, fed)
    )
    shown = [asked(picture(100, 60, seed), "what is this?") for seed in range(3)]
    found = places(half, ours, eager, exact, shown)
    assert [method for method, _ in ours.graphs] == ["decode"]
    assert len(found) == 36
    assert all(place.same or place.tie for place in found), found


@pytest.mark.parametrize("weight", ["lm.blocks.1.attn.o.weight", "lm.blocks.0.attn.k.weight"])
def test_a_token_that_is_wrong_is_no_near_tie(halves, recipe, weight):
    """Of a model that has one matrix upside down."""
    half, exact = halves
    wrong = made(recipe, dtype=torch.bfloat16)
    wrong.lowered.module.get_parameter(weight).copy_(
        half.lowered.module.state_dict()[weight].flip(0)
    )
    eager = Eager().compile(half)
    assert all(one.same for one in places(half, eager, eager, exact, DIALOGUES[:2]))
    found = places(half, Eager().compile(wrong), eager, exact, DIALOGUES[:2])
    assert any(not (place.same or place.tie) for place in found), found

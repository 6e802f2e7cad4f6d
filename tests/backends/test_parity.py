"""Towers and parts of each kind, compiled just in time, yield what eager does.

`benchmarks/parity.py` says the same of every method of every small recipe in every backend and
precision, and of the tokens of answers; what is here is as much as a test may take.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from triptych.backends.eager import Eager
from triptych.backends.inductor import Inductor
from triptych.dsl.load import load_recipe

from .conftest import assert_same_methods, made

KINDS = ("deepseek_vl_tiny", "minigpt4_tiny", "internvl_chat_qllama_tiny")
"""Two towers, one of them over maps; queries that look; a decoder that reads and looks."""
TOLERANCE = 2e-5
LANGUAGE = {"prefill", "decode", "vision_video"}
"""What other tests compile, of a model whose methods are the same."""


@pytest.mark.parametrize("name", KINDS)
def test_what_is_seen_is_what_eager_sees(name, tmp_path):
    recipe = load_recipe(name)
    job = made(recipe, mode=next(iter(recipe.modes)))
    methods = {name: method for name, method in job.methods.items() if name not in LANGUAGE}
    job = replace(job, methods=methods)
    ours = Inductor(tmp_path).compile(job)
    assert_same_methods(job, ours, Eager().compile(job), TOLERANCE)
    assert ours.recompiles == 0
    assert {method for method, _ in ours.graphs} == methods.keys()

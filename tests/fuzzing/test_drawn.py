"""The same grammar with the choices of hypothesis, which shrinks what fails to something small."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triptych.tests.fuzzing.cases import KINDS, beside
from triptych.tests.fuzzing.chance import Drawn
from triptych.tests.fuzzing.properties import examine

KEPT = sorted((Path(__file__).parent / "kept").glob("*.vlm"))


@st.composite
def texts(draw, kind):
    return KINDS[kind](Drawn(draw))


@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(texts("whole"))
def test_recipes_that_hold(text):
    examine(text)


@settings(
    max_examples=150,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(texts("near"))
def test_recipes_that_nearly_hold(text):
    examine(text, beside())


@pytest.mark.parametrize("path", KEPT, ids=lambda path: path.stem)
def test_what_failed_once(path):
    assert examine(path.read_text(encoding="utf-8")) != "good"

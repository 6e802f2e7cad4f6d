"""Recipes that ship, changed without regard to grammar: never a traceback."""

from __future__ import annotations

import pytest

from triptych.tests.fuzzing.sharding import answers, shards


@pytest.mark.parametrize("first", shards(10400))
def test_cases(first):
    said = {code for codes in answers("bytewise", first) for code in codes.split()}
    assert len(said) > 4

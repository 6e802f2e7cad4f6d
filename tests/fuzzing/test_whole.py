"""Recipes that hold are read, proved and formatted as such."""

from __future__ import annotations

import pytest

from triptych.tests.fuzzing.sharding import SIZE, answers, shards


@pytest.mark.parametrize("first", shards(800))
def test_cases(first):
    good = [said for said in answers("whole", first) if said == "good"]
    assert len(good) > 0.8 * SIZE

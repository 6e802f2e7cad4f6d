"""Words of recipes exchanged: never a traceback."""

from __future__ import annotations

import pytest

from triptych.tests.fuzzing.sharding import answers, shards


@pytest.mark.parametrize("first", shards(1000))
def test_cases(first):
    said = {code for codes in answers("worded", first) for code in codes.split()}
    assert len(said) > 15

"""Any settings, blocks and statements of the language, where they may stand: never a traceback."""

from __future__ import annotations

import pytest

from triptych.tests.fuzzing.sharding import answers, shards


@pytest.mark.parametrize("first", shards(7800))
def test_cases(first):
    said = {code for codes in answers("near", first) for code in codes.split()}
    assert len(said) > 20  # the cases reach more than one corner

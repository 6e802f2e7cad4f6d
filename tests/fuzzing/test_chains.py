"""Every value of a recipe made from nothing has a chain that ends where somebody wrote it."""

from __future__ import annotations

import pytest

from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.load import load_text
from triptych.dsl.why import chain, paths_of
from triptych.tests.fuzzing.cases import case


@pytest.mark.parametrize("number", range(24))
def test_every_value_has_a_chain(number):
    try:
        recipe = load_text(case("whole", number), "case.vlm")
    except RecipeError:
        pytest.skip("an author's variant that does not hold")
    for path in paths_of(recipe):
        links = chain(recipe, path)
        assert (links[0].relation, links[0].depth) == ("is", 0)
        assert links[0].worth
        for link in links:
            assert link.span or link.how in ("default", "derived")
            assert link.to_json()["path"]

"""What every stage and every mode of the small recipes is lowered to, as text."""

from __future__ import annotations

import pytest

from triptych.compiler.pipeline import for_inference, for_training
from triptych.compiler.text import read_methods, text_of_methods
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe

SMALL = sorted(name for name in shipped_recipes() if name.endswith("_tiny"))
MIXED = sorted(name for name in shipped_recipes() if name.startswith("mixed_"))


@pytest.mark.parametrize("name", SMALL + MIXED)
def test_the_methods_of_every_stage_and_mode(golden, name):
    recipe = load_recipe(name)
    lowered = {f"stage {stage}": for_training(recipe, stage).methods for stage in recipe.stages}
    lowered |= {f"mode {mode}": for_inference(recipe, mode).methods for mode in recipe.modes}
    texts = {use: text_of_methods(methods) for use, methods in lowered.items()}
    for text in texts.values():
        assert text_of_methods(read_methods(text)) == text
    parts = (f"{use}\n{'=' * len(use)}\n\n{text}" for use, text in texts.items())
    golden.check(f"methods/{name}.txt", "\n".join(parts))

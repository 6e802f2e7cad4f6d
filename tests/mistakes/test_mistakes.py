"""The mistakes of real users: each is refused, as itself and nothing else, in words that help."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from triptych.backends.headers import prove_checkpoint
from triptych.compiler.pipeline import prove
from triptych.compiler.weights import published_shapes
from triptych.dsl.diagnostics import Diagnostic, RecipeError, render
from triptych.dsl.load import load_recipe

FOLDER = Path(__file__).parent

MISTAKES = {
    "selector_typo": "F603",
    "selector_of_nothing": "F603",
    "freeze_of_no_part": "F604",
    "head_frozen_by_its_tie": "F608",
    "trained_off_the_path": "F607",
    "adapter_over_training": "F602",
    "adapter_of_a_tied_head": "F608",
    "adapter_by_a_name": "F604",
    "new_tokens_in_frozen_rows": "F620",
    "special_outside_vocabulary": "T501",
    "two_tokens_on_one_id": "T502",
    "sample_too_long": "T504",
    "clip_too_long": "T504",
    "truncation_through_a_picture": "T507",
    "strip_resized_to_nothing": "T505",
    "towers_that_differ": "S414",
    "rotary_sections": "S403",
    "layout_without_loss": "L705",
    "loss_without_stop": "L706",
    "stage_after_nothing": "F605",
    "stage_lost_on_the_way": "F616",
    "tensor_without_a_place": "W801",
    "base_with_unplaced_tensors": "W808",
    "precision_of_too_much": "F618",
    "ended_before_it_is_warm": "F610",
    "share_for_a_rate": "F610",
    "more_parts_than_samples": "V305",
    "wider_than_trained": "T509",
    "cache_of_what_learns": "F617",
    "packing_without_segments": "S416",
    "unknown_key": "N202",
    "override_of_nothing": "N209",
    "wrong_dimension": "V301",
    "bare_number": "V302",
    "circular_extends": "N207",
    "circular_import": "N217",
    "circular_value": "N208",
    "two_blocks_of_one_name": "N205",
}
"""What a user did, and the code that refuses it; the story stands at the head of NAME.vlm."""

ALONE = {
    "adapter_by_a_name",
    "freeze_of_no_part",
    "stage_after_nothing",
    "unknown_key",
    "wrong_dimension",
    "bare_number",
}
"""Mistakes with no other party: what is written there means nothing by itself."""


STRANGERS = {"base_with_unplaced_tensors": ["pooler.latent", "pooler.kv.weight", "pooler.q.weight"]}
"""Mistakes that show when a checkpoint is at hand: what it holds beside all that is mapped."""


def findings(name: str) -> tuple[Diagnostic, ...]:
    """What `triptych check NAME.vlm` finds, with `--weights` where there are any."""
    try:
        recipe = load_recipe(f"{name}.vlm")
        prove(recipe)
    except RecipeError as error:
        return error.diagnostics
    tensors = {tensor: np.zeros(shape) for tensor, shape in published_shapes(recipe).items()}
    save_file(tensors | dict.fromkeys(STRANGERS[name], np.zeros(1)), f"{name}.safetensors")
    return prove_checkpoint(recipe, Path(f"{name}.safetensors"))


@pytest.fixture(autouse=True)
def _beside_the_recipes(monkeypatch, tmp_path):
    """A folder of its own for each test, with the recipes in it."""
    for file in FOLDER.glob("*.vlm"):
        (tmp_path / file.name).symlink_to(file)
    monkeypatch.chdir(tmp_path)


def test_every_recipe_here_is_a_mistake_with_a_name():
    assert {path.stem for path in FOLDER.glob("*.vlm")} == set(MISTAKES)


def test_every_mistake_is_on_the_page():
    page = (FOLDER.parent.parent / "docs" / "mistakes.md").read_text(encoding="utf-8")
    shown = {name for name in MISTAKES if f"tests/mistakes/{name}.vlm -->" in page}
    assert shown == MISTAKES.keys() - STRANGERS.keys()


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_refused_as_itself(name, golden):
    (found,) = findings(name)
    assert (found.code, found.severity) == (MISTAKES[name], "error")
    golden.check(f"mistakes/{name}.txt", render([found]))


@pytest.mark.parametrize("name", MISTAKES)
def test_the_message_shows_both_parties_and_a_way_out(name):
    (found,) = findings(name)
    assert found.primary
    assert found.primary.span.source.name == f"{name}.vlm", "the author's own file comes first"
    assert found.fix
    others = [label for label in found.labels if not label.primary]
    assert bool(others) != (name in ALONE)


@pytest.mark.parametrize("name", MISTAKES)
def test_the_story_stands_at_the_head(name):
    text = (FOLDER / f"{name}.vlm").read_text(encoding="utf-8")
    assert text.startswith("# ")
    assert f"\nrecipe {name} " in text

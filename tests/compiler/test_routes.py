"""Routes: one set of parameters called once for each use, and what objectives need of a stage."""

from __future__ import annotations

import pytest

from triptych.compiler.build import build
from triptych.compiler.ops import QueryBlocks
from triptych.compiler.pipeline import for_inference, for_training, prove
from triptych.dsl.diagnostics import RecipeError, render
from triptych.dsl.load import load_recipe, load_text

RECIPE = "internvl_14b_tiny"


def test_each_use_is_a_call_of_the_same_parameters():
    graph = build(load_recipe(RECIPE), losses=["itm", "itc", "itg"])
    calls = [node for node in graph if node.module == "qllama.blocks"]
    uses = {node.op.use for node in calls if isinstance(node.op, QueryBlocks)}
    assert uses == {"text", "queries", "joint", "caption"}
    assert len({tuple(node.parameters) for node in calls}) == 1


def test_a_mode_with_routes_has_a_method_for_each():
    recipe = load_recipe(RECIPE)
    assert list(for_inference(recipe, "retrieval_g").methods) == ["image", "text", "logits"]
    assert list(for_inference(recipe, "features").methods) == ["image"]
    assert list(for_inference(recipe, "caption").methods) == [
        "vision_image",
        "project",
        "prefill",
        "decode",
    ]


def test_text_alone_needs_no_picture():
    methods = for_inference(load_recipe(RECIPE), "retrieval_c").methods
    assert not any("vit" in name for name in methods["text"].parameters())
    assert not any("qllama" in name for name in methods["image"].parameters())


def test_what_is_frozen_runs_before_the_step():
    methods = for_training(load_recipe(RECIPE), "generative").methods
    assert any(name.startswith("vit.") for name in methods["prefix"].parameters())
    assert not any(name.startswith("vit.") for name in methods["step"].parameters())


@pytest.mark.parametrize(
    ("recipe", "amended"),
    [
        (RECIPE, "itm.negatives = hard(itc_both)"),
        (RECIPE, "itm.negatives = hard(itg)"),
        (RECIPE, "generative.loss = [itm, itg]"),
    ],
)
def test_hard_negatives_need_the_contrast_that_they_are_drawn_by(recipe, amended):
    amend = [amended] if "hard" in amended else [amended, "itm.negatives = hard(itc)"]
    with pytest.raises(RecipeError, match="F614"):
        prove(load_recipe(recipe, amend=amend))


def test_a_batch_that_is_compared_as_a_whole_is_not_computed_in_parts(golden):
    with pytest.raises(RecipeError) as caught:
        prove(load_recipe(RECIPE, amend=["generative.accumulate = 2"]))
    golden.check("proofs/F615_parts.txt", render(caught.value.diagnostics))


@pytest.mark.parametrize(
    ("part", "most"),
    [("vit", 17), ("qllama", 8), ("patch_mlp", 16), ("query_mlp", 8), ("image", 24), ("lm", 24)],
)
def test_an_assertion_counts_one_part_of_several(part, most):
    variant = f"recipe one extends internvl_chat_qllama_tiny {{ assert {part}.tokens == %dtok }}"
    prove(load_text(variant % most))
    with pytest.raises(RecipeError, match="V314"):
        prove(load_text(variant % (most + 1)))

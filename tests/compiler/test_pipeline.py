"""From a recipe to programs: their methods, what learns, what is fed, and what is verified."""

from __future__ import annotations

import json

import pytest

from triptych.compiler.graph import Graph, Node
from triptych.compiler.ops import Embed, Input
from triptych.compiler.pipeline import Watcher, for_inference, for_training, model
from triptych.compiler.text import text, text_of_methods
from triptych.compiler.types import TensorType, evaluate, substitute
from triptych.compiler.verify import verify
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe


def fed(graph):
    return {node.name for node in graph if isinstance(node.op, Input)}


def test_the_model_of_the_tiny_recipe(golden, tiny):
    golden.check("graph/tiny.txt", text(model(tiny)))


def test_the_methods_of_a_mode(golden, tiny):
    golden.check("graph/tiny_chat.txt", text_of_methods(for_inference(tiny, "chat").methods))


@pytest.mark.parametrize("stage", ["vision", "joint", "sft"])
def test_the_methods_of_a_stage(golden, tiny, stage):
    program = for_training(tiny, stage)
    golden.check(f"graph/tiny_{stage}.txt", text_of_methods(program.methods))


def test_what_one_method_yields_another_takes(tiny):
    methods = for_inference(tiny, "chat").methods
    assert list(methods) == ["vision_image", "vision_video", "project", "prefill", "decode"]
    assert set(methods["vision_image"].outputs) == set(methods["vision_video"].outputs)
    assert fed(methods["project"]) == set(methods["vision_image"].outputs)
    stage = for_training(tiny, "sft").methods
    assert set(stage["prefix"].outputs) <= fed(stage["step"])


def test_the_host_feeds_what_was_agreed(tiny):
    methods = for_training(tiny, "joint").methods
    vision = {f"{kind}.{x}" for kind in ("image", "video") for x in ["patches", "segment_id"]}
    vision |= {f"{kind}.{x}" for kind in ("image", "video") for x in ("cos", "sin")}
    words = {f"text.{x}" for x in ("tokens", "feature_index", "cos", "sin", "segment_id")}
    assert fed(methods["step"]) == vision | words | {"loss.index", "loss.targets", "loss.weight"}
    decode = for_inference(tiny, "chat").methods["decode"]
    assert fed(decode) == {"text.tokens", "text.cos", "text.sin", "text.slot", "text.first"}


def test_exactly_the_planned_parameters_learn(tiny):
    parts = {"vision": {"vit", "merger"}, "joint": {"vit", "merger", "lm"}, "sft": {"lm"}}
    for stage, trained in parts.items():
        program = for_training(tiny, stage)
        assert {name.partition(".")[0] for name in program.trained} == trained
        assert program.trained <= program.parameters.keys()
    assert for_inference(tiny, "chat").trained == frozenset()


def test_a_program_lists_parameters_that_no_method_uses(tiny):
    program = for_training(tiny, "sft", media=())
    assert "vit.patch_embed.weight" in program.parameters
    assert not any(name.startswith("image") for name in fed(program.methods["step"]))


def test_a_tied_head_is_named_with_its_table():
    program = for_inference(load_recipe("qwen2_vl_2b"), "chat")
    assert dict(program.ties) == {"lm.head.weight": "lm.embed.weight"}
    assert "lm.head.weight" not in program.parameters


def test_limits_bound_what_one_call_may_hold(tiny):
    limits = for_inference(tiny, "chat").limits
    assert str(limits["batch"]) == "1..8"
    assert str(limits["length"]) == str(limits["slots"]) == "1..32768"
    assert limits["image.patches"].step == 4
    assert limits["features"].most == 8 * 32768


def test_adapted_matrices_are_announced(variant):
    recipe = variant("""
      amend stage sft {
        train = [lora(lm.blocks.attn, rank: 4, alpha: 8)]
        freeze = [lm, vit, merger]
      }
    """)
    program = for_training(recipe, "sft")
    assert set(program.adapted) == {
        f"lm.blocks.{i}.attn.{x}.weight" for i in range(2) for x in "qkvo"
    }
    assert program.parameters["lm.blocks.0.attn.k.lora_a"].shape == (4, 48)
    assert program.parameters["lm.blocks.0.attn.k.lora_b"].shape == (24, 4)
    assert program.trained == {
        f"lm.blocks.{i}.attn.{x}.lora_{y}" for i in range(2) for x in "qkvo" for y in "ab"
    }
    assert set(program.methods["prefix"].outputs) == {"lm.splice"}


@pytest.mark.parametrize("name", shipped_recipes())
def test_the_host_part_is_plain_data(name):
    recipe = load_recipe(name)
    programs = [for_training(recipe, stage) for stage in recipe.stages]
    programs += [for_inference(recipe, mode) for mode in recipe.modes]
    for program in programs:
        assert json.loads(json.dumps(program.spec)) == program.spec


def test_the_host_part_of_a_mode(golden, tiny):
    spec = for_inference(tiny, "chat").spec
    golden.check("graph/tiny_chat_spec.json", json.dumps(spec, indent=2, ensure_ascii=False))


def test_rows_of_features_are_the_tokens_that_layouts_reserve(tiny):
    graph = model(tiny)
    type_ = graph["lm.features"].type
    assert type_ is not None
    rows = substitute(type_.sizes[0], graph.meaning)
    batch = {
        "image": [{"image.width": 224, "image.height": 224}],
        "video": [{"video.width": 1280, "video.height": 720, "video.frames": 20}],
    }
    assert evaluate(rows, batch) == 64 + 7200


def test_a_watcher_sees_each_pass(tiny):
    watcher = Watcher()
    for_training(tiny, "sft", watcher=watcher)
    assert [step.name for step in watcher.steps] == [
        "build",
        "infer_shapes",
        "place_tokens",
        "tie_weights",
        "fold_still_frames",
        "add_losses",
        "drop_unused",
        "add_drop_path",
        "add_token_drop",
        "split_blocks",
        "freeze",
        "split_training",
        "place_precisions",
    ]
    assert "loss" in watcher.after("add_losses")["model"].outputs
    with pytest.raises(KeyError):
        watcher.after("unroll")


@pytest.mark.parametrize(
    ("nodes", "outputs", "promise"),
    [
        ([Node("rows", Embed(3, 2), ("ids",))], {}, "does not stand before it"),
        ([Node.fed("ids", TensorType(("n",)))], {"x": "y"}, "outputs that are not there"),
        (
            [
                Node.fed("ids", TensorType(("n",))),
                Node("rows", Embed(3, 2), ("ids",), type=TensorType(("n", 3))),
            ],
            {},
            "yields float",
        ),
        (
            [
                Node.fed("ids", TensorType(("n",))),
                Node("rows", Embed(3, 2), ("ids",)),
                Node("again", Embed(4, 2), ("ids",), "rows"),
            ],
            {},
            "rows.weight has two shapes",
        ),
    ],
)
def test_a_broken_promise_is_caught_between_passes(nodes, outputs, promise):
    with pytest.raises(AssertionError, match=promise):
        verify({"model": Graph.of(nodes, outputs)})

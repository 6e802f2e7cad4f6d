"""Lowered modules have the recipe's names, compile without a break, and learn as planned."""

from __future__ import annotations

import re
from contextlib import contextmanager

import pytest
import torch

from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Turn
from triptych.compiler.lower import lower
from triptych.compiler.pipeline import for_inference, for_training
from triptych.compiler.types import evaluate
from triptych.compiler.weights import names
from triptych.dsl.load import load_recipe
from triptych.dsl.reserved import RESERVED

TOTALS = {
    "qwen2_vl_2b": (729, 2_208_985_600, 665_271_296),
    "qwen2_vl_7b": (730, 8_291_375_616, 675_759_104),
    "qwen2_vl_72b": (1354, 73_405_560_320, 699_356_672),
}
SHAPES_7B = {
    "visual.patch_embed.proj.weight": (1280, 3, 2, 14, 14),
    "visual.blocks.31.norm2.bias": (1280,),
    "visual.blocks.0.attn.qkv.weight": (3840, 1280),
    "visual.blocks.0.attn.qkv.bias": (3840,),
    "visual.blocks.0.attn.proj.weight": (1280, 1280),
    "visual.blocks.0.mlp.fc1.weight": (5120, 1280),
    "visual.blocks.0.mlp.fc2.weight": (1280, 5120),
    "visual.merger.ln_q.weight": (1280,),
    "visual.merger.mlp.0.weight": (5120, 5120),
    "visual.merger.mlp.2.weight": (3584, 5120),
    "model.embed_tokens.weight": (152064, 3584),
    "model.layers.27.input_layernorm.weight": (3584,),
    "model.layers.0.self_attn.q_proj.bias": (3584,),
    "model.layers.0.self_attn.k_proj.weight": (512, 3584),
    "model.layers.0.self_attn.v_proj.bias": (512,),
    "model.layers.0.self_attn.o_proj.weight": (3584, 3584),
    "model.layers.0.mlp.gate_proj.weight": (18944, 3584),
    "model.layers.0.mlp.down_proj.weight": (3584, 18944),
    "model.norm.weight": (3584,),
    "lm_head.weight": (152064, 3584),
}


def test_no_part_can_have_a_name_that_the_modules_need():
    method = lower(for_inference(load_recipe("qwen2_vl_tiny"), "chat"), device="meta").methods
    taken = {name for name in dir(method["prefill"]) if re.fullmatch(r"[A-Za-z]\w*", name)}
    assert taken - load_recipe("qwen2_vl_tiny").encoders.keys() - {"lm"} <= RESERVED


@pytest.mark.parametrize("name", TOTALS)
def test_published_sizes_have_the_published_tensors(name):
    recipe = load_recipe(name)
    lowered = lower(for_training(recipe, "joint"), device="meta")
    state = lowered.module.state_dict()
    vision = sum(t.numel() for key, t in state.items() if not key.startswith("lm."))
    assert (len(state), sum(t.numel() for t in state.values()), vision) == TOTALS[name]
    assert state.keys() == names(recipe).published.keys()


def test_published_names_have_the_published_shapes():
    recipe = load_recipe("qwen2_vl_7b")
    state = lower(for_training(recipe, "joint"), device="meta").module.state_dict()
    published = names(recipe).published
    shapes = {published[name]: tuple(tensor.shape) for name, tensor in state.items()}
    assert {name: shapes[name] for name in SHAPES_7B} == SHAPES_7B


@pytest.fixture(scope="module")
def feed(tiny):
    """Inputs of a training step of the tiny recipe."""
    processor = Processor(for_training(tiny, "joint").spec)

    def make(*texts):
        turns = [[Turn("user", (t,)), Turn("assistant", ("A frog.",))] for t in texts]
        return processor.train_batch([[processor.sample(one)] for one in turns])

    return make


def started(program, seed=0):
    lowered = lower(program)
    lowered.init(seed)
    return lowered


def blank(method, **sizes):
    """Inputs of these sizes that a method takes: random numbers, and ids of 0."""
    torch.manual_seed(0)
    return {
        name: torch.zeros([evaluate(s, sizes) for s in feed.sizes], dtype=feed.dtype)
        if feed.dtype == torch.int64
        else torch.randn([evaluate(s, sizes) for s in feed.sizes], dtype=feed.dtype)
        for name, feed in method.signature.items()
    }


def test_parameters_start_by_their_own_name_and_seed(tiny):
    alone = started(for_training(tiny, "joint", media=())).module.state_dict()
    whole = started(for_training(tiny, "joint")).module.state_dict()
    other = started(for_training(tiny, "joint"), seed=1).module.state_dict()
    assert len(alone) < len(whole)
    assert all(torch.equal(tensor, whole[name]) for name, tensor in alone.items())
    assert not torch.equal(other["lm.embed.weight"], whole["lm.embed.weight"])
    assert whole["lm.norm.weight"].eq(1).all() and whole["merger.norm.bias"].eq(0).all()
    assert abs(whole["lm.embed.weight"].std() - 0.02) < 1e-4


def test_a_method_takes_its_parameters_by_the_names_of_the_recipe(tiny):
    lowered = started(for_inference(tiny, "chat"))
    assert lowered.methods["project"].state_dict().keys() == {
        f"merger.{name}" for name in ("norm.weight", "norm.bias", "fc1.weight", "fc1.bias")
    } | {"merger.fc2.weight", "merger.fc2.bias"}
    method = lowered.methods["decode"]
    inputs = blank(method, batch=2, slots=4)
    zeros = {name: torch.zeros_like(tensor) for name, tensor in method.state_dict().items()}
    logits = torch.func.functional_call(method, zeros, (inputs,))["logits"]
    assert logits.eq(0).all()


@pytest.fixture(scope="module")
def shallow(variant):
    """One block in each part, for tracing takes long."""
    return variant("amend encoder vit { depth = 1 }\namend lm { depth = 1 }")


@contextmanager
def compiled_once(method):
    """The method traced without a break, for all sizes at once: an error where it is traced again.

    Only sizes that are symbols in the signature may vary.
    """
    torch._dynamo.reset()
    compiled = torch.compile(method, fullgraph=True, backend="eager")

    def call(inputs):
        for name, feed in method.signature.items():
            for place, size in enumerate(feed.sizes):
                if not isinstance(size, int):
                    torch._dynamo.mark_dynamic(inputs[name], place)
        return compiled(inputs)

    with torch._dynamo.config.patch(error_on_recompile=True):
        yield call


def test_methods_compile_as_one_graph_for_all_sizes(shallow):
    lowered = started(for_inference(shallow, "chat"))
    sizes = {
        "vision_image": [{"image.patches": 8}, {"image.patches": 20}],
        "project": [{"patches": 8}, {"patches": 20}],
        "prefill": [
            {"batch": 2, "length": 5, "slots": 9, "features": 4},
            {"batch": 3, "length": 7, "slots": 12, "features": 2},
        ],
        "decode": [{"batch": 2, "slots": 9}, {"batch": 3, "slots": 12}],
    }
    for name, each in sizes.items():
        method = lowered.methods[name]
        with torch.no_grad(), compiled_once(method) as compiled:
            for chosen in each:
                inputs = blank(method, **chosen)
                copy = {key: tensor.clone() for key, tensor in inputs.items()}
                found, expected = compiled(inputs), method(copy)
                for key in expected:
                    assert torch.allclose(found[key], expected[key], atol=1e-5)
                for key in inputs:
                    assert torch.equal(inputs[key], copy[key]), key


def loss_of(lowered, inputs, step=None):
    """The loss of a stage: the frozen prefix, if there is one, then the step."""
    if "prefix" in lowered.methods:
        with torch.no_grad():
            inputs = inputs | lowered.methods["prefix"](inputs)
    method = lowered.methods["step"] if step is None else step
    return method(inputs)["loss"]


def gradients(lowered, inputs, step=None):
    trained = {name: lowered.module.get_parameter(name) for name in lowered.program.trained}
    loss = loss_of(lowered, inputs, step)
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


def test_a_training_step_compiles_as_one_graph_with_its_gradients(shallow, feed):
    lowered = started(for_training(shallow, "joint"))
    with compiled_once(lowered.methods["step"]) as compiled:
        for inputs in (feed("What?", "Where is it?"), feed("Hello?", "x", "Why is that so?")):
            plain, found = gradients(lowered, inputs), gradients(lowered, inputs, compiled)
            assert all(torch.allclose(plain[name], found[name], atol=1e-6) for name in plain)


def test_blocks_that_run_again_in_the_backward_pass_learn_the_same(tiny, feed):
    lowered = started(for_training(tiny, "joint"))
    inputs = feed("What is it?")
    kept = gradients(lowered, inputs)
    for path in ("vit.blocks.1", "lm.blocks.0"):
        lowered.module.get_submodule(path).checkpoint = True
    again = gradients(lowered, inputs)
    assert all(torch.equal(kept[name], again[name]) for name in kept)


def test_the_frozen_prefix_and_the_step_are_the_whole(tiny, feed):
    inputs = feed("What is it?")
    whole = loss_of(started(for_training(tiny, "joint")), inputs)
    for stage in ("vision", "sft"):
        lowered = started(for_training(tiny, stage))
        assert "prefix" in lowered.methods
        assert torch.equal(loss_of(lowered, inputs), whole)


def test_an_adapted_layer_starts_as_it_was_and_alone_learns(variant, tiny, feed):
    recipe = variant("""
      amend stage sft {
        train  = [lora(lm.blocks.attn, rank: 2, alpha: 4)]
        freeze = [vit, merger, lm]
      }
    """)
    inputs = feed("What is it?")
    adapted, plain = started(for_training(recipe, "sft")), started(for_training(tiny, "sft"))
    before = loss_of(adapted, inputs)
    assert torch.equal(before, loss_of(plain, inputs))
    learned = gradients(adapted, inputs)
    assert {name.rpartition(".")[2] for name in learned} == {"lora_a", "lora_b"}
    layer = adapted.module.get_submodule("lm.blocks.0.attn.q")
    assert layer.scale == 2
    torch.nn.init.normal_(layer.lora_b)
    after = loss_of(adapted, inputs)
    assert not torch.equal(after, before)
    merged = adapted.merged()
    plain.module.load_state_dict({name: merged[name] for name in plain.module.state_dict()})
    assert torch.allclose(loss_of(plain, inputs), after)


def test_a_table_that_only_an_objective_reads_is_lowered(variant):
    recipe = variant("""
      add objective words : RegionWords { regions = merger  words = lm.embed  temperature = 0.1 }
      amend stage vision { loss = [words] }
    """)
    lowered = lower(for_training(recipe, "vision"), device="meta")
    assert "lm.embed.weight" in lowered.module.state_dict()
    assert "lm.norm.weight" not in lowered.module.state_dict()


def test_bfloat16_stays_near_float32(tiny):
    exact = started(for_inference(tiny, "chat"))
    half = lower(for_inference(tiny, "chat"), dtype=torch.bfloat16)
    half.module.load_state_dict(exact.module.state_dict())
    inputs = blank(exact.methods["vision_image"], **{"image.patches": 8})
    with torch.no_grad():
        one, other = (x.methods["vision_image"](inputs)["vit.blocks"] for x in (exact, half))
    assert other.dtype == torch.bfloat16
    assert (one - other).abs().max() < 0.05 * one.abs().max()

"""The golden cases of DeepSeek-VL, through the shipped recipes, their passes and the lowering."""

from __future__ import annotations

import pytest
import torch

from triptych.backends.weights import as_published
from triptych.compiler.pipeline import for_inference, for_training
from triptych.compiler.plan import by_part, plan
from triptych.compiler.weights import names
from triptych.dsl.load import load_recipe
from triptych.tests.parity.chat import Chat
from triptych.tests.parity.deepseek_vl import DeepSeekCase, SamCase, model_cases, train_cases
from triptych.tests.parity.golden import Taps, cases, patches


def towers(case, seen, chat):
    """What the towers yield, by the golden names."""
    if case.is_hybrid:
        side = round(seen["neck"].shape[1] ** 0.5)
        return {
            "vision.high.output_bchw": seen["neck"].mT.unflatten(2, (side, side)),
            "vision.low.output": seen["siglip.norm"],
            "vision.low_images": case.shrunk(case.inputs["pixel_values"].flatten(0, 1)),
        }
    depth = case.config["vision"]["layers"]
    blocks = {f"vision.block{n}": chat.taps.seen[f"siglip.blocks.{n}"][0] for n in range(depth)}
    return blocks | {
        "vision.patch_embed": seen["siglip.patch_embed"],
        "vision.output": seen["siglip.norm"],
    }


@model_cases
def test_every_activation_is_that_of_the_official_model(case, kernels):
    chat, mask = Chat(case, case.recipe), case.inputs["attention_mask"].bool()
    seen = chat.see(case.views(case.inputs["pixel_values"].flatten(0, 1)))
    rows = case.shown(seen["aligner"]).flatten(0, 1)
    read = chat.read(case.samples(), rows)
    found = towers(case, seen, chat) | {"aligner.output": seen["aligner"]}
    of_text = {
        "inputs_embeds": read["lm.splice"],
        "lm.hidden.1": chat.taps.seen["lm.blocks.0"][0],
        "lm.hidden.final_norm": read["lm.norm"],
        "logits": read["logits"],
    }
    for name, expected in case.expected.items():
        if name in of_text:  # the columns of padding hold nothing that is meant
            kernels.check(of_text[name][mask], expected[mask], name)
        elif name not in ("generated_ids", "position_ids"):
            kernels.check(found[name], expected, name)


@model_cases
def test_greedy_tokens(case, kernels):
    chat = Chat(case, case.recipe)
    seen = chat.see(case.views(case.inputs["pixel_values"].flatten(0, 1)))
    rows, expected = case.shown(seen["aligner"]).flatten(0, 1), case.expected["generated_ids"]
    assert torch.equal(chat.greedy(case.samples(), rows, expected.shape[1]), expected)


@cases("deepseek_vl", DeepSeekCase, where=lambda case: "position_ids" in case.expected)
def test_positions_of_padded_rows(case):
    batches = case.batches(for_inference(case.recipe, "chat"))
    for row, sample in enumerate(case.samples()):
        positions, _ = batches.token_positions(sample)
        expected = case.expected["position_ids"][row, -sample.length :]
        assert torch.equal(positions, expected.expand_as(positions))


@cases("sam_b_tower", SamCase)
def test_the_tower_at_high_resolution_and_its_neck(case, kernels):
    program = for_inference(case.recipe, "chat")
    lowered = case.lower(program, case.recipe, parts=["sam", "neck"])
    taps, depth = Taps(lowered), case.config["layers"]
    with torch.no_grad():
        shown = patches(case.inputs["pixel_values"], case.config["patch_size"])
        embedded = lowered.module.get_submodule("sam.patch_embed")(shown)
        placed = lowered.module.get_submodule("sam.positions")(embedded)
        late, early = lowered.module.get_submodule("sam.blocks")(placed).flip(0)
        output = lowered.module.get_submodule("neck")(late, early)
    grid = case.expected["patch_embed"].shape[1:3]
    blocks = {f"block{n}": taps.seen[f"sam.blocks.{n}"][0] for n in range(depth)}
    maps = {name: rows.unflatten(1, grid) for name, rows in blocks.items()}
    last = f"neck.strided.{len(case.config['downsample_channels']) - 1}"
    main, unscaled = taps.seen[last]
    (neck,), (neck_hd,) = taps.seen["neck.necks.0"], taps.seen["neck.necks.1"]
    found = maps | {
        "patch_embed": embedded.unflatten(1, grid),
        "neck": neck,
        "neck_hd": neck_hd,
        "downsamples.main": main,
        "downsamples.hd_unscaled": unscaled,
        "output": output.mT.unflatten(2, main.shape[2:]),
    }
    for name, expected in case.expected.items():
        kernels.check(found[name], expected, name)


@train_cases
def test_loss_and_gradients_of_the_first_stage(case, kernels):
    program = for_training(case.recipe, "adaptor")
    lowered = case.lower(program, case.recipe)
    pixels = case.inputs["pixel_values"].flatten(0, 1)
    batch = case.batches(program).train_batch([[sample] for sample in case.samples()])
    batch |= case.views(case.shown(pixels))
    lowered.module.requires_grad_(False)
    trained = {name: lowered.module.get_parameter(name) for name in program.trained}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    with torch.no_grad():
        batch |= lowered.methods["prefix"](batch)
    loss = lowered.methods["step"](batch)["loss"]
    loss.backward()
    kernels.check(loss.detach(), case.expected["loss"][0], "loss")
    grads = {name: parameter.grad for name, parameter in trained.items()}
    found = dict(as_published(case.recipe, grads))
    unused = set(case.config["trainable_but_unused"])
    assert found.keys() == set(case.config["trainable"]) - unused
    for name, grad in found.items():  # sums over thousands of cells, in another order
        kernels.check(grad, case.expected[f"grad.{name}"], name)


# The published checkpoints, by the fact sheet: parts, tensors, and what has no place here.
POOL = {
    "latent": [1, 1, 1024],
    "q.weight": [1024, 1024],
    "q.bias": [1024],
    "kv.weight": [2048, 1024],
    "kv.bias": [2048],
    "proj.weight": [1024, 1024],
    "proj.bias": [1024],
    "norm.weight": [1024],
    "norm.bias": [1024],
    "mlp.fc1.weight": [4096, 1024],
    "mlp.fc1.bias": [4096],
    "mlp.fc2.weight": [1024, 4096],
    "mlp.fc2.bias": [1024],
}
LOW_1_3B = "vision_model.vision_tower."
LOW_7B = "vision_model.vision_tower_low.vision_tower."
HIGH = "vision_model.vision_tower_high.vision_tower."
UNUSED = {
    "deepseek_vl_1_3b": {f"{LOW_1_3B}attn_pool.{name}": shape for name, shape in POOL.items()},
    "deepseek_vl_7b": {f"{LOW_7B}attn_pool.{name}": shape for name, shape in POOL.items()}
    | {
        f"vision_model.{which}_layer_norm.{name}": [1024]
        for which in ("high", "low")
        for name in ("weight", "bias")
    },
}
TOTALS = {"deepseek_vl_1_3b": (1_975_235_584, 529), "deepseek_vl_7b": (7_343_990_017, 775)}
PARTS = {
    "deepseek_vl_1_3b": {
        "siglip": 316_283_904 - 12_595_200,
        "aligner": 6_295_552,
        "lm": 1_652_656_128,
    },
    "deepseek_vl_7b": {
        "sam": 590_592 + 3_145_728 + 85_147_136,
        "neck": 787_456 + 787_456 + 5_898_240 + 1,
        "siglip": 316_283_904 - 12_595_200,
        "aligner": 20_979_712,
        "lm": 6_910_365_696,
    },
}
SHAPES = {
    "deepseek_vl_1_3b": {
        f"{LOW_1_3B}pos_embed": [1, 576, 1024],
        f"{LOW_1_3B}blocks.23.mlp.fc1.weight": [4096, 1024],
        "aligner.layers.0.weight": [2048, 1024],
        "aligner.layers.2.weight": [2048, 2048],
        "language_model.model.embed_tokens.weight": [102400, 2048],
    },
    "deepseek_vl_7b": {
        f"{HIGH}pos_embed": [1, 64, 64, 768],
        f"{HIGH}patch_embed.proj.weight": [768, 3, 16, 16],
        f"{HIGH}blocks.0.norm1.weight": [768],
        f"{HIGH}blocks.11.attn.qkv.weight": [2304, 768],
        f"{HIGH}blocks.11.attn.proj.bias": [768],
        f"{HIGH}blocks.1.attn.rel_pos_h": [27, 64],
        f"{HIGH}blocks.2.attn.rel_pos_w": [127, 64],
        f"{HIGH}blocks.5.attn.rel_pos_h": [127, 64],
        f"{HIGH}blocks.8.attn.rel_pos_h": [127, 64],
        f"{HIGH}blocks.11.attn.rel_pos_w": [127, 64],
        f"{HIGH}blocks.3.mlp.lin1.weight": [3072, 768],
        f"{HIGH}blocks.3.mlp.lin2.weight": [768, 3072],
        f"{HIGH}neck.0.weight": [256, 768, 1, 1],
        f"{HIGH}neck.1.bias": [256],
        f"{HIGH}neck.2.weight": [256, 256, 3, 3],
        f"{HIGH}neck_hd.0.weight": [256, 768, 1, 1],
        f"{HIGH}neck_hd.3.weight": [256],
        f"{HIGH}downsamples.0.weight": [512, 256, 3, 3],
        f"{HIGH}downsamples.1.weight": [1024, 512, 3, 3],
        f"{HIGH}hd_alpha_downsamples": [1],
        f"{LOW_7B}pos_embed": [1, 576, 1024],
        f"{LOW_7B}patch_embed.proj.weight": [1024, 3, 16, 16],
        f"{LOW_7B}blocks.23.attn.qkv.weight": [3072, 1024],
        f"{LOW_7B}norm.bias": [1024],
        "aligner.high_up_proj.weight": [2048, 1024],
        "aligner.low_up_proj.weight": [2048, 1024],
        "aligner.layers.1.weight": [4096, 4096],
        "language_model.model.layers.29.self_attn.o_proj.weight": [4096, 4096],
        "language_model.model.layers.29.mlp.down_proj.weight": [4096, 11008],
        "language_model.lm_head.weight": [102400, 4096],
    },
}


@pytest.mark.parametrize("name", TOTALS)
def test_the_published_checkpoint_has_these_tensors(name):
    recipe, unused = load_recipe(name), UNUSED[name]
    held = names(recipe)
    assert all(held.reason_to_ignore(tensor) for tensor in unused)
    assert not unused.keys() & held.tensors.keys()
    numbers, tensors = TOTALS[name]
    pooled = sum(torch.Size(shape).numel() for shape in unused.values())
    shapes = {tensor: one.shape for tensor, one in held.tensors.items()}
    assert sum(torch.Size(shape).numel() for shape in shapes.values()) + pooled == numbers
    assert len(shapes) + len(unused) == tensors
    for tensor, shape in SHAPES[name].items():
        assert shapes[tensor] == tuple(shape), tensor


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_as_large_as_published(name):
    assert by_part(plan(load_recipe(name)).parameters) == PARTS[name]

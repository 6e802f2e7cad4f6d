"""The golden cases of InternVL 1.5, through the shipped recipes, their passes and the lowering."""

from __future__ import annotations

import math

import pytest
import torch

from triptych.backends.weights import as_published
from triptych.compiler.pipeline import for_inference, for_training
from triptych.compiler.plan import by_part, plan
from triptych.dsl.load import load_recipe
from triptych.tests.parity.chat import Chat, to_the_left
from triptych.tests.parity.golden import Taps, everywhere, patches
from triptych.tests.parity.internvl_1_5 import chat_cases, tower_cases, train_cases

STAGES = {"stage1": "pretrain", "stage2": "sft"}


@tower_cases
@pytest.mark.parametrize("prefix", ["", "other_size."])
def test_the_tower_at_its_own_size_and_at_another(case, prefix, kernels):
    lowered = case.lower(for_inference(case.recipe, "chat"), case.recipe, parts=["vit"])
    taps, patch = Taps(lowered), case.vision["patch_size"]
    pixels = case.inputs[f"{prefix}pixel_values"]
    parts = {name: lowered.module.get_submodule(f"vit.{name}") for name in ("positions", "blocks")}
    parts["positions"].grid = tuple(side // patch for side in pixels.shape[2:])
    with torch.no_grad():
        embedded = lowered.module.get_submodule("vit.patch_embed")(patches(pixels, patch))
        placed = parts["positions"](embedded)
        last = parts["blocks"](placed)
    found = {"embeddings": placed, "last_hidden_state": last, "pooler_output": last[:, 0]} | {
        f"layer{n}": taps.seen[f"vit.blocks.{n}"][0] for n in range(len(parts["blocks"]))
    }
    checked = [name for name in found if f"{prefix}{name}" in case.expected]
    assert checked
    for name in checked:
        kernels.check(found[name], case.expected[f"{prefix}{name}"], f"{prefix}{name}")


def shown(case):
    """What the tower takes of the tiles of a case."""
    return {"image.patches": patches(case.inputs["pixel_values"], case.vision["patch_size"])}


@chat_cases
def test_every_activation_is_that_of_the_official_model(case, kernels):
    chat = Chat(case, case.recipe)
    seen = chat.see(shown(case))
    read = chat.read(case.samples(), seen["features"])
    squares = math.isqrt(case.config["num_image_token"])
    shuffled = seen["shuffle"].unflatten(1, (squares, squares))
    found = {
        "vision.last_hidden_state": seen["vit.blocks"],
        "pixel_shuffle.v2": shuffled,
        "pixel_shuffle.v1": shuffled.transpose(1, 2),  # the same squares, told column by column
        "mlp1.output": seen["mlp1"],
    }
    of_text = {
        "inputs_embeds": read["lm.splice"],
        "lm.hidden.layer0": chat.taps.seen["lm.blocks.0"][0],
        "lm.hidden.final_norm": read["lm.norm"],
        "logits": read["logits"],
    }
    mask = case.inputs["attention_mask"].bool()
    for name, expected in case.expected.items():
        if name in of_text:  # the columns of padding hold nothing that is meant
            kernels.check(of_text[name][to_the_left(mask)], expected[mask], name)
        elif name != "generated_ids":
            kernels.check(found[name], expected, name)


@chat_cases
def test_greedy_tokens(case, kernels):
    if "generated_ids" not in case.expected:
        pytest.skip("the case has none")
    chat, expected = Chat(case, case.recipe), case.expected["generated_ids"]
    rows = chat.see(shown(case))["features"]
    said = chat.greedy(case.samples("prompt_ids"), rows, expected.shape[1])
    assert torch.equal(said, expected)


@train_cases
@pytest.mark.parametrize("part", STAGES)
def test_loss_logits_and_gradients(case, part, kernels):
    program = for_training(case.recipe, STAGES[part])
    lowered = case.lower(program, case.recipe)
    batch = case.batches(program).train_batch([[sample] for sample in case.samples()])
    used = case.inputs["image_flags"].bool()  # a row without pictures brings a tile of its own
    batch["image.patches"] = shown(case)["image.patches"][used]
    lowered.module.requires_grad_(False)
    trained = {name: lowered.module.get_parameter(name) for name in program.trained}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    if "prefix" in lowered.methods:
        with torch.no_grad():
            batch |= lowered.methods["prefix"](batch)
    values = lowered.methods["step"].values(batch)
    loss = values[lowered.methods["step"].outputs["loss"]]
    loss.backward()
    kernels.check(loss.detach(), case.expected["loss"][0], "loss")
    if "logits" in case.expected:
        real = case.inputs["attention_mask"].bool()
        logits = everywhere(lowered, values).detach()
        kernels.check(logits[real], case.expected["logits"][real], "logits")
    grads = {name: parameter.grad for name, parameter in trained.items()}
    found = dict(as_published(case.recipe, grads))
    wanted = {
        name.partition(".grad.")[2]: tensor
        for name, tensor in case.expected.items()
        if name.partition(".grad.")[0] in (part, "stage1")  # a later stage trains these as well
        and ".grad." in name
    }
    for name, tensor in wanted.items():
        kernels.check(found[name], tensor, name, kernels.gradient)
    table = found.get("language_model.model.tok_embeddings.weight")
    if table is not None:
        assert table[case.config["special_ids"]["img_context"]].eq(0).all()


# Numbers in each part, by the fact sheet.
PARTS = {
    "internvl_1_5_26b": {"vit": 5_536_496_000, "mlp1": 116_429_824, "lm": 19_861_260_288},
    "internvl_1_5_mini_2b": {"vit": 304_012_288, "mlp1": 12_595_200, "lm": 1_889_146_880},
    "internvl_1_5_mini_4b": {"vit": 304_012_288, "mlp1": 22_034_432, "lm": 3_820_809_216},
}


@pytest.mark.parametrize("name", PARTS)
def test_each_part_is_as_large_as_published(name):
    assert by_part(plan(load_recipe(name)).parameters) == PARTS[name]

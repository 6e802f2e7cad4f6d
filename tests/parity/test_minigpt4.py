"""The golden cases of MiniGPT-4, through the shipped recipe, its passes and the lowering."""

from __future__ import annotations

import pytest
import torch
from torch.testing import assert_close

from triptych.backends.weights import as_published
from triptych.blocks.vision.positions import resized
from triptych.compiler.pipeline import for_inference, for_training
from triptych.compiler.plan import plan
from triptych.dsl.load import load_recipe
from triptych.tests.parity.golden import Taps, everywhere, part_totals, patches
from triptych.tests.parity.minigpt4 import model_cases, qformer_cases, vision_cases

both_orders = pytest.mark.usefixtures("kernels")


def check(found, expected, name, atol=1e-5, rtol=1e-4):
    """Fail when a value is off by more than the notes of the cases say."""
    assert_close(found, expected, atol=atol, rtol=rtol, msg=lambda text: f"{name}: {text}")


def tower(case, pixels):
    """What the tower makes of pictures, by the golden names."""
    recipe = case.seeing(pixels.shape[-1])
    program = for_inference(recipe, "chat")
    lowered = case.lower(program, recipe, parts=["vit"])
    taps, method = Taps(lowered), lowered.methods["vision_image"]
    with torch.no_grad():
        values = method.values({"image.patches": patches(pixels, case.config["vit"]["patch_size"])})
    positions = lowered.module.get_submodule("vit.positions")
    names = {"vit.patch_embed": "visual_encoder.patch_embed", "vit.norm": "ln_vision"}
    names |= {
        f"vit.blocks.{index}{ours}": f"visual_encoder.blocks.{index}{theirs}"
        for index in range(recipe.encoders["vit"].depth)
        for ours, theirs in (("", ""), (".attn.proj", ".attn"))
    }
    hooks = {f"hook/{theirs}": taps.seen[ours][0] for ours, theirs in names.items()}
    table = resized(positions.table, positions.sizes, positions.grid).detach()
    return hooks | {"ln_vision_out": values["vit.norm"], "table": table}


@both_orders
@vision_cases
def test_the_tower_is_the_official_one(case):
    found = tower(case, case.inputs["image"])
    for name in case.inputs.keys() - {"image"}:
        side = case.inputs[name].shape[-1] // case.config["vit"]["patch_size"]
        resized_found = tower(case, case.inputs[name])
        found[f"ln_vision_out_{name.removeprefix('image_')}"] = resized_found["ln_vision_out"]
        found[f"interp_pos_embed_{side}x{side}"] = resized_found["table"]
    for name, expected in case.expected.items():
        check(found[name], expected, name)


@both_orders
@qformer_cases
def test_the_queries_are_the_official_ones(case):
    seen, mask = (
        case.inputs[f"encoder_{name}"] for name in ("hidden_states", "attention_mask_partial")
    )
    program = for_inference(case.recipe, "chat")
    lowered = case.lower(program, case.recipe, parts=["qformer", "projection"])
    taps, qformer = Taps(lowered), lowered.module.get_submodule("qformer")
    with torch.no_grad():
        (projected,) = lowered.methods["project"]({"vit.norm": seen}).values()
        masked = qformer(seen, mask.bool())
    names = {"norm": "embeddings"}
    for index in range(case.recipe.adapters["qformer"].depth):
        ours, theirs = f"blocks.{index}", f"encoder.layer.{index}"
        names |= {ours: theirs, f"{ours}.norm1": f"{theirs}.attention"}
        names |= {f"{ours}.cross_norm": f"{theirs}.crossattention"}
    found = {
        f"hook/Qformer.bert.{theirs}": taps.seen[f"qformer.{ours}"][0]
        for ours, theirs in names.items()
        if f"qformer.{ours}" in taps.seen
    }
    found["hook/Qformer.bert.embeddings"] = found["hook/Qformer.bert.embeddings"].expand(
        len(seen), -1, -1
    )
    found["last_hidden_state"] = taps.seen["qformer"][0]
    found["last_hidden_state_masked"] = masked
    found["llama_proj_out"] = projected.unflatten(0, (len(seen), -1))
    for name, expected in case.expected.items():
        check(found[name], expected, name)


def stages(case):
    """The training stages of a case: the golden name, and the recipe's."""
    return dict(zip(("stage1", "stage2"), case.recipe.stages, strict=True))


def bos(case):
    """The head of every sequence."""
    return torch.tensor([case.config["llm"]["bos_token_id"]])


def scores(case, sample, pixels):
    """The logits of all places of a prompt, [1, T, V]."""
    program = for_inference(case.recipe, "chat")
    lowered = case.lower(program, case.recipe)
    prompts = case.batches(program).prompt_batch([sample])
    with torch.no_grad():
        inputs = dict(prompts.inputs) | {"features": features(case, lowered, pixels)}
        inputs |= case.caches(lowered, 1, sample.length)
        return everywhere(lowered, lowered.methods["prefill"].values(inputs))


def features(case, lowered, pixels):
    """The rows that the language model takes of pictures."""
    shown = patches(pixels, case.config["vit"]["patch_size"])
    rows = lowered.methods["vision_image"]({"image.patches": shown})
    (made,) = lowered.methods["project"](rows).values()
    return made


def samples(case, stage):
    """The rows of a training case without their padding."""
    ids, mask = (case.inputs[f"{stage}/answer_{name}"] for name in ("ids", "attention_mask"))
    none = torch.zeros(0, dtype=torch.int64)
    before, after = (case.inputs.get(f"{stage}/prompt_ids_{half}", none) for half in (0, 1))
    return [
        case.sample(torch.cat((bos(case), before)), after, row[real.bool()])
        for row, real in zip(ids, mask, strict=True)
    ]


def trained(case, stage):
    """What a training step computes, by the golden names; text without its padding, in rows."""
    program = for_training(case.recipe, stages(case)[stage])
    lowered = case.lower(program, case.recipe)
    rows = samples(case, stage)
    inputs = case.batches(program).train_batch([[row] for row in rows])
    patch = case.config["vit"]["patch_size"]
    inputs["image.patches"] = patches(case.inputs["image"], patch)
    lowered.module.requires_grad_(False)
    learning = {name: lowered.module.get_parameter(name) for name in program.trained}
    for parameter in learning.values():
        parameter.requires_grad_(True)
    with torch.no_grad():
        inputs |= lowered.methods["prefix"](inputs)
    values = lowered.methods["step"].values(inputs)
    loss = values[lowered.methods["step"].outputs["loss"]]
    loss.backward()
    found = {"loss": loss.detach()[None], "inputs_embeds": values["lm.splice"].detach()}
    grads = {name: parameter.grad for name, parameter in learning.items()}
    return found | {f"grad/{name}": grad for name, grad in as_published(case.recipe, grads)}


@both_orders
@model_cases
@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_a_step_is_that_of_the_official_model(case, stage):
    found, rows = trained(case, stage), samples(case, stage)
    wanted = {
        name.removeprefix(f"{stage}/"): tensor
        for name, tensor in case.expected.items()
        if name.startswith(f"{stage}/")
    }
    for row, sample in enumerate(rows):
        real = slice(sample.length)  # all padding is to the right
        scored = torch.from_numpy(sample.supervised)
        ids = torch.from_numpy(sample.ids).where(scored, torch.tensor(-100))
        if "attention_mask" in wanted:
            assert int(wanted["attention_mask"][row].sum()) == sample.length
        if "labels" in wanted:
            assert torch.equal(wanted["labels"][row][real], ids)
        if "inputs_embeds" in wanted:
            expected = wanted["inputs_embeds"][row][real]
            check(found["inputs_embeds"][row][real], expected, f"embeds[{row}]")
        if "logits" in wanted:
            logits = scores(case, sample, case.inputs["image"][row : row + 1])[0]
            check(logits, wanted["logits"][row][real], f"logits[{row}]")
    check(found["loss"], wanted["loss"], "loss")
    for name in (name for name in wanted if name.startswith("grad/")):
        check(found[name], wanted[name], name, atol=1e-6, rtol=1e-3)


@both_orders
@model_cases
def test_an_answer_is_that_of_the_official_chat(case):
    program = for_inference(case.recipe, "chat")
    lowered = case.lower(program, case.recipe)
    sample = case.sample(*(case.inputs[f"chat/prompt_ids_{half}"] for half in (0, 1)))
    greedy = case.expected["chat/greedy_ids"]
    batches = case.batches(program)
    prompts = batches.prompt_batch([sample])
    caches = case.caches(lowered, 1, sample.length + len(greedy))
    said = []
    with torch.no_grad():
        seen = features(case, lowered, case.inputs["image"][:1])
        inputs = dict(prompts.inputs) | {"features": seen}
        values = lowered.methods["prefill"].values(inputs | caches)
        logits = values[lowered.methods["prefill"].outputs["logits"]]
        for step in range(len(greedy)):
            said.append(logits.argmax(-1))
            inputs = batches.next_inputs(prompts, said[-1], sample.length + step)
            logits = lowered.methods["decode"](inputs | caches)["logits"]
    everything = {
        "chat/image_embeds": seen[None],
        "chat/context_embeds": values["lm.splice"],
        "chat/logits_last4": everywhere(lowered, values)[:, -4:],
    }
    for name in everything.keys() & case.expected.keys():
        check(everything[name], case.expected[name], name)
    assert torch.equal(torch.cat(said), greedy)


@pytest.mark.parametrize(
    ("name", "projection", "lm"),
    [("minigpt4_7b", 3_149_824, 6_738_415_616), ("minigpt4_13b", 3_937_280, 13_015_864_320)],
)
def test_parts_have_the_parameters_of_the_sheet(name, projection, lm):
    assert part_totals(name) == {
        "vit": 985_894_528 + 2_816,
        "qformer": 105_137_664 + 24_576,
        "projection": projection,
        "lm": lm,
    }
    for stage in plan(load_recipe(name)).stages:
        assert {name.partition(".")[0] for name in stage.trained} == {"projection"}

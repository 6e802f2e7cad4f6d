"""Every activation of the golden cases, through the shipped recipe, its passes and the lowering."""

from __future__ import annotations

import pytest
import torch

from triptych.compiler import ops
from triptych.compiler.pipeline import for_inference, for_training
from triptych.tests.parity.golden import Taps
from triptych.tests.parity.qwen2_vl import model_cases


def visual(graph, name):
    """The nodes that one input goes through: patch embedding, tower, adapter."""
    found = {}
    rows = f"{name}.patches"
    for kind, op in (
        ("patch_embed", ops.PatchEmbed),
        ("tower", ops.VisionBlocks),
        ("merged", ops.MergeMLP),
    ):
        node = next(n for n in graph if isinstance(n.op, op) and n.inputs[0] == rows)
        found[kind] = rows = node.name
    return found


def activations(case, feed):
    """Everything that the training step computes, scored at all positions, by the golden names.

    Text tensors are lists of rows without padding.
    """
    program = for_training(case.recipe, "joint")
    lowered = case.lower(program, case.recipe)
    taps, batches, samples = Taps(lowered), case.batches(program), feed.samples()
    inputs = batches.train_batch([[sample] for sample in samples]) | feed.patches()
    rows, length = inputs["text.tokens"].shape
    inputs["loss.index"] = torch.arange(rows * length)
    inputs["loss.targets"] = inputs["text.tokens"].flatten()
    inputs["loss.weight"] = torch.zeros(rows * length)
    step = lowered.methods["step"]
    with torch.no_grad():
        values = step.values(inputs)

    found = {}
    order = list(batches.inputs)
    for name in feed.media:
        for kind, node in visual(step.graph, name).items():
            found[f"{name}.{kind}"] = values[node]
        found[f"{name}.rope_cos"], found[f"{name}.rope_sin"] = (
            inputs[f"{name}.cos"],
            inputs[f"{name}.sin"],
        )
        for index in range(case.recipe.encoders["vit"].depth):
            found[f"{name}.block{index}"] = taps.seen[f"vit.blocks.{index}"][order.index(name)]
    text = {
        "inputs_embeds": values["lm.splice"],
        "text.rope_cos": inputs["text.cos"],
        "text.rope_sin": inputs["text.sin"],
        "final_norm": values["lm.norm"],
        "logits": values["lm.head"].unflatten(0, (rows, length)),
    }
    for index in range(case.recipe.lm.depth):
        text[f"layer{index}"] = taps.seen[f"lm.blocks.{index}"][0]
    for name, tensor in text.items():
        found[name] = [row[: s.length] for row, s in zip(tensor, samples, strict=True)]
    places = [batches.token_positions(sample) for sample in samples]
    found["position_ids"] = [index.T for index, _ in places]
    found["rope_deltas"] = torch.tensor([[delta] for _, delta in places])
    return found


@model_cases
def test_every_activation_is_that_of_the_official_model(case, kernels):
    later = {"generated", "step_logits", "last_position_per_step", "loss"}
    for feed in case.feeds:
        found = activations(case, feed)
        for name, expected in feed.expected.items():
            if name in later or name.startswith("stage"):
                continue
            if not isinstance(found[name], list):
                kernels.check(found[name], expected, feed.prefix + name)
                continue
            if name == "position_ids":
                expected = expected.movedim(0, -1)
            for row, (mask, tensor) in enumerate(zip(feed.mask, found[name], strict=True)):
                kernels.check(tensor, expected[row][mask], f"{feed.prefix}{name}[{row}]")


@model_cases
def test_prefill_scores_the_last_token_of_left_padded_prompts(case, kernels):
    program = for_inference(case.recipe, "chat")
    lowered = case.lower(program, case.recipe)
    for feed in case.feeds:
        prompts = case.batches(program).prompt_batch(feed.samples())
        with torch.no_grad():
            logits = case.prefill(lowered, dict(prompts.inputs) | feed.patches())
        for row, mask in enumerate(feed.mask):
            last = int(mask.nonzero().max())
            expected = feed.expected["logits"][row, last]
            kernels.check(logits[row], expected, f"{feed.prefix}logits[{row}]")


@model_cases
@pytest.mark.parametrize("rule", ["position_ids_v523_rule", "logits_v523_rule"])
def test_the_rule_of_newer_libraries_is_not_ours(case, rule):
    for feed in case.feeds:
        other = case.expected.get(feed.prefix + rule)
        if other is None:
            continue
        ours = feed.expected[rule.removesuffix("_v523_rule")]
        assert (ours - other).abs().max() > 0.01

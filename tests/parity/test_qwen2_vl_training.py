"""Loss and gradients of the golden training cases, stage by stage of the shipped recipe."""

from __future__ import annotations

import pytest
import torch

from triptych.backends.weights import as_published
from triptych.compiler.pipeline import for_training
from triptych.tests.parity.qwen2_vl import train_cases

STAGES = {"stage1": "vision", "stage2": "joint", "stage3": "sft"}


def gradients(case, stage):
    """The loss of a stage, and the gradient of each trained parameter by its published name."""
    program = for_training(case.recipe, stage)
    lowered = case.lower(program, case.recipe)
    (feed,) = case.feeds
    rows = [[sample] for sample in feed.samples()]
    inputs = case.batches(program).train_batch(rows) | feed.patches()
    lowered.module.requires_grad_(False)
    trained = {name: lowered.module.get_parameter(name) for name in program.trained}
    for parameter in trained.values():
        parameter.requires_grad_(True)
    if "prefix" in lowered.methods:
        with torch.no_grad():
            inputs |= lowered.methods["prefix"](inputs)
    loss = lowered.methods["step"](inputs)["loss"]
    loss.backward()
    grads = {name: parameter.grad for name, parameter in trained.items()}
    return loss.detach(), dict(as_published(case.recipe, grads))


@train_cases
@pytest.mark.parametrize("part", STAGES)
def test_loss_and_gradients_are_those_of_the_official_model(case, part, kernels):
    loss, found = gradients(case, STAGES[part])
    kernels.check(loss, case.expected["loss"], "loss")
    norm = torch.stack([grad.double().norm() for grad in found.values()]).norm()
    expected = case.expected[f"{part}.grad_norm"]
    kernels.check(norm / expected, torch.ones_like(expected), "grad_norm", kernels.gradient)
    for name, expected in case.expected.items():
        if not name.startswith(f"{part}.grad."):
            continue
        tensor = name.removeprefix(f"{part}.grad.")
        grad = found[tensor.removesuffix(".rownorm")]
        if tensor.endswith(".rownorm"):
            grad = grad.norm(dim=-1)
        kernels.check(grad, expected, name, kernels.gradient)


@train_cases
@pytest.mark.parametrize("part", STAGES)
def test_the_rows_that_features_overwrite_get_no_gradient(case, part):
    _, found = gradients(case, STAGES[part])
    table = found.get("model.embed_tokens.weight")
    if table is not None and not case.config["tie_word_embeddings"]:
        assert table[case.config["image_token_id"]].eq(0).all()

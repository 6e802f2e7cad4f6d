"""A stage whose parts compute in precisions of their own; masters are float32 all the same."""

from __future__ import annotations

import gc

import pytest
import torch
from torch.nn import Parameter

from triptych.backends.data import open_source
from triptych.backends.listening import Silence
from triptych.backends.options import Options
from triptych.backends.samples import Samples
from triptych.backends.training import completed, overridden
from triptych.backends.training_stage import StageRun
from triptych.compiler.pipeline import for_training
from triptych.compiler.plan import plan
from triptych.dsl.load import load_recipe

from .eager import train

MIXED = "joint.precision=[f32(vit), f32(merger), bf16(lm)]"
WANTED = {"vit": torch.float32, "merger": torch.float32, "lm": torch.bfloat16}


def first_step(recipe, folder):
    """What the stage `joint` computes with, and the losses of one step."""
    program = for_training(recipe, "joint")
    run = StageRun(program, plan(recipe)["joint"], completed({}, program, seed=0))
    samples = Samples(program.spec, recipe.stages["joint"], folder)
    source = open_source(folder / "pictures.json")
    shards = samples.collate([samples.prepare(source.read(index)) for index in range(4)])
    losses, _ = run.step(shards, rate=1e-3)
    return run, losses["loss"]


def test_parts_hold_their_precision_and_masters_are_float32(folder):
    recipe = load_recipe(str(folder / "tiny.vlm"), amend=[MIXED])
    run, loss = first_step(recipe, folder)
    (replica,) = run.replicas
    assert {name: weight.dtype for name, weight in replica.trained.items()} == {
        name: WANTED[name.partition(".")[0]] for name in replica.trained
    }
    assert {weight.dtype for weight in run.weights.values()} == {torch.float32}
    _, exact = first_step(overridden(recipe, Options(precision="f32")), folder)
    assert loss != exact
    assert loss == pytest.approx(exact, rel=2e-2)


def test_what_no_method_uses_has_no_copy_to_compute_with(folder):
    """A tower that learns to name regions leaves the blocks of the language model alone."""
    amend = ["vision.precision = bf16", "vision.loss = words"]
    recipe = load_recipe(str(folder / "tiny.vlm"), amend=amend)
    program, planned = for_training(recipe, "vision"), plan(recipe)["vision"]
    weights = completed({}, program, seed=0)
    run = StageRun(program, planned, weights)
    shapes = {
        name: weights[name].shape for name in ("lm.blocks.0.mlp.gate.weight", "lm.embed.weight")
    }
    held = {
        one.shape
        for one in gc.get_objects()
        if type(one) in (torch.Tensor, Parameter) and one.dtype == torch.bfloat16
    }
    assert {name: shape in held for name, shape in shapes.items()} == {
        "lm.blocks.0.mlp.gate.weight": False,
        "lm.embed.weight": True,
    }
    assert run.weights["lm.blocks.0.mlp.gate.weight"] is weights["lm.blocks.0.mlp.gate.weight"]


class Losses(Silence):
    """Remembers the loss of each step."""

    def __init__(self):
        self.said = []

    def step(self, metrics, done):
        self.said.append(metrics.loss)


def test_a_run_goes_through_and_compiled_it_stays_close(folder, tmp_path):
    recipe = load_recipe(str(folder / "tiny.vlm"), amend=[MIXED])
    told = []
    for backend in ("eager", "inductor"):
        told.append(Losses())
        train(
            recipe,
            [f"pictures={folder / 'pictures.json'}", f"chat={folder / 'chat.jsonl'}"],
            tmp_path / backend,
            stages=["joint"],
            weights={},
            options=Options(steps=3, backend=backend),
            listener=told[-1],
        )
    eager, compiled = told
    assert compiled.said == pytest.approx(eager.said, rel=2e-2)

"""What a stage hands on: low-rank changes inside their matrices, and what a mode answers with."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import load_file

from triptych.backends import checkpoint
from triptych.backends.headers import WeightsError
from triptych.backends.job import job_from
from triptych.backends.listening import Silence
from triptych.backends.options import Options
from triptych.backends.training import completed
from triptych.blocks.lora import AdaptedLinear
from triptych.compiler.lower import lower
from triptych.compiler.pipeline import for_training
from triptych.compiler.plan import plan
from triptych.dsl.load import load_recipe

from .eager import train

ADAPTED = (
    "joint.train=[lora(lm.blocks.attn, rank: 4, alpha: 8), merger]",
    "joint.freeze=[vit, lm]",
    "sft.train=[lora(lm.blocks, rank: 2)]",
    "sft.freeze=[vit, merger, lm]",
)


class Heard(Silence):
    """Remembers what a run tells."""

    def __init__(self):
        self.notices = []

    def notice(self, text):
        self.notices.append(text)


def data(folder):
    return [f"pictures={folder / 'pictures.json'}", f"chat={folder / 'chat.jsonl'}"]


@pytest.fixture(scope="module")
def adapted(folder):
    return load_recipe(str(folder / "tiny.vlm"), amend=ADAPTED)


@pytest.fixture(scope="module")
def run(folder, adapted, tmp_path_factory):
    """The run of stages that adapt, and what it told."""
    heard = Heard()
    out = tmp_path_factory.mktemp("adapted") / "out"
    train(adapted, data(folder), out, options=Options(save_every=5), listener=heard)
    return out, heard.notices


def checkpoint_of(out, stage, *, finished):
    every = checkpoint.checkpoints(out)
    (found,) = [
        one for one in every if (one.progress.stage, one.progress.finished) == (stage, finished)
    ]
    return found


def test_a_low_rank_change_goes_on_inside_its_matrix(run, adapted):
    out, _ = run
    before = checkpoint_of(out, "vision", finished=True).weights()
    end = checkpoint_of(out, "joint", finished=True).weights()
    moved = {name for name in end if not torch.equal(end[name], before[name])}
    assert moved == {
        *plan(adapted)["joint"].coverage.adapted,
        *plan(adapted)["joint"].coverage.trained,
    }
    assert not [name for name in end if ".lora_" in name]


def test_a_merged_matrix_computes_what_the_two_did(adapted, folder, run):
    """The next stage starts where the one before stopped, whatever rank it adapts with itself."""
    out, _ = run
    program = for_training(adapted, "joint")
    torch.manual_seed(0)
    weights = checkpoint_of(out, "joint", finished=False).weights()
    assert {name for name in weights if ".lora_" in name} == set(
        plan(adapted)["joint"].coverage.added
    )
    beside = lower(program)
    beside.module.load_state_dict({name: weights[name] for name in beside.module.state_dict()})
    merged = completed(beside.merged(), for_training(adapted, "sft"), 0)
    inside = lower(for_training(adapted, "sft"))
    inside.module.load_state_dict({name: merged[name] for name in inside.module.state_dict()})
    x = torch.randn(5, 24)
    for layer in range(2):
        for which in "qkvo":
            name = f"lm.blocks.{layer}.attn.{which}"
            one, other = beside.module.get_submodule(name), inside.module.get_submodule(name)
            assert isinstance(one, AdaptedLinear) and isinstance(other, AdaptedLinear)
            assert (one.lora_a.shape[0], other.lora_a.shape[0]) == (4, 2)
            assert (one(x) - other(x)).abs().max() < 1e-5


def test_state_of_low_rank_changes_is_given_up_and_said(run, adapted):
    out, notices = run
    joint, sft = plan(adapted)["joint"], plan(adapted)["sft"]
    added = sum(param.count for param in joint.coverage.added.values())
    assert joint.handed == set(joint.coverage.trained)
    assert not sft.handed and set(sft.given_up) == set(joint.trained)
    told = [line for line in notices if "optimizer's state" in line]
    assert told == [
        "joint: the optimizer's state from vision goes on (merger 5,752)",
        "joint: the optimizer's state from vision is given up: frozen from here on (vit 5,984)",
        "sft: the optimizer's state from joint is given up: frozen from here on (merger 5,752)",
        "sft: the optimizer's state from joint is given up: low-rank changes, which are part of "
        f"their matrices now (lm {added:,})",
    ]
    state = checkpoint_of(out, "sft", finished=True).optimizer()
    assert {float(value) for key, value in state.items() if key.endswith("/step")} == {6.0}


def test_a_mode_answers_with_the_weights_of_its_stage(run, folder, adapted):
    out, _ = run
    load = f"{folder / 'tiny.vlm'}"
    earlier = load_recipe(load, amend=[*ADAPTED, "chat.after=joint"])
    for recipe, stage in ((adapted, "sft"), (earlier, "joint")):
        held = job_from(recipe, "chat", out).lowered.module.state_dict()
        end = checkpoint_of(out, stage, finished=True).weights()
        assert all(torch.equal(tensor, end[name].to(tensor.dtype)) for name, tensor in held.items())
    final = job_from(earlier, "chat", out / "weights.safetensors").lowered.module.state_dict()
    last = load_file(out / "weights.safetensors")
    assert all(torch.equal(tensor, last[name].to(tensor.dtype)) for name, tensor in final.items())


def test_a_run_without_the_end_of_that_stage_is_refused(folder, tmp_path):
    recipe = load_recipe(str(folder / "tiny.vlm"), amend=["chat.after=joint"])
    train(recipe, data(folder), tmp_path, stages=["vision"], weights={}, options=Options(steps=1))
    with pytest.raises(WeightsError, match="holds no end of the stage joint: train that first"):
        job_from(recipe, "chat", tmp_path)

"""Each training stage of each published system runs, and moves exactly what it says."""

from __future__ import annotations

import pytest
import torch
from click.testing import CliRunner

from triptych.backends import checkpoint
from triptych.backends.training import completed
from triptych.cli.main import cli
from triptych.compiler.pipeline import for_training
from triptych.compiler.plan import plan
from triptych.dsl.load import load_recipe

from .conftest import STAGES


@pytest.mark.parametrize(("name", "stage"), STAGES)
def test_a_stage_moves_exactly_what_it_trains(name, stage, data, tmp_path):
    arguments = ["train", name, "--stage", stage, "--weights", "fresh", "--out", str(tmp_path)]
    options = ["--steps", "2", "--batch", "2", "--precision", "f32", "--seed", "0"]
    options += ["--backend", "eager"]
    # Published rates and warm-ups move a weight of 1 by less than a float in two steps.
    options += ["--set", f"{stage}.optim.lr=0.01", "--set", f"{stage}.schedule=constant()"]
    done = CliRunner().invoke(cli, [*arguments, *options, "--data", str(data)])
    assert done.exit_code == 0, done.output
    recipe = load_recipe(name)
    (planned,) = [one for one in plan(recipe).stages if one.name == stage]
    before = completed({}, for_training(recipe, stage), seed=0)
    end = checkpoint.checkpoints(tmp_path)[-1]
    after = end.weights()
    moved = {name for name in after if not torch.equal(after[name], before[name])}
    assert moved <= set(planned.trained), "a frozen parameter moved"
    assert set(planned.trained) == {key.rpartition("/")[0] for key in end.optimizer()}
    assert moved == set(planned.trained)

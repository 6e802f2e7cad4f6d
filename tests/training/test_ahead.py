"""A step that is compiled ahead of time moves the weights as eager does."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from triptych.backends.artefact import Artefact
from triptych.backends.base import BackendError, Executable, InputError
from triptych.backends.data import open_source
from triptych.backends.drops import Drops
from triptych.backends.listening import Silence
from triptych.backends.manifest import ArtefactError
from triptych.backends.options import Options
from triptych.backends.samples import Samples
from triptych.backends.stage_job import StageJob
from triptych.backends.training import completed
from triptych.backends.training_stage import NotFiniteError, StageRun
from triptych.cli.main import cli
from triptych.compiler.pipeline import for_training
from triptych.compiler.plan import plan
from triptych.dsl.load import load_recipe
from triptych.dsl.recipe import Recipe

from .eager import train
from .killing import kill_after

BATCHES = ((0, 4), (4, 10), (3, 4), (10, 18))
"""Samples of each step; one alone too."""
LORA = "vision.train = [vit, merger, lora(lm.blocks.attn, rank: 2)]"


class Exported(Executable):
    """The programs of a stage, operator by operator: what is compiled, without compiling it."""

    device = torch.device("cpu")

    def __init__(self, job, weights):
        self.methods, self.limits, self.weights = job.methods, job.limits, weights
        self.programs = {name: job.program(name) for name in job.methods}
        self.runs = []

    def _run(self, method, inputs, sizes):
        self.runs.append(method.name)
        weights = {name: self.weights[name] for name in method.parameters}
        return self.programs[method.name].module(check_guards=False)(weights, inputs)


class Case:
    """A stage with batches of several sizes; `runs` are its programs and eager, side by side."""

    def __init__(self, folder, base, stage, *amend):
        self.recipe = load_recipe(
            str(folder / f"{base}.vlm"), amend=[f"{stage}.batch = 10seq", *amend]
        )
        self.program, self.plan = for_training(self.recipe, stage), plan(self.recipe)[stage]
        self.job = StageJob.of("tiny", self.program, self.plan)
        samples = Samples(self.program.spec, self.recipe.stages[stage], folder)
        source = open_source(folder / ("chat.jsonl" if stage == "sft" else "pictures.json"))
        ready = [samples.prepare(source.read(index)) for index in range(20)]
        drops = Drops(self.program.methods, "0")
        self.batches = [
            drops.into(samples.collate(ready[begin:end]), begin) for begin, end in BATCHES
        ]

    def run(self, code=None):
        return StageRun(self.program, self.plan, completed({}, self.program, 0), code=code)

    def exported(self, kind=Exported):
        made = []

        def code(weights):
            made.append(kind(self.job, weights))
            return made[0]

        return self.run(code), made[0]


@pytest.mark.parametrize(
    ("base", "stage", "amend", "form"),
    [
        ("tiny", "joint", (), ("gradients", "update")),
        ("varied", "vision", (), ("train_step",)),
        ("tiny", "vision", ("vision.precision = bf16", LORA), ("train_step",)),
    ],
    ids=["cut", "drop path, decay for all, blocks computed twice", "bf16, low rank, regions"],
)
def test_programs_move_weights_as_eager_does(folder, base, stage, amend, form):
    case = Case(folder, base, stage, "vit.depth = 1", "lm.depth = 1", *amend)
    (ours, code), eager = case.exported(), case.run()
    called = [str(node.target) for node in code.programs[form[0]].graph.nodes]
    again = bool(case.recipe.stages[stage].checkpoint)
    assert called.count("triptych.segment_attention.default") == 1 + again
    exact = case.job.lowered.dtype == torch.float32
    near = 1e-6 if exact else 2e-2
    for number, shards in enumerate(case.batches):
        code.runs.clear()
        (losses, norm), (wanted, bound) = ours.step(shards, 1e-3), eager.step(shards, 1e-3)
        ran = [name for name in code.runs if name != "prefix"]
        assert ran == [*form[:1] * len(shards), *form[1:]]
        rel = 1e-5 if exact else 2e-2
        assert losses == pytest.approx(wanted, rel=rel)
        assert norm == pytest.approx(bound, rel=rel)
        moments, theirs = ours.optimizer.state(), eager.optimizer.state()
        assert {moments[key].item() for key in moments if key.endswith("/step")} == {number + 1}
        for name in case.job.trained:
            key = f"{name}/exp_avg"
            torch.testing.assert_close(
                moments[key] * 10, theirs[key] * 10, rtol=0, atol=near, msg=key
            )
    for name in case.job.trained:
        off = (ours.weights[name] - eager.weights[name]).abs()
        # Where a gradient is all rounding, AdamW still moves by the rate, up or down.
        assert off.max() <= 2 * 1e-3 * len(case.batches)
        assert off.mean() <= (1e-5 if exact else 1e-3)


class Spoilt(Exported):
    """Yields the gradient of one weight half as large again."""

    def _run(self, method, inputs, sizes):
        found = super()._run(method, inputs, sizes)
        if method.name == "train_step":
            inputs["merger.fc1.weight/exp_avg"].mul_(1.5)
        return found


# The adapter alone learns from regions: a small step, as each kernel is a run of g++.
SMALL = (
    "vit.depth = 1",
    "vision.train = merger",
    "vision.freeze = [vit, lm]",
    "vision.loss = words",
    "vision.batch = 6seq",
)


def test_a_step_that_differs_from_eager_is_refused_and_one_without_sense_moves_nothing(folder):
    case = Case(folder, "tiny", "vision", *SMALL)
    spoilt, _ = case.exported(Spoilt)
    with pytest.raises(BackendError, match=r"the gradient of merger\.fc1\.weight is off by"):
        spoilt.step(case.batches[0], 1e-3)
    run, _ = case.exported()
    run.step(case.batches[0], 1e-3)
    before = {name: one.clone() for name, one in {**run.weights, **run.optimizer.state()}.items()}
    (shard,) = case.batches[1]
    weight = torch.full_like(shard["regions.weight"], torch.inf)
    with pytest.raises(NotFiniteError):
        run.step([{**shard, "regions.weight": weight}], 1e-3)
    after = {**run.weights, **run.optimizer.state()}
    assert all(torch.equal(before[name], after[name]) for name in before)
    many = {name: torch.cat([one] * 60) for name, one in shard.items()}
    with pytest.raises(InputError, match="the executable takes"):
        run.step([many], 1e-3)


@pytest.fixture(scope="module")
def small(folder) -> Recipe:
    """A stage with a small step."""
    return load_recipe(str(folder / "tiny.vlm"), amend=SMALL)


@pytest.fixture(scope="module")
def artefact(folder, tmp_path_factory) -> Path:
    """That stage, compiled."""
    out: Path = tmp_path_factory.mktemp("stage") / "vision"
    amend = [word for line in SMALL for word in ("--set", line)]
    arguments = ["compile", str(folder / "tiny.vlm"), "--stage", "vision", *amend]
    told = CliRunner().invoke(cli, [*arguments, "--out", str(out)])
    assert told.exit_code == 0, told.output
    assert "It trains a stage: triptych train tiny --artefact" in told.output
    return out


class Losses(Silence):
    """Remembers the losses of a run."""

    def __init__(self):
        self.found = []

    def step(self, metrics, done):
        self.found.append(metrics.loss)


def run(recipe, folder, out, **options):
    heard = Losses()
    result = train(
        recipe,
        [str(folder / "pictures.json")],
        out,
        stages=["vision"],
        resume=out.exists(),
        options=Options(steps=12, save_every=4, **options),
        listener=heard,
    )
    return heard.found, load_file(result.weights)


def test_trains_as_eager_and_ends_with_the_same_bits_after_a_kill(
    folder, small, artefact, tmp_path
):
    losses, weights = run(small, folder, tmp_path / "whole", backend="aot", artefacts=(artefact,))
    wanted, eager = run(small, folder, tmp_path / "eager")
    assert losses == pytest.approx(wanted, rel=1e-4)
    for name, weight in eager.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-3, msg=name)
    out = tmp_path / "killed"
    amend = [word for line in SMALL for word in ("--set", line)]
    command = ["train", str(folder / "tiny.vlm"), "--data", str(folder / "pictures.json"), *amend]
    command += ["--stage", "vision", "--steps", "12", "--save-every", "4", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "triptych", *command, "--artefact", str(artefact)],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    metrics = out / "metrics.jsonl"
    kill_after(process, metrics, 6)
    assert not (out / "weights.safetensors").exists()
    _, resumed = run(small, folder, out, backend="aot", artefacts=(artefact,))
    assert all(torch.equal(resumed[name], weight) for name, weight in weights.items())


def test_an_artefact_trains_the_stage_that_it_was_compiled_from_and_nothing_else(
    folder, small, artefact, tmp_path
):
    manifest = Artefact(artefact).manifest
    assert (manifest.recipe.mode, manifest.weights.kind) == ("vision", "none")
    assert manifest.training == {
        "stage": "vision", "trained": 6, "betas": [0.9, 0.95], "eps": 1e-8, "clip": 1.0
    }  # fmt: skip
    step = manifest.methods["train_step"]
    assert {"merger.fc1.weight", "merger.fc1.weight/exp_avg_sq"} < set(step.updated)
    other = load_recipe(
        str(folder / "tiny.vlm"), amend=[*SMALL, "vision.optim = adamw(lr: 1e-2, clip: 2.0)"]
    )
    with pytest.raises(ArtefactError, match="compiled from another recipe, or with other settings"):
        run(other, folder, tmp_path / "other", backend="aot", artefacts=(artefact,))
    with pytest.raises(ArtefactError, match="answers nothing, it trains a stage"):
        Artefact(artefact).session()
    told = CliRunner().invoke(cli, ["inspect", str(artefact), "--json"])
    assert (told.exit_code, json.loads(told.stdout)["problems"]) == (0, {})

"""Every step compiles as one graph for all sizes, and computes what it computed before."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch._dynamo.backends.debugging import aot_eager
from torch._inductor import compile_fx, cpp_builder

from triptych.backends import checkpoint
from triptych.backends.base import BackendError
from triptych.backends.data import open_source
from triptych.backends.drops import Drops
from triptych.backends.listening import Silence
from triptych.backends.options import Options
from triptych.backends.samples import Samples
from triptych.backends.training import completed, train
from triptych.backends.training_stage import StageRun
from triptych.cli.main import cli
from triptych.compiler.pipeline import for_training
from triptych.compiler.plan import plan
from triptych.dsl.load import load_recipe

from .killing import kill_after

BATCHES = ((0, 4), (4, 10), (10, 20))
"""Samples of each batch; at least two, as a batch of one has a graph of its own."""


# The adapter and one block of the tower: a small step, as each kernel is a run of g++.
SMALL = (
    "vit.depth = 1",
    "vision.train = merger",
    "vision.freeze = [vit, lm]",
    "vision.loss = words",
)


def batches(folder, recipe, name, program):
    """Inputs of several sizes."""
    samples = Samples(program.spec, recipe.stages[name], folder)
    source = open_source(folder / ("chat.jsonl" if name == "sft" else "pictures.json"))
    ready = [samples.prepare(source.read(index)) for index in range(20)]
    drops = Drops(program.methods, "0")
    return [drops.into(samples.collate(ready[start:end]), start) for start, end in BATCHES]


@pytest.mark.parametrize(
    ("base", "name"),
    [("tiny", "vision"), ("tiny", "joint"), ("tiny", "sft"), ("varied", "vision")],
)
def test_each_method_is_one_graph_for_all_sizes(folder, base, name, monkeypatch):
    # Short packs, so that every batch has more than one row.
    recipe = load_recipe(str(folder / f"{base}.vlm"), amend=["sft.pack = 40tok"])
    program, planned = for_training(recipe, name), plan(recipe)[name]
    given = batches(folder, recipe, name, program)
    graphs = []

    def counted(graph, example):
        graphs.append(graph)
        return aot_eager(graph, example)

    # Without generating code: what is asked here is what Dynamo and AOTAutograd make of the step.
    monkeypatch.setattr(compile_fx, "compile_fx", counted)
    eager, ours = (
        StageRun(program, planned, completed({}, program, 0), compiled=compiled)
        for compiled in (False, True)
    )
    beta = planned.settings.optim.betas[0]
    for shards in given:
        (wanted, bound), (losses, norm) = eager.step(shards, 1e-3), ours.step(shards, 1e-3)
        assert losses == pytest.approx(wanted, rel=1e-5)
        assert norm == pytest.approx(bound, rel=1e-5)
        moments, theirs = ours.optimizer.state(), eager.optimizer.state()
        for key in (f"{name}/exp_avg" for name in planned.trained):
            found, expected = (one[key] / (1 - beta) for one in (moments, theirs))
            torch.testing.assert_close(found, expected, rtol=0, atol=1e-6, msg=key)
    assert len(graphs) == len(program.methods)
    assert ours.recompiles == 0


def test_a_step_that_differs_from_eager_is_refused(folder, monkeypatch):
    monkeypatch.setattr(compile_fx, "compile_fx", lambda graph, example: graph)
    recipe = load_recipe(str(folder / "tiny.vlm"), amend=SMALL)
    program, planned = for_training(recipe, "vision"), plan(recipe)["vision"]
    shards, *_ = batches(folder, recipe, "vision", program)
    run = StageRun(program, planned, completed({}, program, 0), compiled=True)
    before = {name: one.clone() for name, one in run.weights.items()}
    right = run._gradients.of

    def spoilt(shards):
        losses, gradients = right(shards)
        gradients["merger.fc1.weight"].mul_(1.5)
        return losses, gradients

    monkeypatch.setattr(run._gradients, "of", spoilt)
    with pytest.raises(BackendError, match=r"differs from eager: the (norm|gradient) of"):
        run.step(shards, 1e-3)
    assert all(torch.equal(run.weights[name], one) for name, one in before.items())


STEPS = 12


class Heard(Silence):
    """Remembers what a run tells."""

    def __init__(self):
        self.losses, self.notices = [], []

    def step(self, metrics, done):
        self.losses.append(metrics.loss)
        self.rate = metrics.tokens / metrics.seconds

    def notice(self, text):
        self.notices.append(text)


def run(folder, out, *, resume=False, **options):
    heard = Heard()
    recipe = load_recipe(str(folder / "tiny.vlm"), amend=SMALL)
    result = train(
        recipe,
        [str(folder / "pictures.json")],
        out,
        stages=["vision"],
        resume=resume,
        options=Options(steps=STEPS, save_every=4, **options),
        listener=heard,
    )
    return heard, load_file(result.weights)


def command(folder, out):
    amend = [word for line in SMALL for word in ("--set", line)]
    return [
        *("train", str(folder / "tiny.vlm"), "--data", str(folder / "pictures.json"), *amend),
        *("--stage", "vision", "--steps", str(STEPS), "--save-every", "4", "--out", str(out)),
    ]


def started(folder, out, *more):
    return subprocess.Popen(
        [sys.executable, "-m", "triptych", *command(folder, out), *more],
        cwd=out.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


@pytest.fixture(scope="module")
def compiled(folder, tmp_path_factory):
    """A run by default, whole: what it told, its weights, and the folder of its code."""
    cache = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(cache))
        return *run(folder, tmp_path_factory.mktemp("whole") / "out"), cache


def test_a_step_is_compiled_unless_told_otherwise_and_trains_as_eager_does(
    folder, compiled, tmp_path
):
    heard, weights, cache = compiled
    eager, wanted = run(folder, tmp_path / "eager", backend="eager")
    assert heard.losses == pytest.approx(eager.losses, rel=1e-4)
    for name, weight in wanted.items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-3, msg=name)
    assert heard.notices[0] == "compiling the step of stage vision ..."
    took = int(heard.notices[1].removeprefix("compiled in ").removesuffix(" s"))
    assert len(heard.notices) == 2 and not eager.notices
    assert list((cache / "train").rglob("*.so"))
    assert took > 1, "the time is in the notice"
    assert heard.rate > eager.rate / 10, "and not in the speed"


def test_killed_and_resumed_it_finds_its_code_and_ends_with_the_same_bits(
    folder, compiled, tmp_path, monkeypatch
):
    _, weights, cache = compiled
    monkeypatch.setenv("TRIPTYCH_CACHE", str(cache))
    out = tmp_path / "out"
    process = started(folder, out)
    metrics = out / "metrics.jsonl"
    kill_after(process, metrics, 6)
    assert checkpoint.checkpoints(out)[-1].progress.step in (4, 8)
    made = set(cache.rglob("*.so"))
    process = started(folder, out, "--resume")
    told, _ = process.communicate(timeout=300)
    assert process.returncode == 0, told
    (saved,) = [line for line in told.splitlines() if line.startswith("weights")]
    resumed = load_file(saved.removeprefix("weights").strip())
    assert all(torch.equal(resumed[name], weight) for name, weight in weights.items())
    assert set(cache.rglob("*.so")) == made


def test_ctrl_c_interrupts_a_compiler_at_once(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    process = started(folder, tmp_path / "out")
    assert process.stdout is not None
    told = ""
    while "compiling the step of stage vision ..." not in told:
        line = process.stdout.readline()
        assert line, told
        told += line
    process.send_signal(signal.SIGINT)
    more, _ = process.communicate(timeout=60)
    assert (process.returncode, more.strip()) == (130, "interrupted")
    assert not checkpoint.checkpoints(tmp_path / "out")


def test_without_a_compiler_it_trains_by_eager_and_says_so(folder, tmp_path, monkeypatch):
    def none():
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(cpp_builder, "get_cpp_compiler", none)
    heard, _ = run(folder, tmp_path / "out")
    assert len(heard.losses) == STEPS
    (notice,) = heard.notices
    assert notice.startswith("steps are not compiled here")
    assert "a C++ compiler: it turns generated kernels into machine code" in notice
    assert "steps are not compiled here" in (tmp_path / "out" / "report.html").read_text()
    asked = [*command(folder, tmp_path / "asked"), "--backend", "inductor"]
    told = CliRunner().invoke(cli, asked)
    assert "the backend inductor cannot work on this machine" in str(told.exception)

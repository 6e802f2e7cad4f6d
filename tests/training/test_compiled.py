"""Every step compiles as one graph for all sizes, and computes what it computed before."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file
from torch._dynamo.backends.common import aot_autograd
from torch._dynamo.backends.debugging import aot_eager
from torch._inductor import compile_fx, cpp_builder

from triptych.backends import checkpoint
from triptych.backends.data import open_source
from triptych.backends.drops import Drops
from triptych.backends.foreseen import StepError
from triptych.backends.listening import Silence
from triptych.backends.options import Options
from triptych.backends.samples import Samples
from triptych.backends.training import TrainingError, completed, train
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


def batches(folder, recipe, name, program, cuts=BATCHES):
    """Inputs of several sizes."""
    samples = Samples(program.spec, recipe.stages[name], folder)
    source = open_source(folder / ("chat.jsonl" if name == "sft" else "pictures.json"))
    ready = [samples.prepare(source.read(index)) for index in range(20)]
    drops = Drops(program.methods, "0")
    return [drops.into(samples.collate(ready[start:end]), start) for start, end in cuts]


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


def spoilt(graph, example):
    """Makes the first gradient on the way back half as large again."""

    def back(graph, example):
        (output,) = graph.graph.find_nodes(op="output")
        gradients = list(output.args[0])
        place = next(n for n, one in enumerate(gradients) if one is not None)
        with graph.graph.inserting_before(output):
            gradients[place] = graph.graph.call_function(torch.mul, (gradients[place], 1.5))
        output.args = (gradients,)
        graph.recompile()
        return graph

    return aot_autograd(fw_compiler=lambda graph, example: graph, bw_compiler=back)(graph, example)


def test_what_is_compiled_for_a_batch_is_held_against_eager_before_it_moves_anything(
    folder, monkeypatch
):
    recipe = load_recipe(str(folder / "tiny.vlm"), amend=SMALL)
    program, planned = for_training(recipe, "vision"), plan(recipe)["vision"]
    alone, several = batches(folder, recipe, "vision", program, ((0, 1), (4, 10)))
    run, eager = (
        StageRun(program, planned, completed({}, program, 0), compiled=compiled)
        for compiled in (True, False)
    )
    monkeypatch.setattr(compile_fx, "compile_fx", aot_eager)
    for one in (run, eager):
        one.step(alone, 1e-3)
    monkeypatch.setattr(compile_fx, "compile_fx", spoilt)
    for one in (run, eager):
        one.step(alone, 1e-3)
    before = {name: one.clone() for name, one in {**run.weights, **run.optimizer.state()}.items()}
    # A batch of one had a graph of its own.
    with pytest.raises(StepError, match=r"differs from eager: the (norm|gradient) of"):
        run.step(several, 1e-3)
    after = {**run.weights, **run.optimizer.state()}
    assert all(torch.equal(after[name], one) for name, one in before.items())
    run.compute_by_eager()
    assert (run.backend, run.recompiles) == ("eager", 0)
    (losses, norm), (wanted, bound) = (one.step(several, 1e-3) for one in (run, eager))
    assert (losses["loss"], norm) == pytest.approx((wanted["loss"], bound), rel=1e-4)


STEPS = 12


class CutOffError(Exception):
    """Ends a run as a kill does: nothing more is saved."""


class Heard(Silence):
    """Remembers what a run tells; cuts it off after so many steps."""

    def __init__(self, steps=STEPS):
        self.losses, self.notices = [], []
        self.steps = steps

    def step(self, metrics, done):
        self.losses.append(metrics.loss)
        self.rate = metrics.tokens / metrics.seconds
        if len(self.losses) == self.steps < STEPS:
            raise CutOffError

    def notice(self, text):
        self.notices.append(text)


def run(folder, out, *, resume=False, heard=None, **options):
    heard = heard or Heard()
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


def same(first, second):
    return all(torch.equal(first[name], weight) for name, weight in second.items())


def test_eager_takes_over_from_a_compiler_that_errs_unless_it_was_asked_for(
    folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(compile_fx, "compile_fx", spoilt)
    eager, wanted = run(folder, tmp_path / "eager", backend="eager")
    out = tmp_path / "out"
    heard = Heard(steps=6)
    with pytest.raises(CutOffError):
        run(folder, out, heard=heard)
    began, notice = heard.notices
    assert began == "compiling the step of stage vision ..."
    assert notice.startswith(
        "vision is trained by eager, which may take longer: the compiled step differs from eager: "
    )
    assert notice.endswith("; --backend inductor insists on compiled steps, and stops here")
    resumed, weights = run(folder, out, resume=True)
    assert resumed.notices == ["vision goes on by eager, as it was begun"]
    assert heard.losses[:4] + resumed.losses == eager.losses
    assert same(weights, wanted)
    with pytest.raises(StepError, match=r"differs from eager: .*; --backend eager trains without"):
        run(folder, tmp_path / "asked", backend="inductor")
    with pytest.raises(TrainingError, match="backend: eager -> inductor"):
        run(folder, out, resume=True, backend="inductor")


def test_eager_takes_over_from_a_compiler_that_fails(folder, tmp_path, monkeypatch):
    broken = tmp_path / "g++"
    broken.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "g++ 12" && exit\nexit 1\n')
    broken.chmod(0o755)
    monkeypatch.setenv("CXX", str(broken))
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    told, _ = started(folder, tmp_path / "out").communicate(timeout=300)
    lines = [line.strip() for line in told.splitlines()]
    place = lines.index("compiling the step of stage vision ...")
    assert (
        "vision is trained by eager, which may take longer: the step cannot be compiled ("
        in (lines[place + 1])
    )
    assert any(line.startswith("weights  ") for line in lines)

"""A run that is cut off, in real processes, ends with the bits of one that was not."""

from __future__ import annotations

import json
import shlex
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from triptych.backends import checkpoint
from triptych.backends.options import Options
from triptych.dsl.load import load_recipe

from .eager import train

STEPS = 12
STAGES = ("vision", "joint", "sft")
OPTIONS = Options(steps=STEPS, workers=2, save_every=4, backend="eager")


def data(folder):
    return [f"pictures={folder / 'pictures.json'}", f"chat={folder / 'chat.jsonl'}"]


def command(folder, out, *more, recipe="tiny"):
    first, second = data(folder)
    return [
        *("train", str(folder / f"{recipe}.vlm"), "--out", str(out)),
        *("--data", first, "--data", second, "--backend", "eager"),
        *("--steps", str(STEPS), "--save-every", "4", "--workers", "2", *more),
    ]


def start(folder, out, *more, recipe="tiny"):
    return subprocess.Popen(
        [sys.executable, "-m", "triptych", *command(folder, out, *more, recipe=recipe)],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=out.parent,
    )


def wait_for(process: subprocess.Popen[str], out: Path, lines: int) -> None:
    """Until the run has written so many lines of metrics."""
    file = out / "metrics.jsonl"
    deadline = time.monotonic() + 60
    while not file.exists() or file.read_bytes().count(b"\n") < lines:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.fixture(scope="module")
def undisturbed(folder, recipe, tmp_path_factory):
    """The weights of a run that nothing cuts off."""
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return load_file(train(recipe, data(folder), out, options=OPTIONS).weights)


@pytest.mark.parametrize("name", ["tiny", "varied"])
def test_killed_in_each_stage_and_resumed(folder, name, tmp_path):
    recipe, out = load_recipe(str(folder / f"{name}.vlm")), tmp_path / "out"
    undisturbed = load_file(
        train(recipe, data(folder), tmp_path / "undisturbed", options=OPTIONS).weights
    )
    for number, stage in enumerate(STAGES):
        process = start(folder, out, *(["--resume"] if number else []), recipe=name)
        wait_for(process, out, number * STEPS + 6)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        newest = checkpoint.checkpoints(out)[-1].progress
        assert (newest.stage, newest.finished) == (stage, False)
        assert newest.step in (4, 8)
        assert not (out / "weights.safetensors").exists()
    result = train(recipe, data(folder), out, resume=True, options=OPTIONS)
    assert same(load_file(result.weights), undisturbed)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    steps = [(line["stage"], line["step"]) for line in lines]
    assert steps == [(stage, step) for stage in STAGES for step in range(1, STEPS + 1)]


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(
    folder, recipe, undisturbed, tmp_path
):
    out = tmp_path / "out"
    process = start(folder, out)
    wait_for(process, out, STEPS + 2)
    process.send_signal(signal.SIGINT)
    told, _ = process.communicate()
    assert process.returncode == 130, told
    newest = checkpoint.checkpoints(out)[-1]
    assert newest.progress.stage == "joint"
    assert f"stopped after step {newest.progress.step} of stage joint" in told
    assert f"saved in {newest.folder}" in told
    again = shlex.join(["triptych", *command(folder, out), "--resume"])
    assert told.splitlines()[-1] == f"go on with: {again}"
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == STEPS + newest.progress.step
    result = train(recipe, data(folder), out, resume=True, options=OPTIONS)
    assert same(load_file(result.weights), undisturbed)


def test_killed_before_the_first_checkpoint_it_starts_again(folder, recipe, undisturbed, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "metrics.jsonl").write_text(
        '{"stage": "vision", "step": 1, "loss": 1.0, "losses": {"lm": 1.0}, "rate": 0.1, '
        '"norm": 1.0, "sequences": 4, "tokens": 40, "seconds": 0.1}\n{"stage": "vis'
    )
    result = train(recipe, data(folder), out, resume=True, options=OPTIONS)
    assert same(load_file(result.weights), undisturbed)
    assert len((out / "metrics.jsonl").read_text().splitlines()) == STEPS * 3

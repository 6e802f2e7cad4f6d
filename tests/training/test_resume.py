"""A run that is cut off, in real processes, ends with the bits of one that was not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from triptych.backends import checkpoint
from triptych.backends.training import Options, train

STEPS = 12
STAGES = ("vision", "joint", "sft")


def command(folder, out, *more):
    return [
        *(sys.executable, "-m", "triptych", "train", str(folder / "tiny.vlm"), "--out", str(out)),
        *("--data", f"pictures={folder / 'pictures.json'}"),
        *("--data", f"chat={folder / 'chat.jsonl'}"),
        *("--steps", str(STEPS), "--save-every", "4", *more),
    ]


def start(folder, out, *more):
    return subprocess.Popen(
        command(folder, out, *more),
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
    data = [f"pictures={folder / 'pictures.json'}", f"chat={folder / 'chat.jsonl'}"]
    out = tmp_path_factory.mktemp("undisturbed") / "out"
    return load_file(train(recipe, data, out, options=Options(steps=STEPS)).weights)


def test_killed_in_each_stage_and_resumed(folder, undisturbed, tmp_path):
    out = tmp_path / "out"
    for number, stage in enumerate(STAGES):
        process = start(folder, out, *(["--resume"] if number else []))
        wait_for(process, out, number * STEPS + 6)
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        newest = checkpoint.checkpoints(out)[-1].progress
        assert (newest.stage, newest.finished) == (stage, False)
        assert newest.step in (4, 8)
        assert not (out / "weights.safetensors").exists()
    done = subprocess.run(
        command(folder, out, "--resume"), capture_output=True, text=True, check=True
    )
    assert same(load_file(out / "weights.safetensors"), undisturbed)
    assert "vision is done already, after 12 steps" in done.stderr
    steps = [line.count('"step"') for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert steps == [1] * STEPS * 3


def test_ctrl_c_finishes_the_step_saves_and_says_how_to_go_on(folder, undisturbed, tmp_path):
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
    assert "go on with: triptych train" in told
    assert told.rstrip().endswith("--resume")
    lines = (out / "metrics.jsonl").read_text().splitlines()
    assert len(lines) == STEPS + newest.progress.step
    subprocess.run(command(folder, out, "--resume"), capture_output=True, check=True)
    assert same(load_file(out / "weights.safetensors"), undisturbed)


def test_killed_before_the_first_checkpoint_it_starts_again(folder, undisturbed, tmp_path):
    out = tmp_path / "out"
    process = start(folder, out)
    wait_for(process, out, 1)
    process.kill()
    process.communicate()
    subprocess.run(command(folder, out, "--resume"), capture_output=True, check=True)
    assert same(load_file(out / "weights.safetensors"), undisturbed)


def test_workers_resume_bit_equal(folder, tmp_path):
    whole, cut_off = tmp_path / "whole", tmp_path / "cut"
    more = ("--workers", "2", "--stage", "vision")
    subprocess.run(command(folder, whole, *more), capture_output=True, check=True)
    process = start(folder, cut_off, *more)
    wait_for(process, cut_off, 6)
    process.kill()
    process.communicate()
    subprocess.run(command(folder, cut_off, *more, "--resume"), capture_output=True, check=True)
    weights = [load_file(out / "weights.safetensors") for out in (whole, cut_off)]
    assert same(*weights)


def test_says_what_is_wrong_in_one_line(folder, tmp_path):
    broken = command(folder, tmp_path / "out", "--stage", "vison")
    done = subprocess.run(broken, capture_output=True, text=True, env={**os.environ})
    assert done.returncode == 1
    assert done.stderr == "Error: tiny has no stage 'vison'; there is vision\n"

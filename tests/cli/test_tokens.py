"""`triptych tokens`, as a reader sees it in a pipe."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from triptych.cli.tokens import tokens_command

PICTURES = ["224x224", "28x28", "100x33", "448x448", "640x480", "1280x720", "1920x1080"]
PICTURES += ["4032x3024", "8192x8192"]
CLIPS = ["1280x720,10s", "1920x1080,60s", "1280x720,122s", "1920x1080,1200s"]
SHEET = [word for size in PICTURES for word in ("--image", size)]
SHEET += [word for clip in CLIPS for word in ("--video", clip)]


def run(*argv):
    return CliRunner().invoke(tokens_command, argv, catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("forms", ["qwen2_vl_7b"]),
        ("sheet", ["qwen2_vl_7b", *SHEET]),
        ("sheet_24576", ["qwen2_vl_7b", *SHEET[-8:], "--set", "video.resize.clip=24576tok"]),
        ("numbered", ["qwen2_vl_7b", "--image", "224x224", "--layout", "chatml_numbered"]),
    ],
)
def test_counts(golden, name, argv):
    done = run(*argv)
    assert done.exit_code == 0
    golden.check(f"cli/tokens_{name}.txt", done.output)


def test_counts_as_data():
    data = json.loads(run("qwen2_vl_7b", "--image", "224x224", "--json").output)
    assert data["layout"] == "chatml"
    assert data["items"][0]["tokens"] == 64
    assert data["items"][0]["tagged"] == {"least": 66, "most": 66, "step": 1}


def test_a_clip_recorded_at_another_rate():
    slow = json.loads(run("qwen2_vl_7b", "--video", "640x480,10s@1fps", "--json").output)
    assert slow["items"][0]["frames"] == 10


@pytest.mark.parametrize(
    ("argv", "status", "complaint"),
    [
        (["--image", "28x6000"], 1, "too thin"),
        (["--image", "0x10"], 2, "'0x10' is no size; write 1280x720"),
        (["--video", "10x10,3"], 2, "'10x10,3' is no clip"),
        (["--video", "10x10,0s"], 2, "'10x10,0s' has no frames"),
        (["--layout", "markdown"], 2, "has no layout markdown; it has chatml"),
    ],
)
def test_refuses(argv, status, complaint):
    done = run("qwen2_vl_7b", *argv)
    assert done.exit_code == status
    assert complaint in done.output

"""`triptych tokens`, as a reader sees it in a pipe."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from triptych.cli.tokens import tokens_command
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe

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


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_recipe_that_ships_answers(name):
    recipe = load_recipe(name)
    for layout in recipe.layouts:
        said = json.loads(run(name, "--layout", layout, "--json").output)
        kinds = {form["kind"] for form in said["closed"]}
        assert "sample" in kinds
        assert all(form["found"]["least"] > 0 for form in said["closed"])
    done = run(name, "--image", "640x480")
    assert done.exit_code == 0
    assert run(name).exit_code == 0


def test_a_table_over_sizes(golden):
    golden.check("cli/tokens_table.txt", run("qwen2_vl_7b", "--table", "56..5656:1120").output)
    clips = run("qwen2_vl_7b", "--table", "224..672:224", "--seconds", "60").output
    golden.check("cli/tokens_table_clips.txt", clips)


def test_a_table_as_data():
    argv = ("qwen2_vl_7b", "--table", "28..8428:2800", "--json")
    data = json.loads(run(*argv).output)["table"]
    assert data["sides"] == [28, 2828, 5628, 8428]
    (first, *_), *_, last = data["tokens"]
    assert first == 6  # four tokens at least, and two tags
    assert last[0] is None  # 301 times as high as wide


def test_what_is_left_in_each_room():
    data = json.loads(run("internvl_1_5_26b", "--image", "1900x1100", "--json").output)
    rooms = {room["user"]: (room["room"], room["taken"]) for room in data["rooms"]}
    assert rooms["stage `sft`"][0] == 4096
    # The mode cuts the same picture into more tiles.
    assert rooms["mode `chat`"][1] > rooms["stage `sft`"][1]


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--table", "5..1:2"], "'5..1:2' is no range of sides"),
        (["--table", "1..9999:1"], "has 9999 sides; 32 at most"),
        (["--seconds", "3"], "--seconds says how long the clips of a --table are"),
    ],
)
def test_refuses_a_table(argv, complaint):
    done = run("qwen2_vl_7b", *argv)
    assert done.exit_code == 2
    assert complaint in done.output

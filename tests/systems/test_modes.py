"""Each inference mode of each published system answers, from a real picture in a file."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from triptych.cli.run import run_command
from triptych.dsl.modes import Features, Mode, Retrieval

from .conftest import MODES, tiny


def ran(name, mode, picture, *more, backend="eager"):
    """What `triptych run` prints about a picture."""
    arguments = [name, "--mode", mode, "--backend", backend, "--random-weights", "0"]
    done = CliRunner().invoke(run_command, [*arguments, "--image", str(picture), *map(str, more)])
    assert done.exit_code == 0, done.output
    return done.stdout


def of_type(wanted):
    """The modes of a type, each with its recipe."""
    return [(name, mode) for name, mode in MODES if isinstance(tiny(name).modes[mode], wanted)]


@pytest.mark.parametrize(("name", "mode"), of_type(Mode))
def test_a_mode_answers(name, mode, picture):
    recipe = tiny(name)
    asking, chat = ["--max-new", "4", "--json"], recipe.modes[mode]
    assert isinstance(chat, Mode)
    if "user" in recipe.layouts[chat.layout].rules:
        asking += ["--prompt", "What is this?"]
    first = ran(name, mode, picture, *asking)
    assert len(json.loads(first)["tokens"]) <= 4
    assert first == ran(name, mode, picture, *asking)


@pytest.mark.parametrize(("name", "mode"), of_type(Retrieval))
def test_a_mode_compares_pictures_with_texts(name, mode, picture):
    told = ["--text", "the sun", "--text", "a fish", "--json"]
    rows = json.loads(ran(name, mode, picture, *told))
    assert [row["text"] for row in rows] == ["the sun", "a fish"]
    assert all(-1 <= row["cosine"] <= 1 for row in rows)
    named = json.loads(ran(name, mode, picture, "--class", "sun", "--class", "fish", "--json"))
    assert sum(row["share"] for row in named) == pytest.approx(1, abs=1e-4)


@pytest.mark.parametrize(("name", "mode"), of_type(Features))
def test_a_mode_yields_features(name, mode, picture, tmp_path):
    ran(name, mode, picture, "--out", tmp_path / "features.safetensors")
    tensors = load_file(tmp_path / "features.safetensors")
    assert tensors and all(torch.isfinite(tensor).all() for tensor in tensors.values())

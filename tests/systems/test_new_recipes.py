"""What `triptych new` mixes of parts of published systems trains and answers, as it is written."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from triptych.cli.main import cli

CHOICES = {
    "tiles, queries": ("internvl_1_5_26b.vit", "minigpt4_7b.qformer", "deepseek_vl_1_3b"),
    "rows of any size": ("qwen2_vl_7b.vit", "qwen2_vl_7b.merger", "minigpt4_7b"),
    "a resampler": ("deepseek_vl_1_3b.siglip", "qwen_vl_7b.resampler", "internvl_1_5_26b"),
}
SHORT = ("align.stop=2steps", "tune.stop=1steps", "align.batch=2seq", "tune.batch=2seq")


@pytest.mark.parametrize("name", CHOICES)
def test_a_new_recipe_trains_and_answers(name, data, picture, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    encoder, adapter, lm = CHOICES[name]
    chosen = ["--encoder", encoder, "--adapter", adapter, "--lm", lm, "--size", "tiny"]
    assert CliRunner().invoke(cli, ["new", "mine", *chosen]).exit_code == 0
    short = [word for setting in SHORT for word in ("--set", setting)]
    training = ["train", "mine.vlm", "--data", f"chat={data}", "--out", "run", *short]
    training += ["--backend", "eager"]
    done = CliRunner().invoke(cli, training)
    assert done.exit_code == 0, done.output
    asking = ["run", "mine.vlm", "--weights", "run", "--prompt", "What?", "--image", str(picture)]
    done = CliRunner().invoke(cli, [*asking, "--json", "--set", "chat.new=4tok", *short])
    assert done.exit_code == 0, done.output
    assert 0 < len(json.loads(done.stdout)["tokens"]) <= 4

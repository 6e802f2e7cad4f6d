"""`triptych train` as a person meets it."""

from __future__ import annotations

import json
import re

import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from triptych.cli.main import cli


def test_says_what_is_wrong_in_one_line(folder, tmp_path):
    arguments = ["train", str(folder / "tiny.vlm"), "--out", str(tmp_path), "--data", "none.json"]
    done = CliRunner().invoke(cli, [*arguments, "--stage", "vison"])
    assert str(done.exception) == "tiny has no stage 'vison'; there is vision"
    assert type(done.exception).__module__.startswith("triptych.")


def test_says_what_it_left_and_what_was_bad(folder, tmp_path):
    records = json.loads((folder / "pictures.json").read_text())
    for record in records:
        record["image"] = str(folder / record["image"])
    file = tmp_path / "data.json"
    file.write_text(json.dumps([*records, {"image": "none.png"}]))
    out = tmp_path / "out"
    arguments = ["train", str(folder / "tiny.vlm"), "--data", str(file), "--out", str(out)]
    arguments += ["--stage", "vision", "--set", "vision.stop = 1epochs", "--backend", "eager"]
    done = CliRunner().invoke(cli, arguments)
    assert done.exit_code == 0, done.output
    assert done.stdout.splitlines() == [
        f"weights  {out / 'weights.safetensors'}",
        f"report   {out / 'report.html'}",
    ]
    told = done.stderr.splitlines()
    assert told[0] == "stage vision: 1 epochs"
    assert re.fullmatch(r"  vision 100%  step 6  loss \d+\.\d{4}  [\d,]+ tok/s", told[1])
    assert told[2:] == [
        "1 sample could not be used:",
        "  data.json[24]: the record has neither `conversations` nor `messages`",
    ]


def test_a_part_starts_from_weights_of_its_own(folder, tmp_path):
    arguments = ["train", str(folder / "tiny.vlm"), "--data", str(folder / "pictures.json")]
    arguments += ["--stage", "vision", "--steps", "1", "--backend", "eager"]
    first, second = tmp_path / "first", tmp_path / "second"
    runner = CliRunner()
    told = runner.invoke(cli, [*arguments, "--out", str(first)])
    assert told.exit_code == 0, told.output
    begun = ["--start", f"lm={first}", "--seed", "1"]
    told = runner.invoke(cli, [*arguments, "--out", str(second), *begun])
    assert told.exit_code == 0, told.output
    before, after = (load_file(run / "weights.safetensors") for run in (first, second))
    frozen = [name for name in before if name.startswith("lm.")]
    assert all(torch.equal(before[name], after[name]) for name in frozen)
    assert not torch.equal(before["merger.fc1.weight"], after["merger.fc1.weight"])
    for wrong in (["--start", "lm"], ["--start", f"lm={first}", "--weights", "fresh"]):
        assert runner.invoke(cli, [*arguments, "--out", str(second), *wrong]).exit_code == 2


def test_help_names_every_kind_of_data():
    told = CliRunner().invoke(cli, ["train", "--help"]).output
    for word in ("LLaVA", "messages", "captions", "--resume", "fresh"):
        assert word in told

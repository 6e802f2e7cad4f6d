"""`triptych train` as a person meets it."""

from __future__ import annotations

import json
import re

from click.testing import CliRunner

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
    done = CliRunner().invoke(
        cli, [*arguments, "--stage", "vision", "--set", "vision.stop = 1epochs"]
    )
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


def test_help_names_every_kind_of_data():
    told = CliRunner().invoke(cli, ["train", "--help"]).output
    for word in ("LLaVA", "messages", "captions", "--resume", "fresh"):
        assert word in told

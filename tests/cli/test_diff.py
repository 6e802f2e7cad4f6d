"""`triptych diff`, as a reader sees it in a pipe."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from triptych.cli.diff import diff_command


def run(*argv):
    return CliRunner().invoke(diff_command, argv, catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "argv", "status"),
    [
        ("7b_2b", ["qwen2_vl_7b", "qwen2_vl_2b"], 1),
        ("7b_72b", ["qwen2_vl_7b", "qwen2_vl_72b"], 1),
        ("same", ["qwen2_vl_7b", "qwen2_vl_7b"], 0),
        (
            "many",
            ["qwen2_vl_2b", "qwen2_vl_2b", "--set", "image.alpha=white", "--set", "sft.seed=3"],
            1,
        ),
    ],
)
def test_differs(golden, name, argv, status):
    done = run(*argv)
    assert done.exit_code == status
    golden.check(f"cli/diff_{name}.txt", done.output)


def test_differs_as_data():
    data = json.loads(run("qwen2_vl_7b", "qwen2_vl_2b", "--json").output)
    assert {edit["group"] for edit in data["edits"]} == {"weights"}
    assert data["parts"]["merger"]["reusable"] == 26_222_080

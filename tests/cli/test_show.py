"""`triptych show`, as a reader sees it in a pipe."""

from __future__ import annotations

import pytest
from click.testing import CliRunner

from triptych.cli.show import show_command

ONE_BLOCK = ["--set", "lm.depth=1", "--set", "vit.depth=1"]
FEW_BITS = [
    *("--set", "chat.target=aot(precision: bf16)"),
    *("--set", "chat.quantize=[int8(vit.blocks.mlp), int4(lm.blocks)]"),
]


def run(*argv):
    return CliRunner().invoke(show_command, argv, catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("parts", ["qwen2_vl_2b"]),
        ("ir", ["qwen2_vl_2b", "--ir"]),
        ("ir_decode", ["qwen2_vl_2b", "--ir", "--mode", "chat", "--method", "decode"]),
        ("ir_after", ["qwen2_vl_2b", "--ir", "--after", "build", "--places"]),
        ("ir_prefix", ["qwen2_vl_2b", "--ir", "--stage", "sft", "--method", "prefix"]),
        ("parameters", ["qwen2_vl_2b", "--parameters", "--stage", "sft", *ONE_BLOCK]),
        ("few_bits", ["qwen2_vl_2b", "--parameters", "--mode", "chat", *ONE_BLOCK, *FEW_BITS]),
    ],
)
def test_shows(golden, name, argv):
    done = run(*argv)
    assert done.exit_code == 0
    golden.check(f"cli/show_{name}.txt", done.output)


def test_says_how_long_each_pass_took():
    done = run("qwen2_vl_2b", "--ir", "--method", "model", "--times")
    times = done.output.partition("\n\n")[2].splitlines()
    assert [line.split()[0] for line in times][:3] == ["build", "infer_shapes", "place_tokens"]
    assert all(line.endswith(" ms") for line in times)


def test_draws_a_picture(tmp_path):
    path = tmp_path / "graph.svg"
    done = run("qwen2_vl_2b", "--svg", str(path))
    assert done.exit_code == 0
    assert path.read_text(encoding="utf-8").startswith("<svg ")


@pytest.mark.parametrize(
    ("argv", "complaint"),
    [
        (["--ir", "--after", "unroll"], "There is no pass unroll; there is build, infer_shapes"),
        (["--ir", "--stage", "third"], "There is no stage third; there is vision, joint, sft."),
        (["--ir", "--stage", "sft", "--mode", "chat"], "Choose a stage or a mode, not both."),
        (["--ir", "--method", "decode"], "There is no method decode; there is model."),
    ],
)
def test_refuses_what_is_not_there(argv, complaint):
    done = run("qwen2_vl_2b", *argv)
    assert done.exit_code == 2
    assert complaint in done.output

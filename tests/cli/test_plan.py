"""`triptych plan`, as a reader sees it in a pipe."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from triptych.cli.plan import plan_command
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.files import shipped_recipes


def run(*argv):
    return CliRunner().invoke(plan_command, argv, catch_exceptions=False)


@pytest.mark.parametrize(
    ("name", "argv"),
    [
        ("7b", ["qwen2_vl_7b"]),
        ("three_sizes", ["qwen2_vl_2b", "qwen2_vl_72b"]),
        ("gpus", ["deepseek_vl_7b", "--gpus", "8", "--memory", "80GiB"]),
        (
            "clip",
            [
                *("qwen2_vl_tiny", "--video", "320x240,2s", "--text", "64tok"),
                *("--answer", "16tok", "--rows", "3", "--gpus", "1", "--memory", "16MiB"),
            ],
        ),
        (
            "rates",
            [
                "qwen2_vl_2b",
                "--set",
                "sft.train=[lora(lm.blocks.attn, rank: 16), lr(vit.blocks[24..31], 0.1)]",
                "--set",
                "sft.freeze=[lm, vit.patch_embed, vit.blocks[0..23], merger]",
            ],
        ),
        (
            "as_published",
            [
                "qwen2_vl_2b",
                *("--set", "joint.train=[decay(vit, 0.95), merger, lm]"),
                *("--set", "joint.drop_path=drop_path(vit, 0.2)"),
                *(
                    "--set",
                    "joint.augment=[random_crop(scale: [0.5, 1.0]), jpeg(quality: 75..100)]",
                ),
                *(
                    "--set",
                    "joint.schedule=step(at: [0.8, 0.9], factors: [0.3, 0.1], warmup: 9steps)",
                ),
                *("--set", "joint.data=mix(text: 0.7, ocr: ramp(0, 0.3, over: 2ksteps))"),
                *("--set", "joint.apart=text"),
                *("--set", "joint.layout=by(text: chatml, ocr: [caption, chatml])"),
                *("--set", "joint.group_by_length=8steps"),
                *(
                    "--set",
                    "sft.schedule=cosine(warmup_ratio: 0.03, warmup_from: 1e-6, over: stage)",
                ),
                *(
                    "--set",
                    "sft.optim=adamw(lr: 1e-5, weight_decay: 0.1, decay: all, no_decay: lm.norm)",
                ),
            ],
        ),
    ],
)
def test_plans(golden, name, argv):
    done = run(*argv)
    assert done.exit_code == 0
    golden.check(f"cli/plan_{name}.txt", done.output)


def test_one_line_a_stage_of_each_recipe():
    done = run("--all")
    assert {line.split()[0] for line in done.output.splitlines()[1:]} == set(shipped_recipes())
    rows = [line.split(maxsplit=4) for line in done.output.splitlines()]
    assert ["qwen2_vl_72b", "joint", "73,405,560,320", "0", "vit, merger, lm"] in rows


def test_plans_as_data():
    assert json.loads(run("qwen2_vl_7b", "--json").output)["total"] == 8_291_375_616
    assert len(json.loads(run("--all", "--json").output)) == len(shipped_recipes())


def test_a_stage_that_is_no_partition_is_refused():
    with pytest.raises(RecipeError, match="F601"):
        run("qwen2_vl_7b", "--set", "sft.freeze=[vit]")


def test_asks_for_a_recipe():
    done = run()
    assert done.exit_code == 2
    assert "Name a recipe, or say --all." in done.output


def test_all_figures_are_data():
    (stage, *_) = json.loads(run("minigpt4_tiny", "--json").output)["costs"]["stages"]
    assert stage["flops_a_sample"]["vit"] == {"forward": 2_399_520}
    held = stage["held"]
    assert held["total"] == sum(held[one] for one in ("weights", "masters", "moments", "sums"))
    assert stage["step"]["peak"] >= sum(stage["step"]["at_peak"].values()) > 0
    assert stage["placement"] is None


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--gpus", "8"], "Say both --gpus and --memory"),
        (["--gpus", "8", "--memory", "80"], "'80' is not understood; write 80GiB"),
        (["--text", "64"], "'64' is not understood; write 256tok"),
        (["--text", "9ktok"], "stage pretrain has room for 512 tokens"),
    ],
)
def test_what_cannot_be_planned_is_said(argv, said):
    done = CliRunner().invoke(plan_command, ["minigpt4_tiny", *argv])
    assert done.exit_code
    assert said in done.output

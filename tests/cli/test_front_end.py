"""The commands that need no torch: check, fmt, list, new."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
from click.testing import CliRunner
from safetensors.numpy import save_file

from triptych.cli.main import cli
from triptych.compiler.build import build
from triptych.compiler.weights import names
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe

GOOD = "recipe a extends qwen2_vl_2b {\n}\n"
BAD = "recipe b extends qwen2_vl_2b {\n  amend lm { widht = 3 }\n}\n"


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """An empty working directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def triptych(*arguments):
    return CliRunner().invoke(cli, arguments, catch_exceptions=False)


def test_check_says_what_it_found_and_leaves_with_0():
    done = triptych("check", "qwen2_vl_7b")
    assert done.exit_code == 0
    assert done.stdout == ("qwen2_vl_7b: all proofs hold (3 stages, 1 mode, 12 values assumed)\n")
    assert not done.stderr


def test_check_of_a_wrong_recipe_leaves_with_1(folder):
    (folder / "two.vlm").write_text(GOOD + BAD)
    done = triptych("check", "two.vlm")
    assert done.exit_code == 1
    assert done.stdout.startswith("two.vlm:a: all proofs hold")
    assert "error[N209]: `lm : Decoder` has no setting `widht` to amend" in done.stderr
    assert "two.vlm:b" not in done.stdout


def test_check_goes_on_after_a_recipe_that_is_not_there():
    done = triptych("check", "nowhere.vlm", "qwen2_vl_2b")
    assert done.exit_code == 1
    assert "nowhere.vlm cannot be read" in done.stderr
    assert "qwen2_vl_2b: all proofs hold" in done.stdout


def test_check_takes_amendments():
    done = triptych("check", "qwen2_vl_2b", "--set", "lm.depth=2", "--set", "lm.act = silo")
    assert done.exit_code == 1
    assert "--set:2:10" in done.stderr


def test_check_all_checks_every_shipped_recipe():
    done = triptych("check", "--all")
    assert done.exit_code == 0
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == list(shipped_recipes())
    assert not done.stderr


def test_check_says_once_what_a_base_has_wrong(folder):
    (folder / "two.vlm").write_text(BAD + "recipe c extends b {\n}\n")
    done = triptych("check", "two.vlm")
    assert done.exit_code == 1
    assert done.stderr.count("error[N209]") == 1


def test_check_holds_a_checkpoint_against_the_map(folder):
    recipe = load_recipe("scenes")
    shapes = {name: param.shape for name, param in build(recipe).parameters().items()}
    tensors = {tensor.name: np.zeros(tensor.shape) for tensor in names(recipe).holding(shapes)}
    save_file(tensors, "whole.safetensors")
    assert triptych("check", "scenes", "--weights", "whole.safetensors").exit_code == 0
    del tensors["lm.norm.weight"]
    save_file(tensors, "less.safetensors")
    done = triptych("check", "scenes", "--weights", "less.safetensors")
    assert done.exit_code == 1
    assert "error[W808]: 1 tensor is missing: lm.norm.weight" in done.stderr


def test_check_needs_a_recipe():
    done = CliRunner().invoke(cli, ["check"])
    assert done.exit_code == 2


def test_check_needs_no_torch():
    script = (
        "import sys; from triptych.cli.main import cli;"
        "cli.main(['check', 'qwen2_vl_2b'], standalone_mode=False);"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], capture_output=True).returncode == 0


def test_fmt_rewrites_shows_and_checks(folder):
    path = folder / "a.vlm"
    path.write_text("recipe a extends qwen2_vl_2b{amend lm{depth=2 # few\n}}")
    done = triptych("fmt", "--check", "a.vlm")
    assert (done.exit_code, done.stdout) == (1, "a.vlm: would be formatted\n")
    done = triptych("fmt", "--diff", "a.vlm")
    assert done.exit_code == 1
    assert "+    depth = 2  # few\n" in done.stdout
    assert path.read_text().count("\n") == 1  # nothing was written
    done = triptych("fmt", "a.vlm")
    assert (done.exit_code, done.stdout) == (0, "a.vlm: formatted\n")
    assert path.read_text() == (
        "recipe a extends qwen2_vl_2b {\n  amend lm {\n    depth = 2  # few\n  }\n}\n"
    )
    done = triptych("fmt", "--check", "--diff", "a.vlm")
    assert (done.exit_code, done.stdout) == (0, "")
    assert [found.name for found in folder.iterdir()] == ["a.vlm"]


def test_fmt_reads_standard_input_where_it_is_asked_to():
    def fmt(text, *options):
        return CliRunner().invoke(cli, ["fmt", *options, "-"], input=text)

    done = fmt("recipe a{lm{depth=2 # few\n}}")
    assert (done.exit_code, done.stderr) == (0, "")
    assert done.stdout == "recipe a {\n  lm {\n    depth = 2  # few\n  }\n}\n"
    again = fmt(done.stdout)
    assert (again.exit_code, again.stdout) == (0, done.stdout)
    assert fmt(done.stdout, "--diff").exit_code == 0
    shown = fmt("recipe a{}", "--diff")
    assert (shown.exit_code, shown.stdout[:7]) == (1, "--- -\n+")
    wrong = fmt(b"\xff").exception
    assert isinstance(wrong, RecipeError)
    assert wrong.diagnostics[0].code == "E107"


def test_fmt_goes_on_after_a_file_that_does_not_follow_the_grammar(folder):
    (folder / "a.vlm").write_text("recipe a {")
    (folder / "b.vlm").write_text("recipe b{}")
    done = CliRunner().invoke(cli, ["fmt", "a.vlm", "b.vlm"])
    assert done.stdout == "b.vlm: formatted\n"
    assert isinstance(done.exception, RecipeError)
    assert [found.code for found in done.exception.diagnostics] == ["E103"]
    assert (folder / "b.vlm").read_text() == "recipe b {}\n"


def test_fmt_keeps_a_file_that_does_not_follow_the_grammar(folder):
    path = folder / "a.vlm"
    path.write_text("recipe a {")
    done = subprocess.run(
        [sys.executable, "-m", "triptych", "fmt", "a.vlm"], capture_output=True, text=True
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error[E103]")
    assert path.read_text() == "recipe a {"


def test_fmt_says_when_it_cannot_write(folder):
    (folder / "shut").mkdir()
    done = subprocess.run(
        [sys.executable, "-m", "triptych", "new", "a", "shut/b/c.vlm"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error[E109]: shut/b/c.vlm cannot be written")


def test_list_names_every_recipe_with_its_size():
    done = triptych("list")
    assert done.exit_code == 0
    rows = {line.split()[0]: line for line in done.stdout.splitlines()}
    assert list(rows) == list(shipped_recipes())
    assert "73,405,560,320" in rows["qwen2_vl_72b"]
    assert "Qwen2-VL 7B, of which the 2B and the 72B are variants." in rows["qwen2_vl_7b"]


def test_new_writes_a_recipe_that_checks(folder):
    done = triptych("new", "mine")
    assert done.exit_code == 0
    assert load_recipe("mine.vlm").name == "mine"
    assert triptych("check", "mine.vlm").exit_code == 0
    assert triptych("fmt", "--check", "mine.vlm").exit_code == 0


def test_new_overwrites_nothing(folder):
    (folder / "mine.vlm").write_text("precious")
    done = CliRunner().invoke(cli, ["new", "mine"])
    assert done.exit_code == 1
    assert (folder / "mine.vlm").read_text() == "precious"


def test_new_refuses_names_that_no_recipe_can_have(folder):
    done = CliRunner().invoke(cli, ["new", "2-b"])
    assert done.exit_code == 2
    assert not list(folder.iterdir())

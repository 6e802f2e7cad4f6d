"""`triptych check --fix`: what can be mended is shown, then written, in the file it belongs to."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from triptych.cli.main import cli
from triptych.dsl.diagnostics import Diagnostic, Edit, Fix, Label
from triptych.dsl.files import shipped_recipes
from triptych.dsl.fixing import mended
from triptych.dsl.source import Source

BASE = """\
recipe base extends qwen2_vl_2b {
  amend lm { widht = 1536  context = 32768 }
}
"""
VARIANT = """\
# mine
recipe mine extends "base.vlm" {
  amend encoder vit { act = quik_gelu }  # a slip
  layout plain {
    user(b) -> b
    image(x) -> vision_start image_pad * x.tokns vision_end
    assistant(b) -> loss(b im_nd)
  }
}
"""
MENDED = (
    VARIANT.replace("quik_gelu", "quick_gelu")
    .replace("  layout plain", "  add layout plain")
    .replace("x.tokns", "x.tokens")
    .replace("im_nd", "im_end")
)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """A working directory with a recipe and its base, both wrong."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "base.vlm").write_text(BASE)
    (tmp_path / "mine.vlm").write_text(VARIANT)
    return tmp_path


def check(*arguments):
    return CliRunner().invoke(cli, ["check", *arguments], catch_exceptions=False)


def test_the_diff_is_shown_and_nothing_written(folder, golden):
    done = check("mine.vlm", "--diff")
    assert done.exit_code == 1
    golden.check("cli/fix_diff.txt", done.stdout)
    assert (folder / "mine.vlm").read_text() == VARIANT
    assert "error[V304]" in done.stderr


def test_fixes_go_into_the_file_that_they_are_for(folder):
    done = check("mine.vlm", "--fix")
    assert (folder / "mine.vlm").read_text() == MENDED
    assert (folder / "base.vlm").read_text() == BASE.replace("widht", "width").replace(
        "32768", "32768tok"
    )
    assert done.exit_code == 0  # as for `check` afterwards
    assert "mine.vlm: all proofs hold" in done.stdout
    assert "--- base.vlm\n+++ base.vlm\n" in done.stdout
    again = check("mine.vlm", "--fix")
    assert "---" not in again.stdout


def test_what_can_be_fixed_is_said(folder):
    assert "can be fixed: 4 with `--fix`" in check("mine.vlm").stderr


UNSAFE = """\
recipe mine extends qwen2_vl_2b {
  language = 3
  amend lm { contxt = 32768tok }
}
"""


def test_unsafe_fixes_are_made_when_asked_for(folder):
    path = folder / "unsafe.vlm"
    path.write_text(UNSAFE)
    assert check("unsafe.vlm", "--fix").exit_code == 1
    assert path.read_text() == UNSAFE.replace("contxt", "context")
    assert check("unsafe.vlm", "--unsafe-fixes").exit_code == 0
    assert path.read_text() == UNSAFE.replace("contxt", "context").replace("e = 3", "e = 1")


def test_line_ends_stay(folder):
    (folder / "base.vlm").write_bytes(BASE.replace("\n", "\r\n").encode())
    check("base.vlm", "--fix")
    text = (folder / "base.vlm").read_bytes().decode()
    assert "width" in text
    assert text.count("\r\n") == text.count("\n") == 3


def test_a_shipped_recipe_stays_as_it_is(monkeypatch):
    from triptych.cli import fixing

    def look(texts):
        source = Source("recipes/qwen2_vl_2b.vlm", path.read_text(encoding="utf-8"))
        fix = Fix("so", (Edit(source.span(0, 0), "# mine\n"),))
        return [Diagnostic("E101", "t", (Label(source.span(0, 1)),), fix=fix)]

    path = Path(str(shipped_recipes()["qwen2_vl_2b"]))
    before = path.read_text(encoding="utf-8")
    mending = fixing.mend(look, unsafe=True)
    assert list(mending.kept) == ["recipes/qwen2_vl_2b.vlm"]
    assert list(mending.diff()) == []
    mending.write()
    assert path.read_text(encoding="utf-8") == before


def test_the_command_line_is_no_file(folder):
    done = check("qwen2_vl_2b", "--set", "lm.contxt=32768tok", "--fix")
    assert done.exit_code == 1
    assert "---" not in done.stdout


# Edits -------------------------------------------------------------------------------------------

SOURCE = Source("a.vlm", "recipe a { language = 1 }")


def finding(*edits, safe=True):
    made = tuple(Edit(SOURCE.span(start, end), text) for start, end, text in edits)
    return Diagnostic("E101", "t", (Label(SOURCE.span(0, 1)),), fix=Fix("so", made, safe))


def test_fixes_that_overlap_are_made_one_at_a_time():
    first, second = finding((7, 8, "one")), finding((0, 8, "recipe two"))
    assert mended([first, second]) == {SOURCE: "recipe one { language = 1 }"}


def test_a_fix_is_made_whole_or_not_at_all():
    first, second = finding((7, 8, "one")), finding((7, 8, "two"), (22, 23, "9"))
    assert mended([first, second]) == {SOURCE: "recipe one { language = 1 }"}


def test_two_fixes_at_one_place_are_not_run_together():
    assert mended([finding((7, 7, "x")), finding((7, 7, "y"))]) == {
        SOURCE: "recipe xa { language = 1 }"
    }


def test_the_same_fix_twice_is_made_once():
    assert mended([finding((7, 8, "one")), finding((7, 8, "one"))]) == {
        SOURCE: "recipe one { language = 1 }"
    }


def test_unsafe_fixes_wait_to_be_asked_for():
    unsafe = finding((7, 8, "one"), safe=False)
    assert mended([unsafe]) == {}
    assert mended([unsafe], unsafe=True) == {SOURCE: "recipe one { language = 1 }"}


def test_a_fix_that_would_break_the_text_is_not_made():
    assert mended([finding((9, 10, ""))]) == {}


# Formats -----------------------------------------------------------------------------------------


def test_json_is_all_that_stands_on_standard_output(folder):
    done = check("mine.vlm", "qwen2_vl_2b", "--format", "json")
    assert done.exit_code == 1
    data = json.loads(done.stdout)
    assert [recipe["holds"] for recipe in data["recipes"]] == [False, True]
    assert {found["code"] for found in data["diagnostics"]} >= {"V304", "N211", "N209", "V302"}
    assert done.stderr == ""


def test_sarif_is_all_that_stands_on_standard_output(folder):
    done = check("mine.vlm", "--format", "sarif", "--fix")
    log = json.loads(done.stdout)
    assert log["version"] == "2.1.0"
    assert "--- base.vlm" in done.stderr  # the change is shown all the same


def test_colours_are_for_terminals(folder, monkeypatch):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "\x1b[1;31merror[V304]" in check("mine.vlm").stderr
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[" not in check("mine.vlm").output
    monkeypatch.delenv("NO_COLOR")
    monkeypatch.delenv("FORCE_COLOR")
    assert "\x1b[" not in check("mine.vlm").output
    monkeypatch.setenv("NO_COLOR", "1")
    forced = CliRunner().invoke(cli, ["--color", "always", "check", "mine.vlm", "--diff"])
    assert "\x1b[1;31merror[V304]" in forced.stderr
    assert "\x1b[32m+" in forced.stdout

"""`triptych explain` shows the pages of codes, and writes them."""

from __future__ import annotations

import json

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner

from triptych.cli.explain import explain_command
from triptych.cli.main import cli
from triptych.dsl.codes import CODES


def explain(*arguments):
    return CliRunner().invoke(cli, ["explain", *map(str, arguments)])


def test_a_code_is_told_with_the_message_of_its_example(golden):
    done = explain("s402")
    assert done.exit_code == 0
    golden.check("cli/explain.txt", done.output)


def test_several_codes_stand_one_after_another():
    assert explain("S402", "S401").output == "\n".join(
        (explain("S402").output, explain("S401").output)
    )


def test_without_a_code_all_are_listed():
    shown = explain().output
    assert all(f"{code}  {title}" in shown for code, title in CODES.items())
    assert "S: shapes" in shown.splitlines()


@pytest.mark.parametrize(
    ("wrong", "hint"), [("T54", "Did you mean T504?"), ("bananas", "`triptych explain` lists all.")]
)
def test_an_unknown_code_is_refused(wrong, hint):
    done = explain(wrong)
    assert done.exit_code == 2
    assert hint in done.output


def test_as_data():
    (about,) = json.loads(explain("S402", "--json").output)
    assert about["title"] == CODES["S402"]
    assert about["message"].startswith("error[S402]")
    assert set(about) == {"code", "title", "what", "why", "example", "message", "fix", "mended"}


def test_a_shell_completes_codes():
    def complete(begun):
        found = ShellComplete(explain_command, {}, "triptych", "_X").get_completions([], begun)
        return [item.value for item in found]

    assert complete("s40") == [code for code in CODES if code.startswith("S40")]
    assert complete("") == list(CODES)
    assert complete("Q") == []


def test_pages_are_written_and_what_is_old_is_told(tmp_path):
    folder = tmp_path / "errors"
    assert explain("--write", folder, "--check").exit_code == 1
    assert not folder.exists()
    assert explain("--write", folder).exit_code == 0
    assert explain("--write", folder, "--check").exit_code == 0
    assert (folder / "S402.md").read_text(encoding="utf-8") == explain("S402").output
    (folder / "S402.md").write_text("old", encoding="utf-8")
    done = explain("--write", folder, "--check")
    assert (done.exit_code, done.output.count("is old")) == (1, 1)


def test_check_alone_means_nothing():
    assert explain("--check").exit_code == 2

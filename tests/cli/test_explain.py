"""`triptych explain` shows the pages of codes, and writes them."""

from __future__ import annotations

import io
import json
import re

import pytest
from click.shell_completion import ShellComplete
from click.testing import CliRunner
from rich.console import Console

from triptych.cli.error_pages import printed
from triptych.cli.explain import draw, explain_command
from triptych.cli.main import cli
from triptych.dsl.codes import CODES
from triptych.dsl.explain import explanation


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


def test_on_a_terminal_prose_is_wrapped_and_messages_are_not():
    drawn = io.StringIO()
    about = explanation("T504")
    draw(about, Console(file=drawn, force_terminal=True, color_system="standard", width=50))
    assert "\x1b[1;31merror[T504]" in drawn.getvalue()
    bare = re.sub(r"\x1b(\[[\d;]*m|\]8;.*?\x1b\\)", "", drawn.getvalue())  # colours and links
    lines = [line.rstrip() for line in bare.splitlines()]
    for line in (*printed(about).splitlines(), *about.example.text.splitlines()):
        assert f"  {line}".rstrip() in lines
    assert len(max(lines[: lines.index("Example")], key=len)) <= 50


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

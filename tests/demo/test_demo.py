"""The demo's way from pictures to its page, with a few pictures and steps."""

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from triptych.cli import demo
from triptych.cli.demo import FLOORS, Folders, demo_command, verdict
from triptych.cli.demo_page import Answered, Trained
from triptych.cli.main import cli
from triptych.cli.scenes import HELD_OUT, UNSEEN


@pytest.fixture
def calls(monkeypatch):
    """Commands run in this process, and are recorded; instead of an artefact, the run answers.

    Compiling takes minutes, and tests/backends does it.
    """
    made = []

    def triptych(*arguments, show=True):
        made.append(arguments)
        if arguments[0] == "compile":
            return ""
        if arguments[0] == "run" and arguments[1].endswith("artefact"):
            run = Path(arguments[1]).parent / "runs" / "scenes"
            arguments = ("run", "scenes", "--weights", str(run), *arguments[2:])
        result = CliRunner().invoke(cli, arguments, catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.stdout.strip()

    monkeypatch.setattr(demo, "_triptych", triptych)
    return made


def test_goes_the_whole_way_and_fails_below_the_floors(calls, tmp_path):
    sizes = ["--scenes", "24", "--tests", "20", "--steps", "1", "--workers", "1"]
    result = CliRunner().invoke(demo_command, ["--out", str(tmp_path), *sizes])
    assert result.exit_code == 1
    assert "0.0% of 20 scenes of new combinations (at least 95%" in result.output
    assert "0.0% of 20 scenes by an unseen hand (at least 80%" in result.output
    assert "not as good as it should be" in result.output
    stages = 4
    asked = 2 * len(FLOORS) + (stages - 1) + demo.ASKED * len(FLOORS)
    assert [call[0] for call in calls] == ["scenes", "train", "train", "compile", *["run"] * asked]
    page = (tmp_path / "index.html").read_text()
    assert not re.search(r'(src|href)="(?!data:)', page), "the page needs no other file"
    for name in ("held_out", "unseen_hand"):
        first = json.loads((tmp_path / "data" / f"{name}.json").read_text())[0]
        assert first["conversations"][-1]["value"] in page
    for stage in ("speak", "look", "connect", "tell"):
        assert f"<td>{stage}</td>" in page


@pytest.mark.parametrize(("made", "resumed"), [([], False), (["checkpoints"], True)])
def test_goes_on_with_a_run_that_was_cut_off(calls, monkeypatch, tmp_path, made, resumed):
    monkeypatch.setattr(demo, "_triptych", lambda *arguments: calls.append(arguments))
    run = Folders(tmp_path).run("scenes")
    for name in made:
        (run / name).mkdir(parents=True)
    demo.train(Folders(tmp_path), "scenes", None, 2)
    assert ("--resume" in calls[-1]) == resumed
    assert run.exists() == bool(made)


def test_trains_anew_what_is_finished(calls, monkeypatch, tmp_path):
    monkeypatch.setattr(demo, "_triptych", lambda *arguments: calls.append(arguments))
    run = Folders(tmp_path).run("scenes")
    run.mkdir(parents=True)
    (run / "weights.safetensors").touch()
    demo.train(Folders(tmp_path), "scenes", None, 2)
    assert "--resume" not in calls[-1] and not run.exists()


@pytest.mark.parametrize(
    ("held_out", "unseen", "good"), [(95, 80, True), (94, 99, False), (99, 79, False)]
)
def test_both_shares_must_reach_their_floors(held_out, unseen, good):
    def trained(**right):
        return Trained(
            "scenes",
            [],
            {
                kind: [Answered(Path(), "a", "a" if i < count else "b") for i in range(100)]
                for kind, count in ((HELD_OUT, right["held_out"]), (UNSEEN, right["unseen"]))
            },
            {},
        )

    assert verdict(trained(held_out=held_out, unseen=unseen), trained(held_out=0, unseen=0)) == good


def test_an_answer_is_right_word_for_word():
    assert Answered(Path(), "a frog above a key.", "a frog above a key.").right
    assert not Answered(Path(), "a frog above a key.", "a key above a frog.").right

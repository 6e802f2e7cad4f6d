"""`run` and `compile` as a person meets them."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from triptych.backends.base import MissingError
from triptych.backends.manifest import ArtefactError
from triptych.cli.compile import compile_command
from triptych.cli.run import run_command

from .conftest import TINY, asked, picture

QUICK = ["--random-weights", "0", "--max-new", "4"]


@pytest.fixture
def image(tmp_path):
    picture(90, 60).save(tmp_path / "a.png")
    return str(tmp_path / "a.png")


def ask(*arguments, **options):
    return CliRunner().invoke(run_command, list(map(str, arguments)), **options)


def test_the_answer_is_printed_as_it_grows_or_as_json(image):
    arguments = [TINY, *QUICK, "--image", image, "--prompt", "what?"]
    plain, data = ask(*arguments), ask(*arguments, "--json")
    answer = json.loads(data.output)
    assert plain.output == answer["text"] + "\n"
    assert len(answer["tokens"]) == 4
    assert answer["ended"] == "length"


def test_the_question_may_come_from_a_pipe(image):
    piped = ask(TINY, *QUICK, "--image", image, "--prompt", "-", input="what?\n")
    assert piped.output == ask(TINY, *QUICK, "--image", image, "--prompt", "what?").output


def test_a_system_message_changes_the_prompt():
    short, long = (
        json.loads(ask(TINY, *QUICK, "--prompt", "what?", "--json", *more).output)["prompt"]
        for more in ([], ["--system", "You are a helpful assistant with a very long name."])
    )
    assert long > short


def test_a_batch_answers_each_record_and_names_the_bad(tmp_path, image):
    records = [
        {"messages": [{"role": "user", "content": "hello"}]},
        {"messages": "none"},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image", "image": image}]},
                {"role": "assistant", "content": "the answer that training saw"},
            ]
        },
    ]
    file = tmp_path / "questions.jsonl"
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    done = ask(TINY, *QUICK, "--batch", file)
    assert done.exit_code == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert [line["record"] for line in lines] == [0, 1, 2]
    assert "not a list of turns" in lines[1]["error"]
    assert lines[2]["prompt"] < 40, "the answer is not part of the question"
    assert "1 of 3 records could not be asked" in done.stderr


def test_beams_take_the_place_of_drawing_and_drawing_that_of_beams(image):
    def tokens(*more):
        arguments = [*QUICK, "--image", image, "--prompt", "what?", "--json", *more]
        return json.loads(ask(TINY, *arguments).output)["tokens"]

    searched, drawn = tokens("--beams", 3), tokens("--temperature", 1)
    draws = ("--set", "chat.sampling = sample(top_p: 0.9)")
    assert tokens(*draws, "--beams", 3) == searched
    searches = ("--set", "chat.sampling = beams(3)")
    assert tokens(*searches) == searched
    assert tokens(*searches, "--beams", 1) == tokens()
    assert tokens(*searches, "--temperature", 1) == drawn
    assert drawn not in (searched, tokens())


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([TINY, "--prompt", "x"], "tiny needs weights: --weights PATH (Qwen/Qwen2-VL-2B-Instruct)"),
        ([TINY, *QUICK], "ask with --prompt"),
        ([TINY, *QUICK, "--prompt", "x", "--top-p", "0.5"], "give a --temperature above 0"),
        ([TINY, *QUICK, "--prompt", "x", "--beams", 2, "--temperature", 1], "give one of them"),
        ([TINY, *QUICK, "--prompt", "x", "--max-new", 2, "--min-new", 3], "takes at most: 2"),
        ([TINY, *QUICK, "--prompt", "x", "--length-penalty", 2], "give --beams"),
        (
            [TINY, *QUICK, "--prompt", "x", "--mode", "talk"],
            "tiny has no mode talk; its modes: chat",
        ),
        ([TINY, *QUICK, "--prompt", "x", "--weights", "w"], "not both"),
    ],
)
def test_a_command_line_that_cannot_be_is_said(arguments, said):
    done = ask(*arguments)
    assert done.exit_code == 2
    assert said in done.output


def test_an_artefact_takes_no_options_of_the_compiler(tmp_path):
    (tmp_path / "manifest.json").write_text("{}")
    done = ask(tmp_path, "--prompt", "x", "--dtype", "f32", "--set", "lm.depth=2")
    assert "--dtype, --set: decided when the artefact was compiled" in done.output
    assert isinstance(ask(tmp_path, "--prompt", "x").exception, ArtefactError)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--backend", "aot"], "give it a folder with --out"),
        (["--backend", "eager"], "eager compiles nothing"),
        (["--backend", "inductor", "--out", "x"], "leave out --out"),
        (["--backend", "aot", "--report-only"], "is for --backend tensorrt"),
    ],
)
def test_compile_says_what_it_needs(arguments, said):
    done = CliRunner().invoke(compile_command, [TINY, *arguments])
    assert done.exit_code == 2
    assert said in done.output


def test_a_backend_that_cannot_work_here_is_exit_2(tmp_path, monkeypatch):
    monkeypatch.setattr("triptych.backends.tensorrt.lacking", lambda: ["an NVIDIA GPU"])
    done = CliRunner().invoke(
        compile_command, [TINY, "--backend", "tensorrt", "--out", str(tmp_path / "o")]
    )
    assert isinstance(done.exception, MissingError)
    assert done.exception.exit_code == 2
    assert "an NVIDIA GPU" in str(done.exception)


def test_python_and_the_command_say_the_same(session, image):
    """The fixture's weights are its own; the prompt is counted alike."""
    (answer,) = session.batch([asked(picture(90, 60), "what?")], new=1)
    said = json.loads(ask(TINY, *QUICK, "--image", image, "--prompt", "what?", "--json").output)
    assert said["prompt"] == answer.prompt

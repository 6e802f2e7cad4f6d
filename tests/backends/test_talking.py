"""`run --interactive` as a person meets it: in a process of its own, through its streams."""

from __future__ import annotations

import os
import pty
import select
import signal
import subprocess
import sys
import time

import pytest

from triptych.backends.conversation import Conversation
from triptych.backends.eager import Eager
from triptych.backends.embedding import session_of
from triptych.backends.job import job
from triptych.dsl.load import load_recipe

from .conftest import TINY, asked, picture

COMMAND = [
    *(sys.executable, "-m", "triptych", "run", TINY, "--random-weights", "0", "--interactive")
]
LONG = 4000
"""Tokens of an answer that takes its time."""
ROOM = ("--set", f"chat.new={LONG}tok", "--set", f"lm.context={448 + LONG}tok")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where pictures lie, one with a space in its name."""
    folder = tmp_path_factory.mktemp("talk")
    picture(90, 60).save(folder / "a b.png")
    (folder / "text.png").write_text("no picture")
    return folder


@pytest.fixture(scope="module")
def drawn():
    """A session of the weights that the command draws."""
    made = job(load_recipe(TINY), "chat", weights=0)
    return session_of(Eager().compile(made), made.resources, made.spec)


def typed(folder, *lines, options=("--max-new", "5")):
    """The process that was given these lines, after it left."""
    return subprocess.run(
        [*COMMAND, *options],
        input="".join(f"{line}\n" for line in lines),
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def test_lines_from_a_pipe_are_a_conversation(folder, drawn):
    done = typed(folder, "hello", '/image "a b.png"', "what is it?", "", "/reset", "hello")
    assert (done.returncode, done.stderr) == (0, "")
    talk = Conversation(drawn)
    said = [
        talk.chat(*asked("hello"), new=5).text,
        talk.chat(*asked(picture(90, 60), "what is it?"), new=5).text,
    ]
    talk.reset()
    said.append(talk.chat(*asked("hello"), new=5).text)
    assert done.stdout == "".join(f"{text}\n" for text in said)
    assert said[0] == said[2]


def test_what_cannot_be_asked_is_told_and_the_talk_goes_on(folder):
    done = typed(
        folder,
        *("/image none.png", "/image", "/picture a.png", "/image text.png", "what?"),
        *("word " * 460, "/help", "hello", "/quit", "never asked"),
    )
    assert done.returncode == 0
    assert "there is no file none.png" in done.stderr
    assert "write /image PATH" in done.stderr
    assert "there is no /picture" in done.stderr
    assert "text.png cannot be read as a picture" in done.stderr
    assert "too long" in done.stderr
    assert done.stdout == typed(folder, "hello").stdout


def test_the_first_question_may_stand_on_the_command_line(folder):
    ours = typed(folder, "/quit", options=("--max-new", "5", "--image", "a b.png", "--prompt", "?"))
    assert ours.stdout == typed(folder, '/image "a b.png"', "?").stdout


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--json"], "--interactive goes without"),
        (["--prompt", "-"], "--interactive goes without"),
    ],
)
def test_what_does_not_go_together_is_refused(folder, options, said):
    done = typed(folder, options=options)
    assert done.returncode == 2
    assert said in done.stderr


def test_ctrl_c_stops_an_answer_and_ctrl_d_leaves(folder, drawn):
    """In a terminal: the answer is broken off, the next question is answered."""
    ours, theirs = pty.openpty()
    talk = subprocess.Popen(
        [*COMMAND, *ROOM],
        cwd=folder,
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        close_fds=True,
        # Who runs the tests may have their processes pass over it; a terminal does not.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    os.close(theirs)
    seen = ""

    def until(enough, seconds=90):
        nonlocal seen
        end = time.monotonic() + seconds
        while not enough(seen):
            assert time.monotonic() < end, seen
            if select.select([ours], [], [], 0.2)[0]:
                seen += os.read(ours, 4096).decode(errors="replace")

    until(lambda text: text.endswith("> "))
    os.write(ours, b"hello\n")
    length = len(seen) + len("hello\r\n")
    until(lambda text: len(text) > length + 5)
    talk.send_signal(signal.SIGINT)
    until(lambda text: text.endswith("\n> "))
    (tenth,) = drawn.batch([asked("hello")], new=LONG // 10)
    assert len(seen) - length < 5 * len(tenth.text)
    os.write(ours, b"again\n")
    length = len(seen) + len("again\r\n")
    until(lambda text: len(text) > length + 5)
    talk.send_signal(signal.SIGINT)
    until(lambda text: text.endswith("\n> "))
    os.write(ours, b"\x04")
    assert talk.wait(timeout=30) == 0
    os.close(ours)

"""A part that reads what is asked sees the picture again in each round of a dialogue."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from triptych.backends.eager import Eager
from triptych.backends.generation import Session
from triptych.backends.sight import Sight
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Turn
from triptych.dsl.load import load_recipe

from .conftest import asked, made, picture

FIRST = asked(picture(40, 30), "what is this?")


@pytest.fixture(scope="module")
def reading():
    job = made(load_recipe("internvl_chat_qllama_tiny"))
    return Session(Eager().compile(job), Processor(job.spec), job.spec)


@pytest.fixture(scope="module")
def rounds(reading):
    """The first answer, and the dialogue that goes on behind it."""
    (answer,) = reading.batch([FIRST], new=6)
    return answer, [*FIRST, Turn("assistant", (answer.text,)), *asked("what colour is it?")]


def sight(session):
    return Sight(session.executable, session.processor, session.spec)


def test_each_round_has_queries_of_its_own(reading, rounds):
    one, two = (reading.processor.prompt(turns) for turns in (FIRST, rounds[1]))
    (seen,) = two.media
    assert [len(seen.starts[part]) for part in ("patch_mlp", "query_mlp")] == [1, 2]
    features = [sight(reading).features(sample.media) for sample in (one, two)]
    assert [len(rows) for rows in features] == [16 + 8, 16 + 8 + 8]
    torch.testing.assert_close(features[1][:24], features[0])
    assert not torch.allclose(features[1][24:], features[1][16:24], atol=1e-2)


def test_the_first_answer_is_that_of_a_prompt_of_one_round(reading, rounds):
    """What is asked later changes nothing before it."""
    one, two = (reading.processor.prompt(turns) for turns in (FIRST, rounds[1]))
    assert two.ids[: one.length].tolist() == one.ids.tolist()
    (seen,) = two.media
    starts = {part: places[:1] for part, places in seen.starts.items()}
    cut = replace(
        two,
        ids=two.ids[: one.length],
        supervised=two.supervised[: one.length],
        media=(replace(seen, starts=starts),),
    )
    assert reading.answers([cut], [0], new=6) == [rounds[0]]


def test_rounds_of_a_batch_are_those_of_each_dialogue_alone(reading, rounds):
    third = [*rounds[1], Turn("assistant", ("red",)), *asked(picture(20, 50, 1), "and this?")]
    dialogues = [
        rounds[1],
        FIRST,
        asked("hello"),
        [*third, Turn("assistant", ("no",)), *asked("?")],
    ]
    together = reading.batch(dialogues, new=6)
    assert together == [reading.batch([turns], new=6)[0] for turns in dialogues]
    assert together[1] == rounds[0]

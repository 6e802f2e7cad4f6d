"""A session answers the same however the work is cut up: batches, padding, caches, pieces."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from triptych.backends.base import InputError, Limit
from triptych.backends.eager import EagerExecutable
from triptych.backends.generation import Session
from triptych.backends.sampling import Sampling
from triptych.blocks.input.ending import Ending
from triptych.blocks.input.sample import Turn

from .conftest import DIALOGUES, asked, clip, picture

DRAWN = Sampling(temperature=1.0, top_p=0.95, top_k=200, repetition_penalty=1.1)


def test_a_batch_answers_as_each_dialogue_alone(session):
    together = session.batch(DIALOGUES, new=12)
    alone = [session.batch([turns], new=12)[0] for turns in DIALOGUES]
    assert [a.tokens for a in together] == [a.tokens for a in alone]
    assert len({answer.prompt for answer in together}) > 1, "rows of different lengths"


def test_pictures_change_the_answer(session):
    answers = session.batch([asked(picture(90, 60, seed), "what?") for seed in (1, 2)], new=8)
    assert answers[0].tokens != answers[1].tokens


def test_more_dialogues_than_a_batch_takes(session):
    many = [asked(f"number {n}") for n in range(6)]
    assert session.batch(many, new=3) == [session.batch([turns], new=3)[0] for turns in many]


def test_decoding_token_by_token_is_one_long_prompt(session, eager, processor):
    """The logits of a token that came by `decode` are those of `prefill` over all of it."""
    turns = asked(picture(90, 60), "what is this?")
    sample = processor.prompt(turns)
    (answer,) = session.answers([sample], [0], new=5)
    longer = replace(
        sample,
        ids=torch.cat([torch.from_numpy(sample.ids), torch.tensor(answer.tokens[:4])]).numpy(),
        supervised=torch.zeros(sample.length + 4, dtype=torch.bool).numpy(),
    )
    assert session.answers([longer], [0], new=1)[0].tokens == answer.tokens[4:5]


def test_streaming_gives_the_same_text_in_pieces(session):
    turns = asked(picture(90, 60), "what is this?")
    reply = session.chat(turns, new=12)
    said = list(reply)
    assert [reply.answer] == session.batch([turns], new=12)
    assert "".join(said) == reply.text
    assert len(said) > 1


def test_an_answer_is_computed_as_it_is_listened_to(session, monkeypatch):
    steps: list[str] = []
    run = session.executable.run

    def counting(method, given):
        steps.append(method)
        return run(method, given)

    monkeypatch.setattr(session.executable, "run", counting)
    reply = session.chat("hello there", new=12)
    assert steps == []
    first = next(reply)
    assert steps.count("decode") < 11
    assert reply.text.startswith(first)
    assert steps.count("decode") == 11


def test_the_same_seed_gives_the_same_answers(session):
    runs = [
        [a.tokens for a in session.batch(DIALOGUES, new=8, sampling=DRAWN, seed=seed)]
        for seed in (5, 5, 6)
    ]
    assert runs[0] == runs[1] != runs[2]


def test_a_stop_token_ends_an_answer_and_is_no_part_of_it(session, processor, monkeypatch):
    (free,) = session.batch([asked("hello there")], new=6)
    stop = free.tokens[3]
    assert free.ended == "length"
    monkeypatch.setattr(processor, "ending", Ending((stop,)))
    stopped, other = session.batch([asked("hello there"), DIALOGUES[1]], new=6)
    assert (stopped.tokens, stopped.ended) == (free.tokens[: free.tokens.index(stop)], "stop")
    assert len(other.tokens) == 6, "the other row goes on"


def test_a_stop_text_ends_an_answer_wherever_tokens_cut_it(session, processor, monkeypatch):
    """Asked at once, in a batch beside one that goes on, and piece by piece."""
    (free,) = session.batch([DIALOGUES[1]], new=12)
    middle = len(free.text) // 2
    stop = free.text[middle : middle + 3]
    monkeypatch.setattr(processor, "ending", Ending(texts=(stop,)))
    stopped, other = session.batch([DIALOGUES[1], DIALOGUES[0]], new=12)
    assert (stopped.text, stopped.ended) == (free.text[: free.text.index(stop)], "stop")
    assert stopped.tokens == free.tokens[: len(stopped.tokens)]
    assert len(stopped.tokens) < len(free.tokens)
    assert (other.ended, len(other.tokens)) == ("length", 12)
    assert "".join(session.chat(DIALOGUES[1], new=12)) == stopped.text
    talk = session.conversation()
    assert talk.chat(*DIALOGUES[1], new=12).answer == stopped
    assert [talk.chat("why?", new=6).answer] == session.batch([talk.turns[:-1]], new=6)


def test_pieces_drawn_with_a_seed_are_the_answer_of_that_seed(session):
    (answer,) = session.batch([DIALOGUES[0]], new=8, sampling=DRAWN, seed=7)
    said = "".join(session.chat(DIALOGUES[0], new=8, sampling=DRAWN, seed=7))
    assert said == answer.text
    assert said != "".join(session.chat(DIALOGUES[0], new=8, sampling=DRAWN, seed=8))


def test_earlier_turns_are_part_of_the_prompt(session):
    first = asked(picture(90, 60), "what is this?")
    (answer,) = session.batch([first], new=4)
    more = [*first, Turn("assistant", (answer.text,)), Turn("user", ("why?",))]
    (again,) = session.batch([more], new=4)
    assert again.prompt > answer.prompt + 4


def test_a_clip_longer_than_its_picture_is_seen_frame_by_frame(session):
    one, other = (asked(clip(8, 60, 60, seed), "what moves?") for seed in (0, 1))
    first, second = session.batch([one, other], new=8)
    assert first.tokens != second.tokens


def test_an_answer_ends_where_the_cache_does(session, eager):
    slots = eager.limits["slots"].high
    sample = session.processor.prompt(asked("word " * 400))
    (answer,) = session.answers([sample], [0], new=500)
    assert answer.ended == "length"
    assert answer.prompt + len(answer.tokens) == slots + 1


def test_a_prompt_that_is_too_long_is_refused(session):
    with pytest.raises(InputError, match=r"takes 2 to 448"):
        session.batch([asked("word " * 460)])
    many = [picture(200, 200, seed) for seed in range(9)]
    said = r"a prompt of \d+ tokens, \d+ of them for 9 pictures and clips, is too long"
    with pytest.raises(InputError, match=said):
        session.chat(asked(*many, "compare"))


def test_the_smallest_cache_that_fits_is_taken(session):
    assert [session.slots(*sizes) for sizes in ((20, 10), (100, 29), (100, 30), (400, 500))] == [
        128,
        128,
        256,
        512,
    ]


def test_pictures_seen_in_several_calls_are_the_same(tiny_job, session):
    """A limit on the patches of one call cuts between pictures, and changes no token."""
    cut = EagerExecutable(tiny_job)
    limits = {name: Limit(8, 64, 4) for name in ("image.patches", "video.patches", "patches")}
    cut.limits = {**cut.limits, **limits}
    small = Session(cut, session.processor, session.spec)
    assert small.batch(DIALOGUES, new=6) == session.batch(DIALOGUES, new=6)


def test_too_few_patches_are_filled_up(tiny_job, session):
    """A call must have so many rows at least: what is added is cut off again."""
    wide = EagerExecutable(tiny_job)
    wide.limits = {**wide.limits, "image.patches": Limit(400, 7168, 4)}
    padded = Session(wide, session.processor, session.spec)
    assert padded.batch(DIALOGUES, new=6) == session.batch(DIALOGUES, new=6)


def test_a_picture_that_is_too_large_for_one_call_is_refused(tiny_job, session):
    narrow = EagerExecutable(tiny_job)
    narrow.limits = {**narrow.limits, "image.patches": Limit(8, 64, 4)}
    small = Session(narrow, session.processor, session.spec)
    said = r"vision_image: image\.patches is \d+; the executable takes 8 to 64 in steps of 4\."
    with pytest.raises(InputError, match=said):
        list(small.chat(asked(picture(300, 300), "what?"), new=2))

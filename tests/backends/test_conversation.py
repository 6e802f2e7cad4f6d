"""A conversation answers as the whole dialogue at once, and feeds only what is new."""

from __future__ import annotations

from collections import Counter

import pytest
import torch

import triptych
from triptych.backends.base import Executable, InputError
from triptych.backends.conversation import Conversation
from triptych.backends.eager import Eager
from triptych.backends.embedding import session_of
from triptych.backends.generation import Session
from triptych.backends.inductor import Inductor
from triptych.backends.sampling import Sampling
from triptych.backends.sight import Sight
from triptych.blocks.input.sample import Turn
from triptych.dsl.load import load_recipe

from .conftest import DIALOGUES, asked, clip, made, picture

ROUNDS = (
    asked(picture(90, 60), "what is this?"),
    asked("why?"),
    asked(picture(56, 120, 4), picture(90, 90, 3), "compare"),
    asked("is it so?"),
)
"""A picture, text alone, two more pictures, and text that is about all of them."""
RECIPES = (
    "qwen2_vl_tiny",
    "qwen_vl_tiny",
    "minigpt4_tiny",
    "deepseek_vl_tiny",
    "internvl_1_5_tiny",
    "internvl_chat_tiny",
    "internvl_chat_qllama_tiny",
)
DRAWN = Sampling(temperature=1.0, top_k=50)


def session_for(name):
    job = made(load_recipe(name))
    return session_of(Eager().compile(job), job.resources, job.spec)


@pytest.fixture
def calls(monkeypatch):
    """How often each method is run, by any executable; and how many tokens `prefill` is fed."""
    counted: Counter[str] = Counter()
    run = Executable.run

    def counting(self, method, inputs):
        counted[method] += 1
        if method == "prefill":
            counted["tokens"] += inputs["text.tokens"].numel()
        return run(self, method, inputs)

    monkeypatch.setattr(Executable, "run", counting)
    return counted


def assert_as_at_once(session, rounds, new=6, **options):
    """Each answer of a conversation is that of all that was said, asked anew."""
    talk = Conversation(session)
    said = []
    for (turn,) in rounds:
        answer = talk.chat(turn, new=new, **options).answer
        said.append(turn)
        assert [answer] == session.batch([said], new=new, **options)
        said.append(Turn("assistant", (answer.text,)))
    assert talk.turns == said
    return talk


@pytest.mark.parametrize("name", RECIPES)
def test_each_answer_is_that_of_the_whole_dialogue(name):
    talk = assert_as_at_once(session_for(name), ROUNDS)
    assert talk.reused > 0


def test_clips_and_pictures_with_positions_of_three_axes(session):
    rounds = (asked(clip(6, 60, 60), "what moves?"), *ROUNDS)
    assert assert_as_at_once(session, rounds).reused > 100


def test_drawn_answers_are_those_of_the_whole_dialogue(session):
    assert_as_at_once(session, ROUNDS[:2], sampling=DRAWN, seed=3)


def test_only_new_tokens_are_fed_and_each_picture_is_looked_at_once(session, calls):
    talk = Conversation(session)
    answers = []
    for (turn,) in ROUNDS:
        before = calls["tokens"]
        answers.append(talk.chat(turn, new=6).answer)
        assert calls["tokens"] - before == answers[-1].prompt - talk.reused
    assert talk.reused >= answers[-2].prompt, "all that was fed before the last question stays"
    assert calls["vision_image"] == 2, "one call for the first picture, one for two more"
    talk.reset()
    again = talk.chat(ROUNDS[2][0], new=6).answer
    assert calls["vision_image"] == 2, "pictures are known by their pixels"
    assert [again] == session.batch([ROUNDS[2]], new=6)


def test_a_part_that_reads_looks_at_the_picture_once(calls):
    talk = Conversation(session_for("internvl_chat_qllama_tiny"))
    for (turn,) in (ROUNDS[0], ROUNDS[1], ROUNDS[3]):
        assert talk.chat(turn, new=4).answer
    assert calls["vision_image"] == 1
    assert calls["project"] == 3, "it reads each question"


def test_the_same_picture_twice_in_a_batch_is_looked_at_once(session, calls):
    one, other = (asked(picture(90, 60), "a", picture(90, 60), "b"), asked(picture(90, 60), "c"))
    together = session.batch([one, other], new=4)
    assert calls["vision_image"] == 1
    assert together == [session.batch([turns], new=4)[0] for turns in (one, other)]


def test_another_picture_in_the_same_place_is_fed_anew(session):
    """Tokens and positions are the same; the pixels are not."""
    talk = Conversation(session)
    assert talk.chat(ROUNDS[0][0], new=4).answer
    talk.reset()
    other = asked(picture(90, 60, seed=9), "what is this?")
    assert [talk.chat(other[0], new=4).answer] == session.batch([other], new=4)
    assert talk.reused < 20


def test_an_answer_that_is_tokenised_anew_is_fed_from_there_on(session):
    """What was said is text: where its tokens are others than those chosen, those are fed."""
    talk = Conversation(session)
    first = talk.chat(ROUNDS[0][0], new=6).answer
    talk.turns[-1] = Turn("assistant", ("something else",))
    answer = talk.chat(ROUNDS[1][0], new=6).answer
    assert [answer] == session.batch([[*ROUNDS[0], talk.turns[1], *ROUNDS[1]]], new=6)
    assert talk.reused == first.prompt


def test_frequencies_that_change_with_the_length_are_fed_anew():
    """Qwen's base grows in steps: behind one, no key of the cache is what it would be."""
    session = session_for("qwen_vl_tiny")
    talk = Conversation(session)
    assert talk.chat(*asked("hi"), new=2).answer
    answer = talk.chat(*asked("word " * 60), new=2).answer
    assert talk.reused == 1, "the first token alone, which is turned by nothing"
    assert [answer] == session.batch([talk.turns[:-1]], new=2)


def test_the_cache_grows_and_keeps_what_it_holds(session, monkeypatch):
    sizes: list[int] = []
    caches = Executable.caches

    def counting(self, batch, slots):
        sizes.append(slots)
        return caches(self, batch, slots)

    monkeypatch.setattr(Executable, "caches", counting)
    talk = Conversation(session)
    for (turn,) in (asked("hello"), asked("word " * 100), asked("and"), asked("word " * 150)):
        assert talk.chat(turn, new=4).answer
    assert sizes == [128, 256, 512]
    assert talk.reused > 128
    assert [talk.chat(*asked("so?"), new=4).answer] == session.batch([talk.turns[:-1]], new=4)


def test_an_answer_broken_off_stays_as_far_as_it_came(session):
    talk = Conversation(session)
    pieces = talk.chat(ROUNDS[0][0], new=20)
    said = next(pieces) + next(pieces)
    pieces.close()
    assert (pieces.answer.ended, pieces.text) == ("broken", talk.turns[-1].parts[0])
    assert talk.turns[-1].role == "assistant"
    (kept,) = talk.turns[-1].parts
    assert isinstance(kept, str)
    assert kept.startswith(said)
    answer = talk.chat(*asked("go on"), new=6).answer
    assert talk.reused > 0
    assert [answer] == session.batch([talk.turns[:-1]], new=6)


def test_the_next_question_breaks_an_answer_off(session):
    talk = Conversation(session)
    first = talk.chat(ROUNDS[0][0], new=20)
    said = next(first)
    second = talk.chat(*asked("go on"), new=6).answer
    (kept,) = talk.turns[1].parts
    assert isinstance(kept, str)
    assert kept.startswith(said)
    assert first.answer.ended == "broken"
    assert [second] == session.batch([talk.turns[:-1]], new=6)


def test_what_towers_saw_is_kept_up_to_a_bound(tiny_job, session, calls):
    """The picture that was asked for longest ago is forgotten, and looked at again when needed."""
    samples = [session.processor.prompt(asked(picture(90, 60, n), "what?")) for n in range(3)]
    one, two, three = (sample.media for sample in samples)
    sight = Sight(session.executable, session.processor, tiny_job.spec)
    rows = sight.features(one)
    each = sum(seen.nbytes for seen in next(iter(sight.kept.values())).values())
    small = Sight(session.executable, session.processor, tiny_job.spec, keep=2 * each)
    for media in (one, two, one, three):
        small.features(media)
    looked = calls["vision_image"]
    torch.testing.assert_close(small.features(one), rows)
    assert calls["vision_image"] == looked, "it was asked for after the second"
    torch.testing.assert_close(small.features([*two, *three])[-len(rows) :], sight.features(three))
    assert calls["vision_image"] == looked + 2, "the second again, and the third, once, by `sight`"
    held = {
        seen.untyped_storage().data_ptr(): seen.untyped_storage().nbytes()
        for kept in small.kept.values()
        for seen in kept.values()
    }
    assert sum(held.values()) <= 2 * each


def test_a_question_that_is_refused_was_not_said(session):
    talk = Conversation(session)
    assert talk.chat(*asked("hello"), new=4).answer
    before = list(talk.turns)
    with pytest.raises(InputError, match="too long"):
        talk.chat(*asked("word " * 460))
    assert talk.turns == before
    assert [talk.chat(*asked("why?"), new=4).answer] == session.batch([talk.turns[:-1]], new=4)


@pytest.mark.parametrize("chunk", [7, 16])
def test_prompts_in_pieces_are_prompts_at_once(tiny_job, session, eager, calls, chunk):
    pieces = Session(eager, session.processor, tiny_job.spec, chunk=chunk)
    ours = pieces.batch(DIALOGUES, new=6)
    assert calls["prefill"] > 1
    assert ours == session.batch(DIALOGUES, new=6)
    assert_as_at_once(pieces, ROUNDS)


def test_the_logits_and_the_cache_are_those_of_the_whole_prompt(tiny_job, session, eager):
    """Rows of different lengths, with pictures and clips cut by the borders of pieces."""
    samples = [session.processor.prompt(turns) for turns in DIALOGUES]
    media = [seen for sample in samples for seen in sample.media]
    prompts = session.prompts(samples)
    found = []
    for chunk in (1024, 24, 7):
        asking = Session(eager, session.processor, tiny_job.spec, chunk=chunk)
        caches = eager.caches(len(samples), 256)
        sight = Sight(eager, session.processor, tiny_job.spec)
        found.append({"logits": asking.prefill(prompts, media, caches, sight), **caches})
    for other in found[1:]:
        for name, tensor in found[0].items():
            torch.testing.assert_close(other[name], tensor, rtol=1e-4, atol=1e-5)


def test_compiled_just_in_time_a_conversation_is_eagers(tiny_job, session, tmp_path):
    ours = Inductor(tmp_path).compile(tiny_job)
    compiled = Session(ours, session.processor, tiny_job.spec, chunk=48)
    talk, other = Conversation(session), Conversation(compiled)
    for (turn,) in ROUNDS:
        assert other.chat(turn, new=6).answer == talk.chat(turn, new=6).answer
    assert ours.recompiles == 0


def test_an_artefact_holds_a_conversation_as_eager_does(artefact, session):
    """Loaded as a program loads it, and its answers taken piece by piece."""
    loaded = triptych.load(artefact.folder)
    assert isinstance(loaded, Session)
    talk, ours = session.conversation(), loaded.conversation()
    for (turn,) in ROUNDS:
        assert "".join(ours.chat(turn, new=6)) == talk.chat(turn, new=6).answer.text
    assert ours.chat("bye", new=6).answer == talk.chat(*asked("bye"), new=6).answer
    assert ours.turns == talk.turns


def test_what_goes_on_behind_queries_is_fed_whole():
    """Captions: `prefill` itself sees the pictures, all their rows."""
    job = made(load_recipe("internvl_14b_tiny"), mode="caption")
    session = session_of(Eager().compile(job), job.resources, job.spec)
    assert isinstance(session, Session)
    shown = [asked(picture(40, 30, seed)) for seed in range(3)]
    samples = [session.processor.prompt(turns) for turns in shown]
    sight = Sight(session.executable, session.processor, session.spec)
    media = [seen for sample in samples for seen in sample.media]
    assert len(sight.features(media)) == 3 * 17
    talk = session.conversation()
    for turns in shown:
        talk.reset()
        assert [talk.chat(*turns, new=5).answer] == session.batch([turns], new=5)
        assert talk.reused == 0
    assert len({answer.tokens for answer in session.batch(shown, new=5)}) > 1

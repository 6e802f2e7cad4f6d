"""Beams find what transformers' find, and what they find is what the model says of it."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import product
from pathlib import Path

import numpy as np
import pytest
import torch

from triptych.backends.base import InputError, Limit
from triptych.backends.eager import Eager, EagerExecutable
from triptych.backends.generation import Session
from triptych.backends.job import job
from triptych.backends.sampling import Sampling
from triptych.backends.search import Search
from triptych.backends.sight import Sight
from triptych.blocks.input.ending import Ending
from triptych.blocks.input.processor import Processor
from triptych.dsl.load import load_recipe

from .conftest import DIALOGUES, asked, picture

GOLDEN = Path(__file__).parents[1] / "golden" / "search.json"
VOCABULARY = 12
PROMPT = [3, 7, 3]
CASES = [
    (seed, beams, new, ends, length, min_new, penalty)
    for seed, (beams, new, ends, length, min_new, penalty) in enumerate(
        product((2, 4), (6, 9), ([0], [0, 5, 8]), (1.0, -1.0, 2.0), (0, 3), (1.0, 1.3))
    )
]


def table(seed):
    """[V, V] what may follow each token, the same on every machine."""
    places = torch.arange(VOCABULARY, dtype=torch.float64)
    return 3 * torch.sin(37.3 * places[:, None] + 11.7 * (places + seed) * (places[:, None] + 1.3))


def found(seed, beams, new, ends, length, min_new, penalty):
    """The answer of a model that looks at the last token alone."""
    logits = table(seed)
    sampling = Sampling(
        beams=beams, length_penalty=length, min_new=min_new, repetition_penalty=penalty
    )
    search = Search(sampling, new, PROMPT, ends, lambda tokens: False)
    last = [PROMPT[-1]]
    for _ in range(new):
        search.go_on(logits[last])
        if search.done:
            break
        last = search.tokens
    return list(search.best)


def theirs(seed, beams, new, ends, length, min_new, penalty):
    """The answer of transformers to the same."""
    transformers = pytest.importorskip("transformers")
    outputs = pytest.importorskip("transformers.modeling_outputs")

    def forward(self, input_ids, **_):
        return outputs.CausalLMOutput(logits=self.rows[input_ids])

    bases = (transformers.PreTrainedModel, transformers.GenerationMixin)
    model = type("Table", bases, {"forward": forward})(
        transformers.PretrainedConfig(vocab_size=VOCABULARY)
    )
    model.rows = torch.nn.Parameter(table(seed), requires_grad=False)
    settings = transformers.GenerationConfig(
        num_beams=beams,
        max_new_tokens=new,
        min_new_tokens=min_new,
        length_penalty=length,
        repetition_penalty=penalty,
        eos_token_id=ends,
        pad_token_id=0,
        early_stopping=False,
        use_cache=False,
    )
    said = model.generate(torch.tensor([PROMPT]), settings)[0, len(PROMPT) :].tolist()
    end = next((place for place, token in enumerate(said) if token in ends), len(said))
    return said[: end + 1]


def test_beams_find_what_those_of_transformers_found():
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    assert [found(*case) for case in CASES] == golden
    assert len({tuple(answer) for answer in golden}) > len(golden) / 2


@pytest.mark.parametrize("case", CASES[::7])
def test_what_transformers_found_is_what_it_finds(case):
    assert theirs(*case) == json.loads(GOLDEN.read_text(encoding="utf-8"))[case[0]]


@pytest.mark.parametrize("seed", range(6))
def test_as_many_beams_as_there_are_answers_find_the_likeliest(seed):
    logits = table(seed)[:4, :4] / 3
    search = Search(Sampling(beams=64), 4, [], [], lambda tokens: False)
    last = [2]
    while not search.done:
        search.go_on(logits[last])
        last = [] if search.done else search.tokens
    weighed = logits.float().log_softmax(-1)

    def likely(tokens):
        return sum(weighed[pair].item() for pair in zip((2, *tokens), tokens, strict=False))

    assert search.best == max(product(range(4), repeat=4), key=likely)


BEAMS = Sampling(beams=3)


def rows(tiny_job, session, low, high):
    """A session whose executable takes so many rows at a time."""
    made = EagerExecutable(tiny_job)
    made.limits = {**made.limits, "batch": Limit(low, high)}
    return Session(made, session.processor, session.spec)


@pytest.fixture(scope="module")
def wide(tiny_job, session):
    """Beams for all dialogues at once."""
    return rows(tiny_job, session, 1, 3 * len(DIALOGUES))


@pytest.fixture(scope="module")
def said(wide):
    return wide.batch(DIALOGUES, new=6, sampling=BEAMS)


def afresh(session, turns, new, beams):
    """What is found without a cache: each beginning is fed anew, behind the prompt."""
    sample = session.processor.prompt(turns)
    sight = Sight(session.executable, session.processor, session.spec)

    def behind(tokens):
        ids = np.concatenate([sample.ids, tokens]).astype(np.int64)
        longer = replace(sample, ids=ids, supervised=np.zeros(len(ids), np.bool_))
        prompts = session.prompts([longer])
        caches = session.executable.caches(1, session.slots(prompts.length, 1))
        return session.prefill(prompts, longer.media, caches, sight)

    search = Search(Sampling(beams=beams), new, sample.ids, (), lambda tokens: False)
    beginnings: list[tuple[int, ...]] = [()]
    while True:
        search.go_on(torch.cat([behind(tokens) for tokens in beginnings]))
        if search.done:
            return search.best
        beginnings = [
            (*beginnings[origin], token)
            for origin, token in zip(search.origins, search.tokens, strict=True)
        ]


def test_beams_are_rows_of_a_cache_that_is_put_in_order(session, said):
    greedy = session.batch(DIALOGUES, new=6)
    assert any(one.tokens != other.tokens for one, other in zip(said, greedy, strict=True))
    for turns, answer in zip(DIALOGUES[1:3], said[1:3], strict=True):
        assert answer.tokens == afresh(session, turns, 6, 3)


def test_as_many_dialogues_are_asked_at_a_time_as_have_room_for_their_beams(session, wide, said):
    assert (wide.most(BEAMS), session.most(BEAMS)) == (4, 1)
    assert session.batch(DIALOGUES, new=6, sampling=BEAMS) == said


def test_more_beams_than_rows_are_refused(session):
    with pytest.raises(InputError, match=r"5 beams are rows of a batch, .* takes 1 to 4"):
        list(session.chat(DIALOGUES[0], new=2, sampling=Sampling(beams=5)))


def test_what_takes_no_fewer_rows_is_fed_a_prompt_for_each_beam(tiny_job, session, said):
    engine = rows(tiny_job, session, 3, 3)
    assert engine.batch(DIALOGUES[1:3], new=6, sampling=BEAMS) == said[1:3]


@pytest.mark.parametrize(
    "rule",
    [Sampling(), Sampling(temperature=1.0), Sampling(beams=2)],
    ids=["greedy", "drawn", "fewer beams"],
)
def test_what_takes_no_fewer_rows_is_fed_the_last_prompt_again(tiny_job, session, rule):
    engine = rows(tiny_job, session, 3, 4)
    asked = DIALOGUES[1:2]
    assert engine.batch(asked, new=6, sampling=rule) == session.batch(asked, new=6, sampling=rule)
    talk = engine.conversation()
    first = talk.chat(*asked[0], new=6, sampling=rule).answer
    assert [first] == session.batch(asked, new=6, sampling=rule)
    second = talk.chat("why?", new=6, sampling=rule).answer
    assert [second] == session.batch([talk.turns[:-1]], new=6, sampling=rule)


def test_an_artefact_finds_the_same(artefact, session, said):
    assert artefact.session().batch(DIALOGUES, new=6, sampling=BEAMS) == said


def test_a_token_or_a_text_ends_an_answer(session, said, processor, monkeypatch):
    free = said[1]
    monkeypatch.setattr(processor, "ending", Ending((free.tokens[2],)))
    likely = Sampling(beams=3, length_penalty=-9.0)
    (stopped,) = session.batch([DIALOGUES[1]], new=6, sampling=likely)
    assert stopped.ended == "stop" and len(stopped.tokens) < 6
    (least,) = session.batch([DIALOGUES[1]], new=6, sampling=replace(likely, min_new=6))
    assert (least.ended, len(least.tokens)) == ("length", 6)
    monkeypatch.setattr(processor, "ending", Ending(texts=(free.text[1:3],)))
    (stopped,) = session.batch([DIALOGUES[1]], new=6, sampling=likely)
    assert stopped.ended == "stop" and free.text[1:3] not in stopped.text


def test_an_answer_that_ends_at_once_leaves_the_others_in_its_batch_alone(
    wide, said, processor, monkeypatch
):
    likely: list[int] = []
    for _ in range(3):
        monkeypatch.setattr(processor, "ending", Ending(tuple(likely)))
        (answer,) = wide.batch(DIALOGUES[:1], new=1, sampling=Sampling(min_new=1))
        likely += answer.tokens
    assert len(set(likely)) == 3 and not set(likely) & set(said[1].tokens)
    monkeypatch.setattr(processor, "ending", Ending(tuple(likely)))
    stopped, free = wide.batch(DIALOGUES[:2], new=6, sampling=BEAMS)
    assert (stopped.ended, stopped.tokens) == ("stop", ())
    assert free == said[1]


def test_no_answer_is_shorter_than_it_may_be(session, processor, monkeypatch):
    (free,) = session.batch([DIALOGUES[1]], new=6)
    monkeypatch.setattr(processor, "ending", Ending((free.tokens[2],)))
    (stopped,) = session.batch([DIALOGUES[1]], new=6)
    (longer,) = session.batch([DIALOGUES[1]], new=6, sampling=Sampling(min_new=4))
    assert len(stopped.tokens) == free.tokens.index(free.tokens[2])
    assert len(longer.tokens) >= 4 and free.tokens[2] not in longer.tokens[:4]


def test_a_conversation_goes_on_behind_what_beams_found(session, said):
    talk = session.conversation()
    assert talk.chat(*DIALOGUES[1], new=6, sampling=BEAMS).answer == said[1]
    before = said[1].prompt
    second = talk.chat("why?", new=6, sampling=BEAMS).answer
    assert [second] == session.batch([talk.turns[:-1]], new=6, sampling=BEAMS)
    assert before <= talk.reused < second.prompt, "the prompt was kept, what beams fed not"
    third = talk.chat("and then?", new=6).answer
    assert [third] == session.batch([talk.turns[:-1]], new=6)
    assert talk.reused >= second.prompt


def test_a_caption_is_searched_for_as_its_mode_says():
    """Behind queries, of two pictures at once, with the beams of the published scripts."""
    recipe = load_recipe("internvl_14b_tiny", amend=["caption.target = eager()"])
    work = job(recipe, "caption", weights=0)
    session = Session(Eager().compile(work), Processor(work.spec), work.spec)
    assert session.sampling == Sampling(beams=5, min_new=8)
    assert session.most() == 8
    pictures = [asked(picture(60, 60, seed)) for seed in (1, 2)]
    together = session.batch(pictures, new=10)
    assert together == [session.chat(turns, new=10).answer for turns in pictures]
    greedy = session.batch(pictures, new=10, sampling=Sampling(min_new=8))
    assert together != greedy


@pytest.mark.parametrize("wrong", [{"beams": 0}, {"min_new": -1}, {"beams": 2, "temperature": 1}])
def test_a_rule_that_makes_no_sense_is_refused(wrong):
    with pytest.raises(ValueError, match="beam"):
        Sampling(**wrong)

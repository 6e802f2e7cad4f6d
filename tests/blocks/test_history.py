"""A dialogue that grows too long loses its oldest turns, whole; the system's text and the last
question stay."""

from __future__ import annotations

import pytest
from PIL import Image

from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Attachment, Turn
from triptych.compiler.pipeline import for_inference
from triptych.dsl.load import load_recipe

PICTURE = Attachment("image", Image.new("RGB", (56, 56)))


def processor(*amend, name="qwen2_vl_2b"):
    return Processor(for_inference(load_recipe(name, amend=amend), "chat").spec)


def dialogue(turns):
    """So many questions, each but the last answered; the first shows a picture."""
    said = []
    for number in range(turns):
        shown = (PICTURE,) if number == 0 else ()
        said += [Turn("user", (*shown, f"question {number}")), Turn("assistant", (f"so {number}",))]
    return said[:-1]


def text(processor, turns):
    sample = processor.prompt(turns)
    return processor.tokenizer.decode(sample.ids.tolist()), sample


def test_nothing_is_left_out_of_a_dialogue_that_fits():
    limited, free = processor("chat.history=..500tok"), processor()
    for turns in (1, 4):
        ours, theirs = (one.prompt(dialogue(turns)) for one in (limited, free))
        assert ours.ids.tolist() == theirs.ids.tolist()
        assert len(ours.media) == 1


def test_the_oldest_turns_go_with_their_pictures():
    said, sample = text(processor("chat.history=..40tok"), dialogue(5))
    assert "helpful assistant" in said
    assert [n for n in range(5) if f"question {n}" in said] == [3, 4]
    assert sample.media == ()


def test_turns_go_until_the_prompt_fits_its_own_limit():
    said, _ = text(processor("chat.history=..500tok", "chat.prompt=..45tok"), dialogue(5))
    assert [n for n in range(5) if f"question {n}" in said] == [3, 4]


def test_the_last_question_stays_whatever_it_takes():
    said, _ = text(processor("chat.history=..1tok"), dialogue(3))
    assert [n for n in range(3) if f"question {n}" in said] == [2]


def test_pictures_of_the_turns_that_stay_keep_their_places():
    turns = [*dialogue(3)[:-1], Turn("user", (PICTURE, "and this?"))]
    limited, alone = processor("chat.history=..16tok"), processor()
    ours, theirs = limited.prompt(turns), alone.prompt(turns[-1:])
    assert ours.ids.tolist() == theirs.ids.tolist()
    assert [seen.starts for seen in ours.media] == [seen.starts for seen in theirs.media]


@pytest.mark.parametrize("limit", range(20, 60, 3))
def test_the_turns_that_stay_are_those_of_the_published_chat(limit):
    """`make_context` of Qwen-VL-Chat: from the newest on, while what stands before the question is
    shorter than a window, counted without the line end behind it."""
    qwen = processor(f"chat.history=..{limit}tok", name="qwen_vl_tiny")
    turns = dialogue(6)[2:]
    encode = qwen.tokenizer.encode
    system = len(encode("system\n")) + len(encode("You are a helpful assistant.")) + 2
    kept, context = 0, 0
    for asked, answered in reversed(list(zip(turns[:-1:2], turns[1::2], strict=True))):
        texts = ("user", *asked.parts, "assistant", *answered.parts)
        size = 4 + 4 + sum(len(encode(text)) for text in texts)
        if system + size + context >= limit:
            break
        kept, context = kept + 1, context + size
    said, _ = text(qwen, turns)
    assert said.count("question") == kept + 1

"""One layout gives training tokens, what is supervised, the prompt and the stop tokens."""

from __future__ import annotations

import pytest

from triptych.blocks.input.layout import (
    Layout,
    LayoutError,
    Medium,
    Message,
    Places,
    Special,
    Text,
)

START, END, VISION, VISION_END, IMAGE = range(5)
PICTURE = [
    {"special": "vision_start", "id": VISION},
    {"repeat": {"special": "image_pad", "id": IMAGE}, "count": "x"},
    {"special": "vision_end", "id": VISION_END},
]
NUMBERED = [{"text": "Picture "}, {"index": "x"}, {"text": ": "}, *PICTURE]


def turn(role, *items):
    return {
        "params": ["b"],
        "items": [{"special": "start", "id": START}, {"text": f"{role}\n"}, *items],
    }


def chat(picture=PICTURE, system="Help."):
    end = {"special": "end", "id": END}
    return Layout(
        "chat",
        {
            "system": system,
            "stop": [END],
            "rules": {
                "image": {"params": ["x"], "items": picture},
                "system": turn("system", {"slot": "b"}, end, {"text": "\n"}),
                "user": turn("user", {"slot": "b"}, end, {"text": "\n"}),
                "assistant": turn("assistant", {"loss": [{"slot": "b"}, end]}, {"text": "\n"}),
            },
        },
    )


def caption():
    pair = [
        {"rule": "image", "args": ["x"]},
        {"loss": [{"slot": "t"}, {"special": "end", "id": END}]},
    ]
    return Layout(
        "caption",
        {
            "system": None,
            "stop": [END],
            "rules": {
                "image": {"params": ["x"], "items": PICTURE},
                "pair": {"params": ["x", "t"], "items": pair},
            },
        },
    )


FROG = Medium("image", {"merger": 6})


def test_only_answers_and_their_stop_tokens_are_supervised():
    runs = chat().render([Message("user", (FROG, "What?")), Message("assistant", ("A frog.",))])
    assert runs == (
        Special(START),
        Text("system\nHelp."),
        Special(END),
        Text("\n"),
        Special(START),
        Text("user\n"),
        Special(VISION),
        Places(IMAGE, 6, 0, "merger"),
        Special(VISION_END),
        Text("What?"),
        Special(END),
        Text("\n"),
        Special(START),
        Text("assistant\n"),
        Text("A frog.", loss=True, behind="text"),
        Special(END, loss=True),
        Text("\n"),
    )
    assert chat().stops == (END,)


def test_a_prompt_is_what_stands_before_the_first_supervised_token():
    question = [Message("user", (FROG, "What?"))]
    whole = chat().render([*question, Message("assistant", ("\nA frog.",))])
    prompt = chat().prompt(question)
    assert whole[: len(prompt)] == prompt
    assert whole[len(prompt)].loss


def test_a_system_message_of_the_dialogue_replaces_that_of_the_layout():
    runs = chat().render([Message("system", ("Be brief.",)), Message("user", ("Hi",))])
    assert next(run for run in runs if isinstance(run, Text)) == Text("system\nBe brief.")
    assert Text("system\nHelp.") not in runs


def test_pictures_are_numbered_over_the_whole_dialogue():
    runs = chat(NUMBERED, system=None).render(
        [Message("user", (FROG, FROG)), Message("assistant", ("Two.",)), Message("user", (FROG,))]
    )
    texts = [run.text for run in runs if isinstance(run, Text)]
    assert texts[:2] == ["user\nPicture 1: ", "Picture 2: "]
    assert "user\nPicture 3: " in texts
    assert [run.medium for run in runs if isinstance(run, Places)] == [0, 1, 2]


def test_a_layout_without_turns_takes_an_exchange_as_one_sample():
    exchange = [Message("user", (FROG,)), Message("assistant", ("A frog.",))]
    runs = caption().render(exchange)
    assert runs == caption().render([Message("pair", (FROG, "A frog."))])
    assert runs[-2:] == (Text("A frog.", loss=True), Special(END, loss=True))
    assert caption().prompt(exchange[:1]) == runs[:-2]


@pytest.mark.parametrize(
    ("layout", "messages", "reason"),
    [
        (chat(), [Message("tool", ("x",))], "the layout chat has no rule `tool`"),
        (chat(), [Message("user", (Medium("video", {"merger": 2}),))], "no rule for a medium `video`"),
        (caption(), [Message("pair", (FROG, "a", "b"))], "takes `x`, `t`, and 3 parts are given"),
        (caption(), [Message("pair", ("a", "b"))], "takes one picture or clip for `x`"),
    ],
)
def test_a_dialogue_that_does_not_fit_is_refused_with_the_reason(layout, messages, reason):
    with pytest.raises(LayoutError, match=reason.replace("`", ".")):
        layout.render(messages)


def test_a_prompt_that_ends_in_an_answer_is_refused():
    with pytest.raises(LayoutError, match="0 of that must stand before the answer: 1 given"):
        chat().prompt([Message("assistant", ("So?",))])

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
CLIP = Medium("video", {"merger": 2})


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


def test_earlier_answers_of_a_prompt_stand_in_one_text_with_what_surrounds_them():
    earlier = [Message("user", ("Hi",)), Message("assistant", ("Hello.",))]
    prompt = chat().prompt([*earlier, Message("user", ("So?",))])
    assert Text("assistant\nHello.") in prompt
    learnt = chat().render(earlier)
    assert {Text("assistant\n"), Text("Hello.", loss=True, behind="text")} <= {*learnt}


def test_earlier_answers_that_are_set_apart_stay_so():
    layout = Layout(
        "apart",
        {
            "system": None,
            "stop": [END],
            "rules": {
                "user": {"params": ["b"], "items": [{"text": "Q:"}, {"slot": "b"}]},
                "assistant": {
                    "params": ["b"],
                    "items": [
                        {"text": "A:"},
                        {"loss": [{"apart": [{"slot": "b"}]}, {"special": "end", "id": END}]},
                    ],
                },
            },
        },
    )
    turns = [Message("user", ("Hi",)), Message("assistant", ("Yes.",)), Message("user", ("So?",))]
    texts = [run.text for run in layout.prompt(turns) if isinstance(run, Text)]
    assert texts == ["Q:HiA:", "Yes.", "Q:So?A:"]


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
        (
            chat(),
            [Message("user", (CLIP,))],
            "no rule for a medium `video`",
        ),
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


def turns(**spec):
    """Turns in plain text, with the settings of a layout."""
    image = {"params": ["x"], "items": [{"repeat": {"id": IMAGE}, "count": "x"}]}
    user = {"params": ["b"], "items": [{"text": "Q:"}, {"slot": "b"}]}
    answer = {"params": ["b"], "items": [{"text": "A:"}, {"loss": [{"slot": "b"}, {"text": "#"}]}]}
    rules = {"image": image, "user": user, "assistant": answer} | spec.pop("rules", {})
    return Layout("turns", {"system": None, "stop": [], "rules": rules} | spec)


def page(runs):
    """Runs as text; a place as an underscore."""
    return "".join(run.text if isinstance(run, Text) else "_" for run in runs)


def asked(*parts, answer="Yes."):
    return [Message("user", parts), Message("assistant", (answer,))]


def test_white_space_at_the_ends_of_messages_is_dropped_where_the_layout_says_so():
    given = asked("\n ", FROG, "\nIs it green?  ", answer=" Yes.\n")
    assert page(turns(strip=True).render(given)) == "Q:_\nIs it green?A:Yes.#"
    assert page(turns().render(given)) == "Q:\n _\nIs it green?  A: Yes.\n#"


def test_a_gap_stands_behind_a_picture_that_no_white_space_follows():
    layout = turns(gap="\n")
    assert page(layout.render(asked(FROG, FROG, "Alike?"))) == "Q:_\n_\nAlike?A:Yes.#"
    assert page(layout.render(asked(FROG, " this"))) == "Q:_ thisA:Yes.#"
    assert page(layout.render(asked("See ", FROG))) == "Q:See _A:Yes.#"


def test_what_stands_apart_is_tokenised_on_its_own():
    items = [{"text": "Q:"}, {"apart": [{"slot": "b"}, {"text": "!"}]}, {"text": "\n"}]
    runs = turns(rules={"user": {"params": ["b"], "items": items}}).render(asked("Hm"))
    assert runs[:3] == (
        Text("Q:", behind="start"),
        Text("Hm!", behind="start"),
        Text("\nA:", behind="start"),
    )


def test_every_choice_is_settled_by_one_number():
    lines = [[{"text": "One. "}], [{"text": "Two. "}], [{"text": "Three. "}]]
    items = [{"choice": lines}, {"slot": "b"}]
    layout = turns(rules={"user": {"params": ["b"], "items": items}})
    assert layout.draws and not turns().draws
    drawn = [page(layout.render(asked("Go."), lot)) for lot in (0, 1, 2, 3)]
    assert [text.partition(" ")[0] for text in drawn] == ["One.", "Two.", "Three.", "One."]
    assert page(layout.prompt([Message("user", ("Go.",))])) == "One. Go.A:"
    twice = [*asked("Go."), *asked("Go.")]
    assert len({page(layout.render(twice, lot)) for lot in range(9)}) == 9


def test_every_sample_begins_as_the_layout_says():
    layout = turns(rules={"begin": {"params": [], "items": [{"special": "bos", "id": START}]}})
    assert layout.render(asked("Hi"))[:2] == (Special(START), Text("Q:HiA:", behind="start"))


def test_later_turns_recall_the_pictures_that_were_shown():
    recalled = {"params": ["x"], "items": [{"text": "again "}, {"repeat": {"id": 9}, "count": "x"}]}
    layout = turns(rules={"recall": recalled}, gap=" ")
    runs = layout.render([*asked(FROG, "What?"), *asked("Sure?"), *asked(FROG, "And this?")])
    assert page(runs) == "Q:_ What?A:Yes.#Q:again _ Sure?A:Yes.#Q:_ And this?A:Yes.#"
    assert [run.medium for run in runs if isinstance(run, Places)] == [0, 0, 1]


def test_fixed_losses_do_not_make_an_answer():
    items = [{"loss": [{"text": "Q:"}]}, {"slot": "b"}]
    layout = turns(rules={"user": {"params": ["b"], "items": items}})
    assert layout.answer == "assistant"
    assert page(layout.prompt([Message("user", ("Hi",))])) == "Q:HiA:"


def test_only_what_is_learnt_is_cleaned():
    layout = turns(clean={"call": "caption", "words": 3})
    runs = layout.render(asked("Look: (here)", answer="A Frog (green) on a log."))
    assert page(runs) == "Q:Look: (here)A:a frog green#"


def test_places_of_several_parts_are_counted_by_name():
    items = [{"repeat": {"id": IMAGE}, "count": "x", "part": "fine"}]
    shown = Medium("image", {"coarse": 2, "fine": 5})
    layout = turns(rules={"image": {"params": ["x"], "items": items}})
    assert Places(IMAGE, 5, 0, "fine") in layout.render(asked(shown))
    with pytest.raises(LayoutError, match="does not say which places"):
        turns().render(asked(shown))

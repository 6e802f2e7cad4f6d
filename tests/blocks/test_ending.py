"""An answer ends at a token or a text, and nothing of its end is ever shown."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.blocks.input.ending import Ending, Telling
from triptych.blocks.input.tokenizer import Tokenizer


class Letters:
    """Every letter is a token."""

    def encode(self, text, behind="start"):
        return [ord(letter) for letter in text]

    def decode(self, ids):
        return "".join(map(chr, ids))


def told(text, ending):
    """What is given out for a text that arrives letter by letter, and whether it has ended."""
    telling = Telling(Tokenizer(Letters(), {}).stream(), ending)
    said = []
    for letter in text:
        said.append(telling.push(ord(letter)))
        if telling.ended:
            break
    return [*said, telling.end()], telling.ended


@pytest.mark.parametrize(
    ("text", "ending", "said", "ended"),
    [
        ("a frog.", Ending(), "a frog.", False),
        ("a frog.###Human", Ending(texts=("###",)), "a frog.", True),
        ("a # b ## c", Ending(texts=("###",)), "a # b ## c", False),
        ("a frog.\n", Ending(texts=("\n",)), "a frog.", True),
        (" a frog. ###", Ending(texts=("###",), strip=True), "a frog.", True),
        ("  \n a  b \n", Ending(strip=True), "a  b", False),
        ("a frog\x02 b", Ending(tokens=(2,)), "a frog", True),
        ("a #\x02", Ending(tokens=(2,), texts=("###",)), "a #", True),
        ("One. User: two", Ending(texts=("User:", "###")), "One. ", True),
    ],
)
def test_nothing_of_the_end_is_told(text, ending, said, ended):
    pieces, over = told(text, ending)
    assert "".join(pieces) == said
    assert over == ended


def test_text_is_told_as_soon_as_it_is_certain():
    pieces, _ = told("a## b", Ending(texts=("###",)))
    assert pieces == ["a", "", "", "## ", "b", ""]


@given(
    st.text(alphabet="a# \n", max_size=12),
    st.sampled_from([("##",), ("#a", "##"), ("\n",), ()]),
    st.booleans(),
)
def test_what_is_told_adds_up_to_the_answer(text, texts, strip):
    ending = Ending(texts=texts, strip=strip)
    pieces, ended = told(text, ending)
    assert "".join(pieces) == ending.cut(text)
    assert ended == (ending.place(text) is not None)

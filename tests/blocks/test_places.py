"""Boxes go into text and come back, by the rules of a layout."""

from __future__ import annotations

import pytest

from triptych.blocks.input.layout import Layout, LayoutError, Medium, Message, Text
from triptych.blocks.input.places import Box, PlaceReader, Quad, Ref, Thousandths

TAGS = {"box_start": "<box>", "box_end": "</box>"}
LAYOUT = {
    "system": None,
    "stop": [2],
    "coordinates": {"call": "thousandths", "back": 1000, "rounding": "nearest"},
    "rules": {
        "image": {"params": ["x"], "items": [{"repeat": {"id": 9}, "count": "x"}]},
        "ref": {
            "params": ["b"],
            "items": [{"text": "<ref>"}, {"slot": "b"}, {"text": "</ref>"}],
        },
        "box": {
            "params": ["b"],
            "items": [
                {"special": "box_start", "id": 7},
                {"corners": "b"},
                {"special": "box_end", "id": 8},
            ],
        },
        "quad": {"params": ["b"], "items": [{"text": "["}, {"corners": "b"}, {"text": "]"}]},
        "user": {"params": ["b"], "items": [{"slot": "b"}]},
        "assistant": {"params": ["b"], "items": [{"loss": [{"slot": "b"}, {"text": "\n"}]}]},
    },
}
SIZE = (640, 480)
PICTURE = Medium("image", {"merger": 4}, SIZE)
BOX = Box((64.0, 48.0, 320.0, 240.0))
QUAD = Quad((0.0, 0.0, 320.0, 0.0, 320.0, 240.0, 0.0, 240.0))


def written(*parts):
    """An answer about the picture, as text."""
    runs = Layout("find", LAYOUT).render([Message("user", (PICTURE,)), Message("assistant", parts)])
    tags = {7: "<box>", 8: "</box>"}
    return "".join(
        run.text if isinstance(run, Text) else tags.get(run.id, "") for run in runs
    ).removesuffix("\n")


def test_places_are_written_in_thousandths_of_their_picture():
    assert written(Ref("a dog"), BOX) == "<ref>a dog</ref><box>(100,100),(500,500)</box>"
    assert written(QUAD) == "[(0,0),(500,0),(500,500),(0,500)]"


def test_what_was_written_is_read_back():
    reader = PlaceReader(LAYOUT, TAGS)
    parts = (Ref("a dog"), BOX, BOX, " and ", Ref("a sign"), QUAD, ".")
    assert reader.read(written(*parts), SIZE) == parts
    assert reader.ids == {7, 8}


@pytest.mark.parametrize(
    "text", ["", "no box", "<box>(1,2)</box>", "<box>(a,b),(c,d)</box>", "<ref>never closed"]
)
def test_what_is_no_place_stays_text(text):
    assert PlaceReader(LAYOUT, TAGS).read(text, SIZE) == ((text,) if text else ())


def test_a_tag_that_stood_in_the_prompt_is_not_missed():
    assert PlaceReader(LAYOUT, TAGS).read("(100,100),(500,500)</box>", SIZE) == (BOX,)


@pytest.mark.parametrize("back", [999, 1000])
@pytest.mark.parametrize("rounding", ["down", "nearest"])
def test_the_way_there_and_back_moves_a_corner_by_a_thousandth_at_most(back, rounding):
    rule = Thousandths(back, rounding)
    for place in range(0, 641, 7):
        text = rule.written((place, 0), SIZE)
        whole = int(text[1:].partition(",")[0])
        assert 0 <= whole <= 999
        assert abs(rule.read((whole, 0), SIZE)[0] - place) <= 2 * 640 / 1000


def test_a_box_without_a_picture_is_refused():
    with pytest.raises(LayoutError, match="a box lies in a picture"):
        Layout("find", LAYOUT).render([Message("user", (BOX,))])

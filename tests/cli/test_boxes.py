"""Boxes of an answer, in words and on the picture that they lie in."""

from __future__ import annotations

import click
import numpy as np
import pytest
from PIL import Image

from triptych.blocks.input.places import Box, Quad, Ref
from triptych.cli.boxes import COLOURS, Corners, draw_places, found, in_words

ANSWER = (Ref("a dog"), Box((10.0, 10.0, 40.0, 30.0)), " ", Quad((2.0, 2, 8, 2, 8, 8, 2, 8)))


@pytest.fixture
def picture(tmp_path):
    file = tmp_path / "white.png"
    Image.new("RGB", (60, 40), "white").save(file)
    return file


def test_places_have_the_name_that_stands_before_them(picture):
    def read(text, size):
        assert (text, size) == ("an answer", (60, 40))
        return ANSWER

    places = found(read, "an answer", picture)
    assert [in_words(*place) for place in places] == [
        "a dog: 10, 10, 40, 30",
        "a dog: 2, 2, 8, 2, 8, 8, 2, 8",
    ]
    assert in_words("", Box((1.4, 2, 3, 4))) == "something: 1, 2, 3, 4"


def test_places_are_outlined_on_the_picture(picture, tmp_path):
    file = tmp_path / "out.png"
    draw_places(picture, [("", ANSWER[1]), ("", ANSWER[3])], file)
    with Image.open(file) as drawn:
        pixels = np.array(drawn)
    assert [f"#{bytes(pixels[at]).hex()}" for at in ((10, 25), (8, 5))] == list(COLOURS[:2])
    assert (pixels[20, 25] == 255).all() and (pixels[35, 50] == 255).all()


def test_a_box_is_four_numbers():
    assert Corners().convert("1,2.5,3,4", None, None) == (1.0, 2.5, 3.0, 4.0)
    for wrong in ("1,2,3", "a,b,c,d", ""):
        with pytest.raises(click.BadParameter, match="is not four numbers"):
            Corners().convert(wrong, None, None)

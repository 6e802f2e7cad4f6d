"""What chance makes of a picture depends on the chance alone, and stays what it may be."""

from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from triptych.blocks.input.augment import augmented

CROP = {"call": "random_crop", "scale": (0.5, 1.0), "ratio": (0.75, 4 / 3)}
JPEG = {"call": "jpeg", "quality": {"low": 75, "high": 100, "step": 1}}


def picture(width=60, height=40):
    noise = np.random.default_rng(0).integers(0, 255, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(noise)


def drawn(call, seed, shown=None):
    return augmented(shown or picture(), [call], np.random.default_rng(seed))


def test_the_same_chance_gives_the_same_picture():
    for call in (CROP, JPEG):
        first, again, other = (np.array(drawn(call, seed)) for seed in (1, 1, 2))
        assert np.array_equal(first, again)
        assert first.shape != other.shape or not np.array_equal(first, other)


@pytest.mark.parametrize("seed", range(20))
def test_a_crop_keeps_to_its_share_and_its_shape(seed):
    width, height = drawn(CROP, seed, picture(600, 400)).size
    assert 0.49 < width * height / (600 * 400) <= 1
    assert 0.74 < width / height < 1.35


def test_a_picture_without_a_fitting_part_gives_its_middle():
    thin = Image.new("RGB", (400, 10))
    assert drawn(CROP, 0, thin).size == (13, 10)

"""Sizes and tokens against the tables of the Qwen2-VL fact sheet, and what holds for any size."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.blocks.input.sizes import ClipRule, Grid, SizeError, SizeRule

IMAGE = SizeRule(28, 4, 16384, patch=14, frames_per_patch=2, window=(2, 2), aspect=200)


def video(cap):
    clip = ClipRule(rate=2, least=4, most=768, step=2, cap=cap, slack=1.05)
    return SizeRule(28, 128, 768, patch=14, frames_per_patch=2, window=(2, 2), clip=clip)


@pytest.mark.parametrize(
    ("size", "resized", "grid", "tokens"),
    [
        ((224, 224), (224, 224), (1, 16, 16), 64),
        ((28, 28), (56, 56), (1, 4, 4), 4),
        ((100, 33), (112, 28), (1, 2, 8), 4),
        ((448, 448), (448, 448), (1, 32, 32), 256),
        ((640, 480), (644, 476), (1, 34, 46), 391),
        ((1280, 720), (1288, 728), (1, 52, 92), 1196),
        ((1920, 1080), (1932, 1092), (1, 78, 138), 2691),
        ((4032, 3024), (4032, 3024), (1, 216, 288), 15552),
        ((8192, 8192), (3584, 3584), (1, 256, 256), 16384),
        ((1000, 12), (532, 28), (1, 2, 38), 19),
    ],
)
def test_pictures_become_what_the_published_processor_makes_of_them(size, resized, grid, tokens):
    assert IMAGE.resized(*size) == resized
    assert IMAGE.image_grid(*size) == Grid(*grid)
    assert IMAGE.tokens(IMAGE.image_grid(*size)) == tokens


def test_a_smaller_budget_shrinks_by_the_original_sides():
    rule = SizeRule(28, 4, 1280, patch=14, window=(2, 2))
    assert rule.resized(1920, 1080) == (1316, 728)


@pytest.mark.parametrize(
    ("seconds", "size", "frames", "resized", "grid", "tokens", "tokens_of_the_helper"),
    [
        (10, (1280, 720), 20, (1008, 560), (10, 40, 72), 7200, 7200),
        (60, (1920, 1080), 120, (616, 336), (60, 24, 44), 15840, 23400),
        (122, (1280, 720), 244, (420, 224), (122, 16, 30), 14640, 21960),
        (1200, (1920, 1080), 768, (420, 224), (384, 16, 30), 46080, 46080),
    ],
)
def test_clips_become_what_the_published_helper_makes_of_them(
    seconds, size, frames, resized, grid, tokens, tokens_of_the_helper
):
    rule, helper = video(16384), video(24576)
    assert rule.clip.sampled(seconds * 25, 25) == frames
    assert rule.resized_frame(*size, frames) == resized
    assert rule.clip_grid(*size, frames) == Grid(*grid)
    assert rule.tokens(rule.clip_grid(*size, frames)) == tokens
    assert helper.tokens(helper.clip_grid(*size, frames)) == tokens_of_the_helper


@pytest.mark.parametrize(("frames", "rate", "sampled"), [(3, 25, 2), (25, 25, 4), (100, 30, 6)])
def test_short_clips_are_sampled_in_even_numbers(frames, rate, sampled):
    assert video(None).clip.sampled(frames, rate) == sampled


def test_a_clip_of_one_frame_is_refused():
    with pytest.raises(SizeError, match="a clip of 1 frames is too short: 2 are needed"):
        video(None).clip.sampled(1, 25)


def test_pictures_too_thin_or_empty_are_refused():
    with pytest.raises(SizeError, match=r"3000 x 12 pixels is too thin.*at most 200 times"):
        IMAGE.resized(3000, 12)
    with pytest.raises(SizeError, match="0 x 5 pixels is empty"):
        IMAGE.resized(0, 5)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 64), st.integers(65, 4096))
def test_any_size_becomes_a_multiple_within_the_budget(width, height, least, most):
    rule = SizeRule(28, least, most, patch=14, window=(2, 2))
    sides = rule.resized(width, height)
    assert all(side >= 28 and side % 28 == 0 for side in sides)
    tokens = rule.tokens(rule.image_grid(width, height))
    # One row of squares may outgrow the budget, since no side becomes nothing; and so may a picture
    # that is enlarged, since both sides are rounded up.
    assert tokens <= most or min(sides) == 28 or tokens <= least + sum(sides) // 28 + 1


def test_a_rule_survives_json():
    for rule in (IMAGE, video(16384)):
        assert SizeRule.from_json(json.loads(json.dumps(rule.to_json()))) == rule

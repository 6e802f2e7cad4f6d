"""Sizes and tokens against the tables and rules of the fact sheets, and what holds for any size."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.blocks.input.sizes import (
    ClipRule,
    Crop,
    Grid,
    Letterbox,
    Native,
    Padded,
    SizeError,
    SizeRule,
    Square,
    Tiles,
    grid_of,
)
from triptych.compiler import sizing
from triptych.compiler.types import bounds, evaluate

IMAGE = Native(28, 4, 16384, aspect=200)
CLIP = ClipRule(rate=2, least=4, most=768, step=2)
GREY = (127, 127, 127)


def video(cap):
    return Native(28, 128, 768, per_slot=2, cap=cap, slack=1.05)


def clip_grid(rule, size, frames):
    return grid_of(rule.resized_frame(*size, frames), 14, frames // 2)


def tokens_of(grid):
    return grid.merged((2, 2)).patches


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
    assert IMAGE.size(*size) == resized
    assert grid_of(resized, 14) == Grid(*grid)
    assert tokens_of(grid_of(resized, 14)) == tokens


def test_a_smaller_budget_shrinks_by_the_original_sides():
    rule = Native(28, 4, 1280)
    assert rule.size(1920, 1080) == (1316, 728)


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
    assert CLIP.sampled(seconds * 25, 25) == frames
    assert rule.resized_frame(*size, frames) == resized
    assert clip_grid(rule, size, frames) == Grid(*grid)
    assert tokens_of(clip_grid(rule, size, frames)) == tokens
    assert tokens_of(clip_grid(helper, size, frames)) == tokens_of_the_helper


@pytest.mark.parametrize(("frames", "rate", "sampled"), [(3, 25, 2), (25, 25, 4), (100, 30, 6)])
def test_short_clips_are_sampled_in_even_numbers(frames, rate, sampled):
    assert CLIP.sampled(frames, rate) == sampled


def test_a_clip_of_one_frame_is_refused():
    with pytest.raises(SizeError, match="a clip of 1 frames is too short: 2 are needed"):
        CLIP.sampled(1, 25)


def test_pictures_too_thin_or_empty_are_refused():
    with pytest.raises(SizeError, match=r"3000 x 12 pixels is too thin.*at most 200 times"):
        IMAGE.size(3000, 12)
    with pytest.raises(SizeError, match="0 x 5 pixels is empty"):
        IMAGE.size(0, 5)


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(0, 64), st.integers(65, 4096))
def test_any_size_becomes_a_multiple_within_the_budget(width, height, least, most):
    rule = Native(28, least, most)
    sides = rule.size(width, height)
    assert all(side >= 28 and side % 28 == 0 for side in sides)
    tokens = tokens_of(grid_of(sides, 14))
    # One row of squares may outgrow the budget, since no side becomes nothing; and so may a picture
    # that is enlarged, since both sides are rounded up.
    assert tokens <= most or min(sides) == 28 or tokens <= least + sum(sides) // 28 + 1


sides = st.integers(1, 5000)


def published_letterbox(width, height, side, least):
    """`VLMImageProcessor.resize` of DeepSeek-VL: height and width of the picture in the square."""
    longest = max(width, height)
    return [
        max(int(height / longest * side), least),
        max(int(width / longest * side), least),
    ]


@given(sides, sides, st.sampled_from([(1024, 14), (384, 14), (24, 14), (64, 1)]))
def test_a_letterbox_cuts_off_and_does_not_round(width, height, limits):
    side, least = limits
    rule = Letterbox(side, GREY, least)
    high, wide = published_letterbox(width, height, side, least)
    assert rule.inner(width, height) == (wide, high)
    assert rule.size(width, height) == (side, side) and rule.pictures(width, height) == 1
    left, top = rule.offset(width, height)
    assert min(left, top) == 0 and left == (side - wide) // 2 and top == (side - high) // 2


def published_tiling(width, height, side, limits):
    """`dynamic_preprocess` of InternVL 1.5, written out: columns and rows of the tiles."""
    shape, (least, most) = width / height, limits
    grids = {
        (i, j)
        for n in range(least, most + 1)
        for i in range(1, n + 1)
        for j in range(1, n + 1)
        if least <= i * j <= most
    }
    nearest, best = float("inf"), (1, 1)
    for grid in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(shape - grid[0] / grid[1])
        if distance < nearest:
            nearest, best = distance, grid
        elif distance == nearest and width * height > 0.5 * side * side * grid[0] * grid[1]:
            best = grid
    return best


@given(sides, sides, st.sampled_from([(1, 12), (1, 6), (1, 40), (2, 12), (4, 6)]))
def test_tiles_are_those_of_the_published_rule(width, height, limits):
    low, high = limits
    rule = Tiles(448, low, high)
    columns, rows = published_tiling(width, height, 448, limits)
    assert rule.tiling(width, height) == (columns, rows)
    tiles = columns * rows
    assert rule.pictures(width, height) == (tiles + 1 if tiles > 1 else 1)
    assert Tiles(448, low, high, thumbnail=False).pictures(width, height) == tiles
    counted = sizing.tiles(width, height, low=low, high=high, side=448)
    number = evaluate(counted, {})
    assert number == rule.pictures(width, height)
    limit = bounds(counted, {})
    assert limit.most and limit.least <= number <= limit.most


@pytest.mark.parametrize(
    ("size", "tiling"),
    [
        ((633, 633), (1, 1)),
        ((634, 634), (2, 2)),
        ((1920, 1080), (4, 2)),
        ((700, 800), (2, 2)),
        ((1400, 1600), (3, 4)),
    ],
)
def test_of_equally_near_grids_the_larger_is_for_pictures_that_fill_half_of_it(size, tiling):
    assert Tiles(448, 1, 12).tiling(*size) == tiling


@given(sides, sides)
def test_a_square_becomes_one_whatever_its_shape_was(width, height):
    for rule in (Square(448), Padded(448, GREY), Crop(448)):
        assert rule.size(width, height) == (448, 448) and rule.pictures(width, height) == 1


def framed(rule, width, height):
    box = rule.framed(width, height)
    assert box is not None
    return box


@given(sides, sides)
def test_what_is_seen_says_where_the_picture_lies_in_it(width, height):
    left, top, right, bottom = framed(Letterbox(384, GREY), width, height)
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    left, top, right, bottom = framed(Padded(384, GREY), width, height)
    assert 0 <= left < right <= 1 and 0 <= top < bottom <= 1
    left, top, right, bottom = framed(Crop(384), width, height)
    assert left <= 0 < 1 <= right and top <= 0 < 1 <= bottom
    assert (Tiles(448, 1, 12).framed(width, height) is None) == (
        Tiles(448, 1, 12).pictures(width, height) > 1
    )


@pytest.mark.parametrize(
    "rule",
    [
        IMAGE,
        video(16384),
        Square(448),
        Crop(224, aspect=3),
        Letterbox(1024, GREY, 14),
        Padded(336, GREY),
        Tiles(448, 1, 40, thumbnail=False),
    ],
    ids=lambda rule: rule.call,
)
def test_a_rule_survives_json(rule):
    assert SizeRule.from_json(json.loads(json.dumps(rule.to_json()))) == rule


def test_every_rule_refuses_what_is_too_thin_or_empty():
    for rule in (Square(8, 2), Crop(8, 2), Letterbox(8, GREY, 1, 2), Padded(8, GREY, 2)):
        assert rule.size(4, 2) == (8, 8)
        with pytest.raises(SizeError, match="too thin"):
            rule.size(5, 2)
    with pytest.raises(SizeError, match="too thin"):
        Tiles(8, 1, 2, aspect=2).pictures(5, 2)
    with pytest.raises(SizeError, match="is empty"):
        Tiles(8, 1, 2).pictures(0, 2)

"""Positions against the worked examples of the Qwen2-VL fact sheet."""

from __future__ import annotations

import pytest
import torch

from triptych.blocks.input.positions import (
    TextPositions,
    mrope_index,
    patch_tables,
    plain_index,
    segment_ids,
)
from triptych.blocks.input.sizes import Grid


def numbers(text):
    return [int(number) for number in text.replace("|", " ").split()]


@pytest.mark.parametrize(
    ("places", "time", "rows", "columns", "delta"),
    [
        ([], "0 1 2 3 4", "0 1 2 3 4", "0 1 2 3 4", 0),
        (
            [(4, Grid(1, 2, 3))],
            "0 1 2 3 | 4 4 4 4 4 4 | 7 8 9",
            "0 1 2 3 | 4 4 4 5 5 5 | 7 8 9",
            "0 1 2 3 | 4 5 6 4 5 6 | 7 8 9",
            -3,
        ),
        (
            [(2, Grid(3, 1, 2))],
            "0 1 | 2 2 3 3 4 4 | 5 6 7",
            "0 1 | 2 2 2 2 2 2 | 5 6 7",
            "0 1 | 2 3 2 3 2 3 | 5 6 7",
            -3,
        ),
        (
            [(2, Grid(1, 1, 2)), (6, Grid(1, 3, 1))],
            "0 1 | 2 2 | 4 5 | 6 6 6 | 9 10",
            "0 1 | 2 2 | 4 5 | 6 7 8 | 9 10",
            "0 1 | 2 3 | 4 5 | 6 6 6 | 9 10",
            0,
        ),
        (
            # More slots than rows or columns: text goes on above the time axis.
            [(1, Grid(4, 1, 2))],
            "0 | 1 1 2 2 3 3 4 4 | 5",
            "0 | 1 1 1 1 1 1 1 1 | 5",
            "0 | 1 2 1 2 1 2 1 2 | 5",
            -4,
        ),
    ],
)
def test_text_counts_on_and_features_count_along_their_axes(places, time, rows, columns, delta):
    expected = torch.tensor([numbers(time), numbers(rows), numbers(columns)])
    index, ahead = mrope_index(expected.shape[1], tuple(places))
    assert torch.equal(index, expected)
    assert ahead == delta


def test_plain_positions_do_not_look_at_features():
    index, delta = plain_index(6, ((2, Grid(1, 2, 1)),))
    assert index.tolist() == [[0, 1, 2, 3, 4, 5]] and delta == 0


def test_equal_streams_are_plain_rotary_positions():
    mrope = TextPositions({"call": "mrope", "sections": [2, 3, 3], "head_dim": 16, "theta": 1e4})
    rope = TextPositions({"call": "rope", "sections": None, "head_dim": 16, "theta": 1e4})
    position = torch.arange(7)[None, None]
    for three, one in zip(
        mrope.tables(position.expand(3, -1, -1)), rope.tables(position), strict=True
    ):
        assert torch.equal(three, one)


def test_a_frame_slot_is_a_segment_of_its_own():
    ids = segment_ids([Grid(1, 2, 2), Grid(2, 2, 4)])
    assert ids.tolist() == [0] * 4 + [1] * 8 + [2] * 8


def test_patches_turn_with_their_row_and_column_in_packed_order():
    width, theta = 8, 100.0
    cos, sin = patch_tables([Grid(2, 2, 4)], (2, 2), theta, width)
    row = torch.tensor([0, 0, 1, 1, 0, 0, 1, 1] * 2)
    column = torch.tensor([0, 1, 0, 1, 2, 3, 2, 3] * 2)
    slow = theta**-0.5
    half = torch.stack([row, row * slow, column, column * slow], dim=1)
    assert torch.allclose(cos, torch.cat((half, half), 1).cos())
    assert torch.allclose(sin, torch.cat((half, half), 1).sin())

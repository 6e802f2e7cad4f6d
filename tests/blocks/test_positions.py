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


def text(scaling=None, query_scale=None, width=16):
    spec = {"call": "rope", "sections": None, "head_dim": width, "theta": 1e4}
    return TextPositions({**spec, "scaling": scaling, "query_scale": query_scale})


def turned(rule, length, width=16):
    """How far each pair of a head turns from place 0 to place 1 in a sequence of this length."""
    cos, sin = text(rule, width=width).tables(torch.ones(1, 1, 1), torch.tensor([[length]]))
    return torch.atan2(sin, cos)[0, 0, : width // 2]


PLAIN = turned(None, 1)


@pytest.mark.parametrize(("length", "alpha"), [(5, 1), (8, 1), (9, 3), (16, 3), (17, 7), (33, 15)])
def test_the_base_grows_with_each_doubling_of_a_prompt(length, alpha):
    """The steps of the Qwen-VL fact sheet, for 8 in place of 2048."""
    wanted = PLAIN * alpha ** -(torch.arange(0, 16, 2) / 14)
    assert torch.allclose(turned({"call": "ntk", "from": 8}, length), wanted)


def test_the_base_grows_with_what_a_sequence_is_longer():
    rule = {"call": "dynamic", "factor": 3.0, "from": 8}
    assert torch.equal(turned(rule, 8), PLAIN)
    assert torch.allclose(turned(rule, 12), PLAIN * 2.5 ** -(torch.arange(0, 16, 2) / 14))


def test_each_frequency_may_have_its_own_factor():
    short, long = [1.0] * 8, [float(2 + i) for i in range(8)]
    rule = {"call": "su", "short": short, "long": long, "from": 8, "to": 64}
    assert torch.allclose(turned(rule, 8), PLAIN)
    assert torch.allclose(turned(rule, 9), PLAIN / torch.tensor(long))
    cos, sin = text(rule).tables(torch.ones(1, 1, 1), torch.tensor([[9]]))
    assert torch.allclose(cos**2 + sin**2, torch.tensor(2.0))  # 1 + ln(64 / 8) / ln(8)


def test_rows_of_one_batch_turn_by_their_own_lengths():
    rule = {"call": "ntk", "from": 8}
    position = torch.arange(3).repeat(1, 2, 1)
    cos, _ = text(rule).tables(position, torch.tensor([[5, 5, 5], [40, 40, 40]]))
    for row, length in enumerate((5, 40)):
        one, _ = text(rule).tables(position[:, :1], torch.full((1, 3), length))
        assert torch.equal(cos[row], one[0])


def test_the_narrowest_head_has_no_frequency_to_scale():
    rules = ({"call": "ntk", "from": 8}, {"call": "dynamic", "factor": 2.0, "from": 8})
    assert all(torch.allclose(turned(rule, 100, width=2), torch.ones(1)) for rule in rules)


def test_what_is_kept_of_a_prompt():
    prompt, now = torch.tensor([4]), torch.tensor([9])
    assert text({"call": "ntk", "from": 8}).length(prompt, now) is prompt
    assert text({"call": "dynamic", "factor": 2.0, "from": 8}).length(prompt, now) is now


def test_queries_far_behind_are_scaled():
    scale = text(query_scale={"call": "logn", "from": 8}).query_scale(torch.arange(64)[None])
    assert scale[0, :8].eq(1).all() and scale[0, 63] == 2.0  # ln 64 / ln 8
    assert text().query_scale(torch.arange(4)[None]) is None


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

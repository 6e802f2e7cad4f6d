"""Learned queries that look at pictures: Q-Former and resampler."""

from __future__ import annotations

import pytest
import torch

from triptych.blocks.adapter.qformer import QFormer
from triptych.blocks.adapter.resampler import Resampler, sines


@pytest.fixture
def qformer():
    return started(QFormer(3, 4, 8, 6, 2, 16, "gelu", "layernorm", 1e-12, 2))


def started(module):
    """All parameters drawn; those that ought to be learnt elsewhere too."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_(std=0.5)
    return module


def test_the_first_of_every_two_blocks_looks_at_the_picture(qformer):
    assert [block.crosses for block in qformer.blocks] == [True, False, True, False]


def test_a_masked_token_is_not_seen(qformer):
    seen = torch.randn(2, 5, 6)
    mask = torch.ones(2, 5, dtype=torch.bool)
    mask[1, 3:] = False
    other = seen.clone()
    other[1, 3:] += 1.0
    assert torch.equal(qformer(seen, mask), qformer(other, mask))
    assert not torch.allclose(qformer(seen), qformer(other))


def test_a_block_that_runs_again_has_the_same_gradients(qformer):
    seen = torch.randn(2, 5, 6)
    grads = []
    for again in (False, True):
        for block in qformer.blocks:
            block.checkpoint = again
        grads.append(torch.autograd.grad(qformer(seen).sum(), [*qformer.parameters()]))
    for one, other in zip(*grads, strict=True):
        torch.testing.assert_close(one, other)


def test_sines_tell_the_column_first_and_then_the_row():
    (table,) = sines(2, 3, 8)
    row, column = 1, 2
    angles = torch.tensor([column, column / 100, row, row / 100], dtype=torch.float64)
    expected = torch.cat(
        [angles[:2].sin(), angles[:2].cos(), angles[2:].sin(), angles[2:].cos()]
    ).float()
    torch.testing.assert_close(table[row * 3 + column], expected)


def test_values_have_no_places():
    resampler = started(Resampler((2, 2), (3, 4), 6, 8, 2, 10, "layernorm", 1e-6))
    picture = torch.randn(1, 1, 6).expand(1, 12, 6)  # all patches alike, wherever they are
    out = resampler(picture)
    assert out.shape == (1, 4, 10)
    torch.testing.assert_close(out, out[:, :1].expand_as(out))


def test_the_order_of_patches_counts():
    resampler = started(Resampler((2, 2), (3, 4), 6, 8, 2, 10, "layernorm", 1e-6))
    picture = torch.randn(1, 12, 6)
    assert not torch.allclose(resampler(picture), resampler(picture.flip(1)), atol=1e-3)

"""The towers' blocks: what their forms have in common, and what each leaves alone."""

from __future__ import annotations

import pytest
import torch

from triptych.blocks.adapter.pixel_shuffle import pixel_shuffle
from triptych.blocks.adapter.sam_neck import SamNeck
from triptych.blocks.operators import lowering, map_attention, picture_attention
from triptych.blocks.vision.encoder import VisionBlocks
from triptych.blocks.vision.positions import Positions
from triptych.blocks.vision.sam import SamBlocks


def started(module):
    torch.manual_seed(0)
    for parameter in module.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return module


def tower(**options):
    return started(VisionBlocks(3, 8, 2, 16, "gelu", "layernorm", 1e-6, True, **options))


def sam(grid, attend_all):
    sizes = {"grid": grid, "window": 3, "attend_all": attend_all}
    return started(SamBlocks(3, 8, 2, 16, "gelu", "layernorm", 1e-6, qkv_bias=True, **sizes))


def in_both_orders(attention, *sizes):
    """What it yields and the gradients of its inputs, in our order and in the published one."""
    torch.manual_seed(0)
    inputs = [torch.randn(size, requires_grad=True) for size in sizes]
    for published in (False, True):
        with lowering(published=published):
            out = attention(*inputs)
        yield (out, *torch.autograd.grad(out.square().sum(), inputs))


@pytest.mark.parametrize(
    ("attention", "sizes"),
    [
        (picture_attention, [(2, 6, 2, 4)] * 3),
        (map_attention, [(2, 2, 6, 4)] * 3 + [(3, 3, 4), (2, 2, 4)]),
    ],
)
def test_attention_is_the_same_in_both_orders(attention, sizes):
    for one, other in zip(*in_both_orders(attention, *sizes), strict=True):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_packed_picture_is_seen_as_it_is_alone():
    blocks, pictures = tower(), torch.randn(3, 5, 8)
    ids = torch.arange(3).repeat_interleave(5)
    packed = blocks(pictures.flatten(0, 1), ids).unflatten(0, (3, 5))
    assert torch.allclose(packed, blocks(pictures), atol=1e-5)


@pytest.mark.parametrize("qk_norm", [None, "rmsnorm"])
@pytest.mark.parametrize("k_bias", [True, False])
def test_taps_are_what_shorter_towers_yield(qk_norm, k_bias):
    x, options = torch.randn(2, 5, 8), {"qk_norm": qk_norm, "k_bias": k_bias, "layer_scale": True}
    whole, tapped = tower(**options), tower(taps=(0, 2), **options)
    tapped.load_state_dict(whole.state_dict())
    assert torch.equal(tapped(x)[1], whole(x))
    assert torch.equal(tapped(x)[0], whole[0](x))


def test_blocks_behind_the_last_tap_do_not_run():
    blocks = tower(taps=(1,))
    blocks[2] = None
    assert blocks(torch.randn(2, 5, 8)).shape == (1, 2, 5, 8)


def test_a_window_sees_nothing_of_another():
    blocks = sam((6, 6), attend_all=())
    x = torch.randn(1, 6, 6, 8, requires_grad=True)
    found = blocks(x.flatten(1, 2)).unflatten(1, (6, 6))
    (grad,) = torch.autograd.grad(found[:, :3, :3].sum(), x)
    assert grad[:, :3, :3].ne(0).all()
    assert grad[:, 3:].eq(0).all() and grad[:, :, 3:].eq(0).all()


def test_a_map_keeps_its_sides_where_windows_do_not_tile_it():
    assert sam((5, 4), attend_all=(1,))(torch.randn(2, 20, 8)).shape == (2, 20, 8)


def test_positions_of_the_table_are_taken_as_they_are():
    positions = started(Positions(4, (3, 3), (3, 3), True))
    x = torch.zeros(2, 9, 4)
    found = positions(x)
    assert torch.equal(found[0, 1:], positions.table[0, 1:])
    assert torch.equal(found[1, :1], positions.table[0, :1] + positions.class_token[0])


def test_a_resized_table_keeps_the_row_of_the_class_token():
    positions = started(Positions(4, (3, 3), (2, 5), True))
    positions.class_token.data.zero_()
    found = positions(torch.zeros(1, 10, 4))
    assert found.shape == (1, 11, 4)
    assert torch.equal(found[0, 0], positions.table[0, 0])


def test_pixel_shuffle_joins_windows_row_by_row():
    x = torch.arange(16).view(1, 16, 1)
    joined = pixel_shuffle(x, (4, 4), 2)
    assert joined.tolist() == [[[0, 1, 4, 5], [2, 3, 6, 7], [8, 9, 12, 13], [10, 11, 14, 15]]]


def test_a_closed_gate_shuts_out_the_second_map():
    neck = started(SamNeck(2, 8, (5, 5), 4, "layernorm", 1e-6, (8, 8), (6, 5)))
    first, second = torch.randn(2, 2, 25, 8).unbind()
    neck.gate.data.zero_()
    closed = neck(first, second)
    assert closed.shape == (2, 4, 5)
    assert torch.equal(closed, neck(first, torch.randn_like(second)))
    neck.gate.data.fill_(0.5)
    assert not torch.equal(closed, neck(first, second))

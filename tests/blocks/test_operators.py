"""Each form of an operation computes the same, forward and backward."""

from __future__ import annotations

import pytest
import torch

from triptych.blocks import operators
from triptych.blocks.operators import (
    attend,
    kv_update,
    linear,
    linear_int4,
    linear_int8,
    lowering,
    masked_segments,
    segment_attention,
)
from triptych.blocks.vision.patches import PatchEmbed

LENGTHS = [[5, 5, 3, 1, 4, 4], [7], [2, 2, 2]]


def segments(lengths):
    torch.manual_seed(0)
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    q, k, v, grad = (torch.randn(len(ids), 2, 8) for _ in range(4))
    return [x.requires_grad_(True) for x in (q, k, v)], grad, ids


def results(lengths, **forms):
    """What attention yields, and the gradients of its inputs."""
    (q, k, v), grad, ids = segments(lengths)
    with lowering(**forms):
        out = segment_attention(q, k, v, ids)
    return out, *torch.autograd.grad(out, (q, k, v), grad)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_segment_attention_is_the_same_in_every_form(lengths):
    for one, other in zip(results(lengths), results(lengths, published=True), strict=True):
        assert torch.allclose(one, other, atol=2e-6)
    (q, k, v), _, ids = segments(lengths)
    assert torch.allclose(masked_segments(q, k, v, ids), results(lengths)[0], atol=2e-6)


def test_its_backward_is_the_same_slice_by_slice(monkeypatch):
    whole = results([6, 6, 5])
    monkeypatch.setattr(operators, "QUERY_SLICE", 2)
    for one, other in zip(whole, results([6, 6, 5]), strict=True):
        assert torch.allclose(one, other, atol=2e-6)


def test_patches_see_nothing_outside_their_segment():
    (q, k, v), _, ids = segments([3, 4])
    out = segment_attention(q, k, v, ids)
    (grad,) = torch.autograd.grad(out[:3].sum(), v)
    assert grad[3:].eq(0).all() and grad[:3].ne(0).any()


def test_the_operators_keep_torchs_promises():
    (q, k, v), _, ids = segments([3, 4])
    torch.library.opcheck(torch.ops.triptych.segment_attention, (q, k, v, ids))
    cache, new = torch.zeros(2, 1, 6, 4), torch.randn(2, 1, 2, 4)
    torch.library.opcheck(torch.ops.triptych.kv_update, (cache, new, torch.tensor([0, 3])))
    x, weight, bias = torch.randn(1, 1, 4), torch.randn(3, 4), torch.randn(3)
    torch.library.opcheck(torch.ops.triptych.linear, (x, weight, bias))
    torch.library.opcheck(torch.ops.triptych.linear, (x[0], weight, None))


@pytest.mark.parametrize("form", ["operator", "indexed"])
def test_kv_update_writes_each_row_at_its_own_slot(form):
    cache, new = torch.zeros(2, 1, 5, 1), torch.tensor([1.0, 2.0, 3.0, 4.0]).view(2, 1, 2, 1)
    with lowering(kv_update=form):
        kv_update(cache, new, torch.tensor([0, 3]))
    assert cache.view(2, 5).tolist() == [[1, 2, 0, 0, 0], [0, 0, 0, 3, 4]]


@pytest.mark.parametrize(
    ("form", "dtype", "nodes"),
    [("operator", torch.bfloat16, 1), ("operator", torch.float32, 0), ("torch", torch.bfloat16, 0)],
)
def test_matrices_are_streamed_where_asked_and_where_it_pays(form, dtype, nodes):
    class Layer(torch.nn.Module):
        def forward(self, x, weight):
            return linear(x, weight)

    shapes = (torch.zeros(1, 4, dtype=dtype), torch.zeros(3, 4, dtype=dtype))
    with lowering(linear=form):
        graph = torch.export.export(Layer(), shapes).graph
    assert [str(node.target) for node in graph.nodes].count("triptych.linear.default") == nodes


@pytest.mark.parametrize(("group", "nodes"), [(32, 2), (2, 1)])
def test_few_bits_are_streamed_where_the_kernel_knows_the_groups(group, nodes):
    class Layers(torch.nn.Module):
        def forward(self, x, eight, packed, scale, zero):
            return linear_int8(x, eight, scale[:, 0]), linear_int4(x, packed, scale, zero)

    eight = torch.zeros(3, 64, dtype=torch.int8)
    packed, zero = torch.zeros(3, 32, dtype=torch.uint8), torch.zeros(3, 64 // group).byte()
    given = (torch.zeros(1, 64), eight, packed, torch.ones(3, 64 // group), zero)
    with lowering(few_bits="operator"):
        graph = torch.export.export(Layers(), given).graph
    assert sum("triptych.linear_int" in str(node.target) for node in graph.nodes) == nodes
    with lowering(few_bits="torch"):
        graph = torch.export.export(Layers(), given).graph
    assert not any("triptych" in str(node.target) for node in graph.nodes)


@pytest.mark.parametrize("queries", [1, 3])
def test_attend_shares_key_value_heads_among_neighbouring_queries(queries):
    torch.manual_seed(0)
    q, k, v = torch.randn(2, 6, queries, 4), torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 4)
    mask = torch.rand(2, queries, 5) > 0.4
    mask[..., 0] = True
    expected = torch.nn.functional.scaled_dot_product_attention(
        q, k.repeat_interleave(2, 1), v.repeat_interleave(2, 1), attn_mask=mask[:, None]
    )
    assert torch.allclose(attend(q, k, v, mask), expected, atol=1e-6)
    with lowering(published=True):
        assert torch.allclose(attend(q, k, v, mask), expected, atol=1e-6)


def test_forms_end_with_their_context():
    with lowering(kv_update="indexed"), lowering(beside="fused"):
        assert operators._forms == operators.Forms("indexed", beside="fused")
    assert operators._forms == operators.Forms()


def test_one_frame_that_stands_for_all_embeds_as_all_of_them():
    torch.manual_seed(0)
    embed = PatchEmbed(channels=3, frames=2, patch=4, width=8, bias=True)
    for parameter in embed.parameters():
        torch.nn.init.normal_(parameter)
    frame = torch.randn(5, 3, 1, 4, 4)
    folded, whole = frame.flatten(1), frame.expand(-1, -1, 2, -1, -1).flatten(1)
    assert torch.allclose(embed(folded), embed(whole), atol=1e-5)
    with lowering(published=True):
        assert torch.allclose(embed(folded), embed(whole), atol=1e-5)

"""A token sees its own segment up to itself: what a mask says, in memory that grows with a row."""

from __future__ import annotations

import random

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager
from torch.autograd.graph import saved_tensors_hooks

from triptych.blocks import causal
from triptych.blocks.causal import causal_attention, kernel_for, segment_mask, segments_apart
from triptych.blocks.language.decoder import DecoderBlocks
from triptych.blocks.operators import attend, in_segments, lowering
from triptych.blocks.spans import attended

ops = torch.ops.triptych
NEAR = {torch.float32: 4e-6, torch.bfloat16: 4e-2}
"""How far off what is found and its gradients may be, as a share of 1 and the largest number."""


def cut(rows, length, chance, padded):
    """Ids of segments as rows are packed: 1, 2, ... and at last 0, where it is padded."""
    ids = []
    for _ in range(rows):
        ends = sorted(chance.sample(range(1, length), chance.randrange(min(5, length))))
        counts = [end - begin for begin, end in zip([0, *ends], [*ends, length], strict=True)]
        names = [*range(1, len(counts) + 1)]
        if padded:
            names[-1] = 0
        ids.append(torch.repeat_interleave(torch.tensor(names), torch.tensor(counts)))
    return torch.stack(ids)


def numbers(*sizes, dtype=torch.float32, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes, generator=generator).to(dtype).requires_grad_()


def both(attention, q, k, v, grad):
    """What is found, and the gradients."""
    out = attention(q, k, v)
    return out, *torch.autograd.grad(out, (q, k, v), grad.to(out))


def by_mask(ids, *given):
    """The same in float64, under a mask."""
    mask = segment_mask(ids)
    wide = [x.detach().double().requires_grad_() for x in given]
    return both(lambda q, k, v: attended(q, k, v, mask, products=False), *wide)


@pytest.mark.parametrize("kernel", ["flash", "slices"])
@pytest.mark.parametrize("dtype", NEAR)
@pytest.mark.parametrize("shared", [1, 2, 6])
def test_it_is_attention_under_a_mask(kernel, dtype, shared, monkeypatch):
    monkeypatch.setattr(causal, "kernel_for", lambda *given: (kernel, ""))
    monkeypatch.setattr(causal, "QUERY_SLICE", 5)
    chance = random.Random(shared)
    for rows, length, padded in ((1, 1, False), (1, 40, False), (3, 17, True), (2, 70, True)):
        ids = cut(rows, length, chance, padded)
        q, grad = (numbers(rows, length, 6, 8, dtype=dtype, seed=seed) for seed in (0, 3))
        k, v = (numbers(rows, length, shared, 8, dtype=dtype, seed=seed) for seed in (1, 2))
        given = [x.transpose(1, 2) for x in (q, k, v, grad)]
        told = segments_apart(ids)
        ours = both(lambda q, k, v, told=told: causal_attention(q, k, v, told), *given)
        for found, wanted in zip(ours, by_mask(ids, *given), strict=True):
            assert found.dtype == dtype and found.shape == wanted.shape
            assert (found - wanted).abs().max() <= NEAR[dtype] * (1 + wanted.abs().max())


@pytest.mark.parametrize("kernel", ["flash", "slices"])
def test_tensors_may_lie_in_any_way(kernel, monkeypatch):
    monkeypatch.setattr(causal, "kernel_for", lambda *given: (kernel, ""))
    ids = cut(2, 17, random.Random(0), True)
    told = segments_apart(ids)
    given = [numbers(2, heads, 17, 8, seed=heads) for heads in (4, 2, 2, 4)]
    apart = [torch.stack((x, x), dim=-1)[..., 0].detach().requires_grad_() for x in given]
    turned = [x.detach().mT.contiguous().mT.requires_grad_() for x in given]
    wanted, *others = (
        both(lambda q, k, v: causal_attention(q, k, v, told), *each)
        for each in (given, apart, turned)
    )
    for found in others:
        assert all(map(torch.equal, found, wanted))


def test_no_sample_sees_another():
    ids = torch.tensor([[1, 1, 1, 2, 2, 0], [1, 2, 3, 3, 3, 3]])
    q, k, v = (numbers(2, 2, 6, 8, seed=seed) for seed in range(3))
    out = attend(q, k, v, in_segments(ids))
    for row in range(2):
        for token in range(6):
            (grad,) = torch.autograd.grad(out[row, :, token].sum(), v, retain_graph=True)
            reached = grad.abs().sum((1, 3)).nonzero().tolist()
            own = [at for at in range(token + 1) if ids[row, at] == ids[row, token]]
            assert reached == [[row, at] for at in own]


def test_as_published_it_is_products_under_a_mask():
    ids = torch.tensor([[1, 1, 2, 2, 2, 0]])
    q, k, v = (numbers(1, 2, 6, 8, seed=seed) for seed in range(3))
    with lowering(published=True):
        told = in_segments(ids)
        assert torch.equal(told, segment_mask(ids))
        published = attend(q, k, v, told)
    assert torch.allclose(published, attend(q, k, v, in_segments(ids)), atol=2e-6)


@pytest.mark.parametrize(
    ("device", "dtype", "width", "capability", "kernel", "says"),
    [
        ("cpu", torch.float32, 7, (0, 0), "flash", ""),
        ("cpu", torch.bfloat16, 128, (0, 0), "flash", ""),
        ("cuda", torch.bfloat16, 128, (9, 0), "varlen", ""),
        ("cuda", torch.float16, 64, (8, 0), "varlen", ""),
        ("cuda", torch.float32, 128, (9, 0), "slices", "this is float32"),
        ("cuda", torch.bfloat16, 12, (9, 0), "slices", "12 wide"),
        ("cuda", torch.bfloat16, 256, (9, 0), "slices", "256 wide"),
        ("cuda", torch.bfloat16, 128, (7, 5), "slices", "older than"),
        ("mps", torch.bfloat16, 128, (0, 0), "slices", "no mps"),
    ],
)
def test_what_computes_it_where(device, dtype, width, capability, kernel, says):
    chosen, why = kernel_for(device, dtype, width, capability)
    assert chosen == kernel and says in why and bool(why) == bool(says)


def test_attention_over_several_lengths_takes_what_it_is_given():
    """Its shapes alone, as there is no GPU: the code that would run is torch's."""
    ids = segments_apart(torch.tensor([[1, 1, 2, 2, 2, 0], [1, 2, 3, 3, 3, 3]]))
    bound, longest = causal._bounds(ids, torch.device("cpu"))
    assert (bound.tolist(), bound.dtype, longest) == ([0, 2, 5, 6, 7, 8, 12], torch.int32, 4)
    q = torch.empty(12, 4, 16, dtype=torch.bfloat16, device="meta")
    k = v = torch.empty(12, 2, 16, dtype=torch.bfloat16, device="meta")
    out, logsumexp = causal.varlen(q, k, v, ids)
    assert (out.shape, logsumexp.shape, logsumexp.dtype) == (q.shape, (12, 4), torch.float32)
    back = causal.varlen_back(out, q, k, v, out, logsumexp, ids)
    assert [x.shape for x in back] == [q.shape, k.shape, v.shape]


def test_the_operators_keep_torchs_promises():
    ids = segments_apart(torch.tensor([[1, 1, 2, 0], [1, 1, 1, 1]]))
    q, k, v = numbers(8, 4, 8), numbers(8, 2, 8), numbers(8, 2, 8)
    torch.library.opcheck(ops.causal_attention.default, (q, k, v, ids))
    out, logsumexp = (x.detach() for x in ops.causal_attention(q, k, v, ids))
    given = [x.detach() for x in (q, q, k, v)]
    torch.library.opcheck(ops.causal_attention_backward.default, (*given, out, logsumexp, ids))


def blocks(depth=2):
    made = DecoderBlocks(depth, 32, 4, 2, 8, 64, "silu", "rmsnorm", 1e-6, qkv_bias=True)
    for number, parameter in enumerate(made.parameters()):
        parameter.data = numbers(*parameter.shape, seed=number).detach() * 0.1
    return made


def fed(rows, length):
    return numbers(rows, length, 32), *(numbers(rows, length, 8, seed=n).detach() for n in (1, 2))


@pytest.mark.parametrize("again", [False, True])
def test_what_is_kept_grows_with_the_tokens(again):
    made = blocks()
    for block in made:
        block.checkpoint = again

    def kept(length):
        found = dict[int, int]()

        def keep(tensor):
            found[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        ids = torch.repeat_interleave(torch.arange(1, 5), length // 4)[None]
        with saved_tensors_hooks(keep, lambda tensor: tensor):
            out = made(*fed(1, length), in_segments(ids))
        assert out.requires_grad
        return sum(found.values()), max(found.values())

    weights = sum(parameter.nbytes for parameter in made.parameters())
    (some, _), (more, largest) = kept(256), kept(1024)
    assert largest < 1024 * 1024
    assert more - weights <= 4.1 * some


def test_another_cutting_is_no_other_graph():
    made, chance = blocks(1), random.Random(0)
    graphs = []

    def counted(graph, example):
        graphs.append(graph)
        seen = [node.meta.get("example_value") for node in graph.graph.nodes]
        for held in (x for x in seen if isinstance(x, torch.Tensor)):
            free = [str(size) for size in held.shape if not isinstance(size, int)]
            assert len(free) == len(set(free)), f"{held.shape} has the length of a row twice"
        return aot_eager(graph, example)

    class Step(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.blocks = made

        def forward(self, x, cos, sin, ids):
            return self.blocks(x, cos, sin, in_segments(ids)).square().mean()

    step = Step()
    compiled = torch.compile(step, backend=counted, fullgraph=True, dynamic=True)
    for rows, length in ((2, 12), (2, 12), (3, 40), (2, 31)):
        given = *fed(rows, length), cut(rows, length, chance, True)
        weights = [given[0], *made.parameters()]
        (ours, theirs) = (torch.autograd.grad(one(*given), weights) for one in (compiled, step))
        for found, wanted in zip(ours, theirs, strict=True):
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-6)
    assert len(graphs) == 1

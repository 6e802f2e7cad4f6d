"""Of a cache, a compiled method reads what its queries see, and yields what eager does."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from torch.profiler import ProfilerActivity, profile

from triptych.backends import native
from triptych.backends.exporting import exported
from triptych.backends.probe import probe
from triptych.blocks.language.attention import cache_span
from triptych.blocks.language.query_decoder import cached_prefix_span
from triptych.blocks.operators import attend, lowering, seen
from triptych.blocks.spans import cache_attention, span_mask

from .conftest import made

ops = torch.ops.triptych
ROUNDED = {torch.float32: 2**-20, torch.bfloat16: 2**-7}
"""How far off a mean of values may be, as a share of the largest: a few roundings."""

SIZES = {
    "one token": (2, 6, 2, 1, 80, 64, (0, 5), 70),
    "one token, parts": (2, 12, 2, 1, 2600, 32, (0, 1100), 2500),
    "a head of its own": (3, 4, 4, 7, 50, 12, (0, 3, 9), 20),
    "two rounds of keys": (1, 2, 1, 40, 1300, 80, (7,), 1200),
    "two rounds of queries": (2, 6, 1, 90, 130, 100, (0, 44), 3),
    "left padding": (2, 2, 1, 35, 40, 17, (30, 2), 0),
}
"""Rows, heads, key-value heads, queries, slots, width; the first slot of each row, and that of the
first query."""


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    native.load()
    assert torch._C._dispatch_has_kernel_for_dispatch_key("triptych::cache_attention", "CPU")


def numbers(*sizes, dtype, seed=0):
    return torch.randn(sizes, generator=torch.Generator().manual_seed(seed)).to(dtype)


def given(sizes, dtype):
    """Queries, a cache whose slots behind them hold no numbers, and what is seen of it."""
    batch, heads, shared, length, slots, width, first, start = sizes
    q = numbers(batch, length, heads, width, dtype=dtype).transpose(1, 2)
    k, v = (numbers(batch, shared, slots, width, dtype=dtype, seed=seed) for seed in (1, 2))
    for kept in (k, v):
        kept[:, :, start + length :] = float("nan")
    slot = torch.arange(start, start + length).expand(batch, length)
    return q, k, v, torch.stack(cache_span(slot, torch.tensor(first)), dim=-1)


def exact(q, k, v, span):
    k, v = (x.double().nan_to_num() for x in (k, v))
    return cache_attention(q.double(), k, v, span)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
def test_the_kernel_reads_what_is_seen(sizes, dtype):
    call = given(sizes, dtype)
    ours, theirs = ops.cache_attention(*call), exact(*call)
    assert ours.dtype == dtype and ours.shape == theirs.shape and ours.is_contiguous()
    off = (ours.double() - theirs).abs().max()
    assert off <= ROUNDED[dtype] * call[2].double().nan_to_num().abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_no_number_and_seen_is_not_hidden(dtype):
    q, k, v, span = given((1, 2, 1, 3, 40, 32, (0,), 20), dtype)
    v[0, 0, 21, 5] = float("nan")
    out = ops.cache_attention(q, k, v, span)
    assert out[0, 1:, :, 5].isnan().all()
    k[0, 0, 2] = float("nan")
    assert ops.cache_attention(q, k, v, span).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_score_that_outweighs_all_others_is_no_overflow(dtype):
    q, k, v, span = given((1, 2, 1, 33, 1500, 32, (0,), 1400), dtype)
    k[:] = -90.0
    k[0, 0, 700] = q[:] = 90.0
    out = ops.cache_attention(q, k, v, span)
    assert torch.equal(out, v[0, 0, 700].expand_as(out))


@pytest.mark.parametrize(
    ("dtype", "queries", "share"),
    [(torch.bfloat16, 1, 0.5), (torch.bfloat16, 2, 0.522), (torch.float32, 1, 0.522)],
)
def test_scores_of_one_token_are_rounded_as_a_product_is(dtype, queries, share):
    """256 and 256.5 are one number in bfloat16."""
    q, k = torch.zeros(1, 1, queries, 32, dtype=dtype), torch.zeros(1, 1, 2, 32, dtype=dtype)
    q[..., 0], q[..., 1] = 16, 1
    k[..., 0], k[0, 0, 1, 1] = 16, 0.5
    v = torch.tensor([0.0, 1.0], dtype=dtype)[None, None, :, None].expand_as(k)
    out = ops.cache_attention(q, k, v, torch.tensor([0, 1]).expand(1, queries, 2))
    assert (out.double() - share).abs().max() < 2e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("kind", ["one token, parts", "two rounds of queries"])
def test_threads_change_nothing(kind, dtype):
    call = given(SIZES[kind], dtype)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(ops.cache_attention(*call))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_tensors_may_lie_in_any_way():
    q, k, v, span = given(SIZES["a head of its own"], torch.float32)
    whole = ops.cache_attention(q, k, v, span)
    apart = [torch.stack((x, x), dim=-1)[..., 0] for x in (q, k, v, span)]
    assert torch.equal(ops.cache_attention(*apart), whole)
    turned = [x.transpose(1, 2).contiguous().transpose(1, 2) for x in (q, k, v)]
    assert torch.equal(ops.cache_attention(*turned, span), whole)


def test_the_operator_is_what_torch_asks_of_it():
    call = given(SIZES["a head of its own"], torch.bfloat16)
    torch.library.opcheck(ops.cache_attention.default, tuple(x.nan_to_num() for x in call))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda q, k, v, span: (q, k, v, span + 20), "slots from one that is there"),
        (lambda q, k, v, span: (q, k, v, span.flip(-1) - 1), "slots from one that is there"),
        (lambda q, k, v, span: (q, k.float(), v, span), "of one type"),
        (lambda q, k, v, span: (q.half(), k.half(), v.half(), span), "no other type"),
        (lambda q, k, v, span: (q, k[..., :-1], v, span), "differ in width"),
    ],
)
def test_what_does_not_fit_is_refused(change, says):
    with pytest.raises(RuntimeError, match=says):
        ops.cache_attention(*change(*given((1, 2, 1, 3, 40, 32, (4,), 20), torch.bfloat16)))


def test_queries_of_a_picture_see_one_another_and_the_text_what_stands_before_it():
    slot, first, queries = torch.arange(7).expand(2, 7), torch.tensor([0, 2]), 3
    mask = span_mask(*cached_prefix_span(slot, first, queries), 8)
    for row, begin in enumerate(first.tolist()):
        for at in range(7):
            last = max(at, begin + queries - 1) if at >= begin else at
            assert mask[row, at].nonzero()[:, 0].tolist() == [*range(min(begin, at), last + 1)]


def test_what_the_kernel_does_not_know_stays_under_a_mask():
    class Attention(torch.nn.Module):
        def forward(self, q, k, v, slot, first):
            return attend(q, k, v, seen(*cache_span(slot, first), k))

    slot, first = torch.arange(5, 8)[None], torch.tensor([2])
    for dtype, count in ((torch.bfloat16, 1), (torch.float32, 1), (torch.float16, 0)):
        q, k = torch.zeros(1, 4, 3, 8, dtype=dtype), torch.zeros(1, 2, 16, 8, dtype=dtype)
        with lowering(cache_attention="operator"):
            graph = torch.export.export(Attention(), (q, k, k, slot, first)).graph
        targets = [str(node.target) for node in graph.nodes]
        assert targets.count("triptych.cache_attention.default") == count
        assert ("aten.scaled_dot_product_attention.default" in targets) == (count == 0)


@pytest.mark.parametrize("method", ["prefill", "decode"])
def test_a_method_holds_no_mask_of_its_cache(recipe, method):
    job = made(recipe)
    graph = exported(job, method).graph
    found = Counter(str(node.target) for node in graph.nodes)
    assert found["triptych.cache_attention.default"] == len(job.methods[method].caches) // 2
    held = [node.meta["val"] for node in graph.nodes if "val" in node.meta]
    masks = [x for x in held if isinstance(x, torch.Tensor) and x.dtype == torch.bool]
    assert not any(x.dim() > 2 and x.shape[-1] != 1 for x in masks)


@pytest.mark.parametrize(
    "sizes", [{"batch": 3}, {"batch": 1, "length": 7}], ids=["decode", "prefill"]
)
def test_a_cache_is_written_in_place(tiny_job, artefact, sizes):
    """torch's compiler makes a copy of what some operators write into, and copies it back."""
    name = "prefill" if "length" in sizes else "decode"
    given = probe(tiny_job.methods[name], tiny_job.limits, tiny_job.tokens, slots=480, **sizes)
    artefact.executable.run(name, given)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        artefact.executable.run(name, given)
    (cache,) = {given[cache].nbytes for cache in tiny_job.methods[name].caches}
    assert seen.profiler is not None and seen.profiler.kineto_results is not None
    events = seen.profiler.kineto_results.events()
    made = [event.nbytes() for event in events if event.name() == "[memory]"]
    assert max(made) > 0 and cache not in made

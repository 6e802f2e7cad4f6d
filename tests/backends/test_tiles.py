"""Many rows meet a matrix, and patches each other, by tiles; the numbers are those of float64."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch
from torch.nn import functional

from triptych.backends import native
from triptych.backends.aot import Aot
from triptych.backends.eager import Eager
from triptych.backends.exporting import exported
from triptych.backends.inductor import Inductor
from triptych.backends.manifest import Target
from triptych.backends.packing import TOLERANCE
from triptych.blocks.activations import ACTIVATIONS
from triptych.blocks.matrices import FUSED, feed_forward, residual_linear
from triptych.blocks.operators import attend_segments, compiled_segments

from .conftest import assert_same_methods, made

LAYERS = {"linear": 1, "residual_linear": 1, "feed_forward": 2}
"""Operators, and how many matrices they have at least."""

ROUNDED = 2**-8
"""Half the distance of two neighbours in bfloat16, as a share: one rounding is no more."""


@pytest.fixture(scope="module", autouse=True)
def _loaded():
    native.load()


@pytest.fixture(scope="module")
def halved(recipe):
    return made(recipe, dtype=torch.bfloat16)


def numbers(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(sizes, generator=generator).to(torch.bfloat16)


def assert_rounded(ours, theirs):
    """Each number within one rounding, beside what sums in float32 lose of the largest."""
    error = (ours.double() - theirs).abs()
    assert (error <= ROUNDED * theirs.abs() + 1e-5 * theirs.abs().max()).all()


def test_kernels_are_loaded_where_the_processor_has_tiles():
    if "amx_bf16" not in Target.here().features:
        pytest.skip("this processor has no tiles")
    assert hasattr(torch.ops.triptych, "tile_attention")
    for name in (*LAYERS, "tile_attention"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"triptych::{name}", "CPU")


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("rows", "outputs", "width"),
    [
        (5, 32, 32),
        (48, 96, 3104),
        (49, 96, 1536),
        (49, 32, 1568),
        (65, 576, 3104),
        (385, 64, 64),
        (830, 32, 96),
    ],
    ids=[
        "few",
        "few and wide",
        "one block",
        "two blocks",
        "two groups",
        "two chunks",
        "three chunks",
    ],
)
def test_many_rows(rows, outputs, width, bias):
    x, weight = numbers(rows, width), numbers(outputs, width, seed=1)
    added = numbers(outputs, seed=2) if bias else None
    ours = torch.ops.triptych.linear(x, weight, added)
    wide = None if added is None else added.double()
    assert_rounded(ours, functional.linear(x.double(), weight.double(), wide))


@pytest.mark.parametrize("sizes", [(40, 33, 64), (40, 64, 37)], ids=["outputs", "width"])
def test_sizes_that_no_tile_fits_are_left_to_torch(sizes):
    rows, outputs, width = sizes
    x, weight, bias = numbers(rows, width), numbers(outputs, width), numbers(outputs)
    ours = torch.ops.triptych.linear(x, weight, bias)
    assert torch.equal(ours, functional.linear(x, weight, bias))


def test_rows_may_stand_in_any_shape():
    x, weight = numbers(3, 4, 5, 64), numbers(32, 64, seed=1)
    ours = torch.ops.triptych.linear(x, weight, None)
    assert torch.equal(ours.flatten(0, 2), torch.ops.triptych.linear(x.flatten(0, 2), weight, None))
    across = x.transpose(0, 1)
    assert torch.equal(torch.ops.triptych.linear(across, weight, None), ours.transpose(0, 1))


def test_threads_share_a_matrix():
    x, weight = numbers(70, 64), numbers(480, 64, seed=1)
    alone = torch.ops.triptych.linear(x, weight, None)
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert torch.equal(torch.ops.triptych.linear(x, weight, None), alone)
    finally:
        torch.set_num_threads(before)


BESIDE = [
    (40, 96, 3104),
    (65, 96, 1536),
    (65, 576, 3104),
    (385, 64, 64),
    (40, 33, 64),
    (40, 64, 37),
]
"""Rows, outputs, width: few, of one block of the matrix, of two, of two chunks of x, and of no
tiles."""


@pytest.mark.parametrize("sizes", BESIDE)
def test_a_residual_meets_numbers_that_are_rounded(sizes):
    rows, outputs, width = sizes
    x, weight, bias = numbers(rows, width), numbers(outputs, width, seed=1), numbers(outputs)
    residual = 50 * numbers(rows, outputs, seed=2)
    for added in (bias, None):
        alone = torch.ops.triptych.linear(x, weight, added)
        ours = torch.ops.triptych.residual_linear(x, weight, added, residual)
        assert torch.equal(ours, residual + alone)
        plain = residual_linear(x, weight, added, residual)
        assert (ours - plain).abs().max() <= 2 * ROUNDED * plain.abs().max()
    across = residual.T.contiguous().T
    assert torch.equal(torch.ops.triptych.residual_linear(x, weight, None, across), ours)


@pytest.mark.parametrize("act", ACTIVATIONS)
@pytest.mark.parametrize("sizes", BESIDE)
def test_two_layers_are_one_after_the_other(sizes, act):
    rows, hidden, width = sizes
    x, up, bias = numbers(rows, width), numbers(hidden, width, seed=1), numbers(hidden, seed=2)
    gate = numbers(hidden, width, seed=3)
    down, residual = numbers(64, hidden, seed=4), 50 * numbers(rows, 64, seed=5)
    number = 1 + FUSED.index(act)
    for by, added in ((None, bias), (gate, None)):
        rest = (down, None, number)
        ours = torch.ops.triptych.feed_forward(x, by, up, added, *rest, None)
        wide = (
            None if by is None else by.double(),
            up.double(),
            None if added is None else added.double(),
        )
        theirs = feed_forward(x.double(), *wide, down.double(), None, number, None)
        plain = feed_forward(x, by, up, added, *rest, None)
        off, plainly = ((one.double() - theirs).norm() for one in (ours, plain))
        assert off <= 1.1 * plainly and plainly <= 0.01 * theirs.norm()
        whole = torch.ops.triptych.feed_forward(x, by, up, added, *rest, residual)
        assert torch.equal(whole, residual + ours)


def test_what_two_layers_share_is_rounded_as_between_operators():
    x, up, down = numbers(70, 64), numbers(1600, 64, seed=1), numbers(64, 1600, seed=2)
    bias, last = numbers(1600, seed=3), numbers(64, seed=4)
    ours = torch.ops.triptych.feed_forward(
        x, None, up, bias, down, last, 1 + FUSED.index("relu"), None
    )
    between = torch.ops.triptych.linear(x, up, bias).relu()
    assert torch.equal(ours, torch.ops.triptych.linear(between, down, last))


@pytest.mark.parametrize(
    ("lengths", "heads", "width"),
    [
        ((1, 40, 96), 2, 80),
        ((1100,), 1, 32),
        ((7, 7, 33), 3, 12),
    ],
    ids=["three", "two rounds of keys", "narrow"],
)
def test_patches_attend_inside_their_segment(lengths, heads, width):
    rows = sum(lengths)
    ids = torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))
    # Keys and values stand beside the queries, as a tower makes them.
    q, k, v = (2 * numbers(rows, 3 * heads, width)).chunk(3, dim=1)
    ours = compiled_segments(q, k, v, ids)
    theirs = attend_segments(q.float(), k.float(), v.float(), ids)
    assert (ours.float() - theirs).abs().max() <= 2 * ROUNDED * v.float().abs().max()


def test_a_score_that_outweighs_all_others_is_no_overflow():
    q = k = torch.full((64, 1, 32), 90.0, dtype=torch.bfloat16)
    k = torch.cat((k[:40], -k[40:]))
    v = numbers(64, 1, 32)
    ours = compiled_segments(q, k, v, torch.zeros(64, dtype=torch.int64))
    torch.testing.assert_close(ours[0, 0].float(), v[:40, 0].float().mean(0), atol=4e-3, rtol=1e-2)


def test_scores_may_grow_from_round_to_round():
    rows = 800
    q, k, v = (numbers(rows, 1, 32, seed=seed) for seed in range(3))
    # Of a later key a score is larger: by less than exponentials have room for, and by more.
    k = (k * torch.linspace(0, 8, rows)[:, None, None]).to(torch.bfloat16)
    ids = torch.zeros(rows, dtype=torch.int64)
    ours = compiled_segments(q, k, v, ids)
    theirs = attend_segments(q.float(), k.float(), v.float(), ids)
    assert (ours.float() - theirs).abs().max() <= 2 * ROUNDED * v.float().abs().max()


def operators(job, method):
    """How often each operator stands in the program of a method."""
    return Counter(str(node.target) for node in exported(job, method).graph.nodes)


@pytest.mark.parametrize("method", ["vision_image", "project", "prefill"])
def test_every_matrix_meets_its_rows_in_an_operator(halved, method):
    found = operators(halved, method)
    weights = halved.lowered.methods[method].state_dict().items()
    matrices = sum(weight.dim() == 2 for name, weight in weights if "embed" not in name)
    tied = method == "prefill"
    count = {name: found[f"triptych.{name}.default"] for name in LAYERS}
    blocks = sum(name.endswith("norm2.weight") for name, _ in weights)
    gates = blocks if method == "prefill" else 0
    assert sum(LAYERS[name] * count[name] for name in LAYERS) + gates == matrices + tied
    # What stands beside a layer is computed with it: activations, gates, and residuals.
    assert count["residual_linear"] == blocks and count["feed_forward"] == max(1, blocks)
    assert not found["aten.silu.default"] and not found["aten.sigmoid.default"]


def test_float32_is_left_to_torch(tiny_job):
    assert not any(
        "linear" in name and "triptych" in name for name in operators(tiny_job, "prefill")
    )


@pytest.mark.parametrize(
    ("backend", "names"),
    [(Aot(), ("project",)), (Inductor(), ("vision_image", "prefill"))],
    ids=["aot", "inductor"],
)
def test_compiled_methods_yield_what_eager_does(halved, backend, names):
    some = replace(halved, methods={name: halved.methods[name] for name in names})
    ours, theirs = backend.compile(some), Eager().compile(some)
    assert_same_methods(some, ours, theirs, TOLERANCE[torch.bfloat16])

"""Our own C++ kernels are as near to exact sums as torch's, whatever the sizes."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch.nn import functional

from triptych.backends import native
from triptych.backends.manifest import Target
from triptych.blocks.matrices import int4_linear, int8_linear, unpacked

ops = torch.ops.triptych

SIZES = [(1, 64, 80), (2, 100, 7), (3, 31, 1), (4, 1536, 33), (7, 129, 5), (9, 66, 13)]
"""Rows of x, its width and that of what comes out: whole cache lines and others."""


@pytest.fixture(scope="module", autouse=True)
def loaded():
    native.load()
    assert torch._C._dispatch_has_kernel_for_dispatch_key("triptych::linear_int8", "CPU")


OLDER = """
import sys
from pathlib import Path
import pytest
from triptych.backends import native

native.load_from(Path({library!r}))  # what is loaded first serves the whole process
sys.exit(pytest.main([{tests!r}, "-q", "--noconftest", "-p", "no:cacheprovider", "-k", "not avx"]))
"""


@pytest.mark.skipif("avx2" not in Target.here().features, reason="of processors with AVX2")
def test_all_of_this_holds_without_avx512(tmp_path):
    """Of a processor with AVX2 and no more: the loops that a compiler makes of plain C++."""
    library = tmp_path / "triptych.so"
    flags = [flag if "march" not in flag else "-march=x86-64-v3" for flag in native.FLAGS]
    command = native._command(library, tuple(flags))
    subprocess.run(command, cwd=native.SOURCES, check=True, capture_output=True)
    code = OLDER.format(library=str(library), tests=__file__)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def numbers(*shape, dtype=torch.bfloat16):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def whole(low, high, *shape, dtype):
    generator = torch.Generator().manual_seed(sum(shape))
    return torch.randint(low, high, shape, generator=generator).to(dtype)


def assert_as_near(ours, theirs, exact):
    """Ours is no further from what is exact than theirs, but for the last two bits of its type."""
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    scale = exact.abs().max()
    off, allowed = ((y.double() - exact).abs().max() / scale for y in (ours, theirs))
    assert off <= allowed * 1.01 + torch.finfo(ours.dtype).eps * 4


@pytest.mark.parametrize("biased", [True, False])
@pytest.mark.parametrize(("rows", "into", "out"), SIZES)
def test_bfloat16(rows, into, out, biased):
    x, weight = numbers(rows, into), numbers(out, into)
    bias = numbers(out) if biased else None
    exact = functional.linear(x.double(), weight.double(), None if bias is None else bias.double())
    ours, theirs = ops.linear(x, weight, bias), functional.linear(x, weight, bias)
    assert_as_near(ours, theirs, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(("rows", "into", "out"), SIZES)
def test_8_bits(rows, into, out, dtype):
    x, bias = numbers(rows, into, dtype=dtype), numbers(out, dtype=dtype)
    weight = whole(-127, 128, out, into, dtype=torch.int8)
    scale = numbers(out, dtype=torch.float32).abs()
    exact = functional.linear(x.double(), weight.double()) * scale.double() + bias.double()
    ours, theirs = ops.linear_int8(x, weight, scale, bias), int8_linear(x, weight, scale, bias)
    assert_as_near(ours, theirs, exact)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
@pytest.mark.parametrize(
    ("rows", "into", "out", "group"),
    [(1, 128, 5, 64), (2, 192, 7, 32), (3, 64, 1, 64), (4, 1536, 33, 128), (9, 320, 6, 64)],
)
def test_4_bits(rows, into, out, group, dtype):
    x, bias = numbers(rows, into, dtype=dtype), numbers(out, dtype=dtype)
    packed = whole(0, 256, out, into // 2, dtype=torch.uint8)
    scale = numbers(out, into // group).abs()
    zero = whole(0, 16, out, into // group, dtype=torch.uint8)
    exact = functional.linear(
        x.double(), unpacked(packed, scale, zero, torch.float64), bias.double()
    )
    ours = ops.linear_int4(x, packed, scale, zero, bias)
    assert_as_near(ours, int4_linear(x, packed, scale, zero, bias), exact)


def test_numbers_of_very_different_size_keep_their_places():
    """Whole numbers stand for x where bytes are multiplied: small ones beside large ones."""
    x = torch.tensor([[3e4, 1.0, -2.0, 0.5] + [0.0] * 60])
    weight = torch.tensor([[0, 1, 1, 2] + [9] * 60, [1, 0, 0, 0] + [9] * 60], dtype=torch.int8)
    ours = ops.linear_int8(x, weight, torch.ones(2), None)
    assert ours[0].tolist() == pytest.approx([0.0, 3e4], abs=3e4 * 2**-22)


@pytest.mark.parametrize("largest", [1.9921875, 1.984375, 255 / 256, 2.0, -1.9921875])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_the_largest_number_fits_its_digits(largest, dtype):
    """One just below a power of two has more than the highest of three signed digits can say."""
    x = numbers(3, 64, dtype=dtype).clamp(-1, 1) * 0.9
    x[1, 5] = largest
    eight, four = whole(-127, 128, 7, 64, dtype=torch.int8), whole(0, 256, 7, 32, dtype=torch.uint8)
    scale, zero = numbers(7, 1).abs(), whole(0, 16, 7, 1, dtype=torch.uint8)
    exact = functional.linear(x.double(), unpacked(four, scale, zero, torch.float64))
    assert_as_near(ops.linear_int4(x, four, scale, zero, None), exact.to(dtype), exact)
    exact = functional.linear(x.double(), eight.double())
    assert_as_near(ops.linear_int8(x, eight, torch.ones(7), None), exact.to(dtype), exact)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_no_number_is_not_hidden(value):
    x = torch.full((1, 64), 1.0)
    x[0, 7] = value
    eight = torch.ones(3, 64, dtype=torch.int8)
    four, ones = torch.zeros(3, 32, dtype=torch.uint8), torch.ones(3, 1)
    zero = torch.ones(3, 1, dtype=torch.uint8)
    for out in (
        ops.linear(x.bfloat16(), eight.bfloat16(), None),
        ops.linear_int8(x, eight, ones[:, 0], None),
        ops.linear_int4(x, four, ones.bfloat16(), zero, None),
    ):
        assert not out.isfinite().any()


def test_tensors_that_are_not_dense():
    x, weight = numbers(64, 3).T, numbers(64, 5).T
    theirs = functional.linear(x, weight)
    assert torch.allclose(ops.linear(x, weight, None), theirs, rtol=1e-2, atol=1e-2)
    wide = whole(-9, 9, 5, 128, dtype=torch.int8)[:, ::2]
    ours = ops.linear_int8(x, wide, torch.ones(5), None)
    assert torch.equal(ours, int8_linear(x, wide, torch.ones(5)))


def test_threads_change_nothing():
    x, weight = numbers(2, 512), numbers(1001, 512)
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(ops.linear(x, weight, None))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(found[0], other) for other in found[1:])


def test_operators_are_what_torch_asks_of_them():
    x = numbers(2, 64)
    eight, scale = whole(-9, 9, 8, 64, dtype=torch.int8), torch.ones(8)
    four, zero = whole(0, 256, 8, 32, dtype=torch.uint8), whole(0, 16, 8, 1, dtype=torch.uint8)
    for operator, given in (
        (ops.linear, (x, numbers(8, 64), None)),
        (ops.linear, (x.unflatten(0, (2, 1)), numbers(8, 64), numbers(8))),
        (ops.linear_int8, (x, eight, scale, None)),
        (ops.linear_int4, (x, four, numbers(8, 1), zero, numbers(8))),
    ):
        torch.library.opcheck(operator.default, given)


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (lambda: ops.linear(numbers(1, 8), numbers(4, 9), None), "differ in width"),
        (lambda: ops.linear_int8(numbers(1, 8), numbers(4, 8), torch.ones(4), None), "wrong type"),
    ],
)
def test_what_does_not_fit_is_refused(given, says):
    with pytest.raises(RuntimeError, match=says):
        given()

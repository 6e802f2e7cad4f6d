"""One token reads the matrices of the language model as streams, and yields what eager does."""

from __future__ import annotations

import sys
from collections import Counter
from dataclasses import replace

import pytest
import torch

from triptych.backends import native
from triptych.backends.aot import Aot
from triptych.backends.eager import Eager
from triptych.backends.exporting import exported
from triptych.backends.inductor import Inductor
from triptych.backends.job import job
from triptych.backends.packing import TOLERANCE
from triptych.backends.probe import probe
from triptych.dsl.load import load_recipe

from .conftest import TINY, assert_same_methods, made

STREAM = "triptych.linear.default"
FEW_BITS = "chat.quantize=[int8(lm.blocks.attn), int4(lm.blocks.mlp, group: 32)]"


def one_token(whole):
    """A job of nothing but `decode`."""
    return replace(whole, methods={"decode": whole.methods["decode"]})


@pytest.fixture(scope="module")
def halved(recipe):
    """The tiny model in bfloat16, for one token at a time."""
    return one_token(made(recipe, dtype=torch.bfloat16))


@pytest.fixture(scope="module")
def fewer():
    """The same with its blocks in 8 and in 4 bits."""
    return one_token(
        job(load_recipe(TINY, amend=[FEW_BITS]), "chat", weights=0, dtype=torch.bfloat16)
    )


@pytest.fixture(scope="module")
def artefact(fewer, tmp_path_factory):
    return Aot().build(fewer, tmp_path_factory.mktemp("aot") / "tiny")


def operators(work, method):
    """How often each operator stands in the program of a method."""
    return Counter(str(node.target) for node in exported(work, method).graph.nodes)


def test_every_matrix_of_a_token_is_streamed(halved):
    found = operators(halved, "decode")
    blocks = len(halved.methods["decode"].caches) // 2
    assert found[STREAM] == 7 * blocks + 1
    assert not found["aten.linear.default"]


def test_matrices_in_few_bits_are_streamed_as_they_are_stored(fewer):
    found = operators(fewer, "decode")
    blocks = len(fewer.methods["decode"].caches) // 2
    streams = [found[f"triptych.linear{bits}.default"] for bits in ("", "_int8", "_int4")]
    assert streams == [1, 4 * blocks, 3 * blocks]
    assert not found["aten.linear.default"]


def test_a_single_query_goes_through_plain_products(halved):
    """torch's attention is some 25 times slower there."""
    assert not any("scaled_dot_product" in name for name in operators(halved, "decode"))


def test_a_token_in_float32_is_left_to_torch(tiny_job):
    assert STREAM not in operators(tiny_job, "decode")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("kind", ["halved", "fewer"])
def test_inductor_yields_what_eager_does(request, kind, batch):
    work = request.getfixturevalue(kind)
    ours, theirs = Inductor().compile(work), Eager().compile(work)
    assert_same_methods(work, ours, theirs, TOLERANCE[torch.bfloat16], batch=batch)


@pytest.mark.parametrize("batch", [1, 3])
def test_an_artefact_yields_what_eager_does(fewer, artefact, batch):
    theirs = Eager().compile(fewer)
    assert_same_methods(fewer, artefact.executable, theirs, TOLERANCE[torch.bfloat16], batch=batch)


def test_an_artefact_holds_the_kernels_and_they_were_executed(artefact):
    assert artefact.manifest.files[native.LIBRARY].state == "executed"
    folder = str(native.SOURCES.parents[1]).encode()
    assert folder not in (artefact.folder / native.LIBRARY).read_bytes()


def test_a_token_calls_its_kernels_without_python(fewer, artefact):
    executable, method = artefact.executable, fewer.methods["decode"]
    given = probe(method, fewer.limits, fewer.tokens, batch=1)
    called = set()

    def see(frame, event, argument):
        if event == "call":
            called.add(frame.f_code.co_name)

    sys.setprofile(see)
    try:
        executable.run("decode", given)
    finally:
        sys.setprofile(None)
    assert "run" in called
    assert not called & {"linear", "int8_linear", "int4_linear", "__torch_dispatch__"}
    assert torch._C._dispatch_has_kernel_for_dispatch_key("triptych::linear_int4", "CPU")

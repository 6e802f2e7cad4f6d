"""One token reads the matrices of the language model as streams, and yields what eager does."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import torch

from triptych.backends.aot import Aot
from triptych.backends.eager import Eager
from triptych.backends.exporting import exported
from triptych.backends.inductor import Inductor
from triptych.backends.packing import TOLERANCE

from .conftest import assert_same_methods, made

STREAM = "triptych.linear.default"


@pytest.fixture(scope="module")
def halved(recipe):
    """The tiny model in bfloat16, for one token at a time."""
    whole = made(recipe, dtype=torch.bfloat16)
    return replace(whole, methods={"decode": whole.methods["decode"]})


def operators(job, method):
    """How often each operator stands in the program of a method."""
    return Counter(str(node.target) for node in exported(job, method).graph.nodes)


def test_every_matrix_of_a_token_is_streamed(halved):
    found = operators(halved, "decode")
    blocks = len(halved.methods["decode"].caches) // 2
    assert found[STREAM] == 7 * blocks + 1
    assert not found["aten.linear.default"]


def test_a_single_query_goes_through_plain_products(halved):
    """torch's attention is some 25 times slower there."""
    assert not any("scaled_dot_product" in name for name in operators(halved, "decode"))


def test_a_token_in_float32_is_left_to_torch(tiny_job):
    assert STREAM not in operators(tiny_job, "decode")


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("backend", [Aot(), Inductor()], ids=lambda one: one.name)
def test_streams_yield_what_eager_does(halved, backend, batch):
    ours, theirs = backend.compile(halved), Eager().compile(halved)
    assert_same_methods(halved, ours, theirs, TOLERANCE[torch.bfloat16], batch=batch)

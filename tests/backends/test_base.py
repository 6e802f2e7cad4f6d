"""What a method is given is checked against what it says that it takes."""

from __future__ import annotations

import pytest
import torch

from triptych.backends.base import InputError
from triptych.backends.probe import probe


@pytest.fixture
def inputs(tiny_job):
    return probe(tiny_job.methods["prefill"], tiny_job.limits, tiny_job.tokens)


def test_a_missing_tensor_is_named(eager, inputs):
    del inputs["text.last"]
    with pytest.raises(InputError, match=r"prefill: no text\.last"):
        eager.run("prefill", inputs)


def test_another_dtype_is_named(eager, inputs):
    inputs["text.tokens"] = inputs["text.tokens"].int()
    with pytest.raises(InputError, match=r"text\.tokens is int32 \[2, 24\]; it takes int64"):
        eager.run("prefill", inputs)


def test_sizes_that_disagree_are_named(eager, inputs):
    inputs["text.cos"] = inputs["text.cos"][:, :-1]
    with pytest.raises(InputError, match=r"text\.cos.*\[batch, length, 16\] \(here .*'length': 24"):
        eager.run("prefill", inputs)


def test_a_fixed_size_that_differs_is_named(eager, inputs):
    inputs["features"] = inputs["features"][:, :-1]
    with pytest.raises(InputError, match=r"features is float32 \[8, 31\]"):
        eager.run("prefill", inputs)


@pytest.mark.parametrize(
    ("sizes", "said"),
    [
        ({"batch": 5}, "batch is 5; the executable takes 1 to 4"),
        ({"slots": 72}, "slots is 72; the executable takes 32 to 512 in steps of 16"),
        ({"length": 449, "slots": 512}, "length is 449; the executable takes 2 to 448"),
    ],
)
def test_a_size_outside_its_limits_is_named_with_them(tiny_job, eager, sizes, said):
    method = tiny_job.methods["prefill"]
    with pytest.raises(InputError, match=said):
        eager.run("prefill", probe(method, tiny_job.limits, tiny_job.tokens, **sizes))


def test_what_a_method_does_not_take_is_not_looked_at(eager, inputs):
    more = inputs | {"text.segment_id": torch.zeros(1)}
    assert eager.run("prefill", more)["logits"].shape == (2, 151936)

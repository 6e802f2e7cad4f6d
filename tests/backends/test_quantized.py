"""Linear layers in 8 bits: a quarter of the memory, a small error that is told, all backends."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from triptych.backends.aot import Aot
from triptych.backends.base import BackendError
from triptych.backends.eager import Eager
from triptych.backends.inductor import Inductor
from triptych.backends.job import job
from triptych.backends.tensorrt import TensorRT
from triptych.blocks.quantized import Int8Linear
from triptych.cli.executing import job_of
from triptych.dsl.load import load_recipe

from .conftest import TINY, assert_same_methods

QUANTIZED = "chat.quantize=[int8(lm.blocks), int8(vit.blocks.mlp)]"


@pytest.fixture(scope="module")
def quantized():
    return job(load_recipe(TINY, amend=[QUANTIZED]), "chat", weights=0)


def test_a_layer_is_within_half_a_step_of_what_it_was():
    torch.manual_seed(0)
    linear = nn.Linear(48, 32)
    linear.weight.data[3] = 0
    made = Int8Linear(linear)
    step_O = linear.weight.abs().amax(1) / 127
    back = made.weight.float() * made.scale[:, None]
    assert made.weight.dtype == torch.int8
    assert ((back - linear.weight).abs() <= step_O[:, None] / 2 + 1e-7).all()
    x = torch.randn(7, 48)
    assert (made(x) - linear(x)).abs().max() < 0.02
    assert torch.equal(made(x)[:, 3], linear(x)[:, 3])


def test_what_was_selected_is_in_8_bits_and_nothing_else(quantized):
    state = quantized.lowered.module.state_dict()
    small = {name for name, tensor in state.items() if tensor.dtype == torch.int8}
    assert small == set(quantized.quantized)
    assert len(small) == 2 * 7 + 2 * 2
    assert {name.partition(".")[0] for name in small} == {"lm", "vit"}
    assert not [name for name in small if "norm" in name or "embed" in name or "qkv" in name]


def test_the_error_is_known_and_small_but_not_nothing(quantized):
    assert quantized.rounding.keys() == quantized.methods.keys()
    assert quantized.rounding["project"] == 0
    for name in ("vision_image", "prefill", "decode"):
        assert 0 < quantized.rounding[name] < 0.05


def test_the_error_is_told(capsys):
    job_of(load_recipe(TINY, amend=[QUANTIZED]), "chat", None, 0, None)
    told = capsys.readouterr().err
    assert told.startswith("18 linear layers in 8 bits; off full precision: vision_image ")


def test_every_other_backend_computes_the_same(quantized, tmp_path):
    eager = Eager().compile(quantized)
    inductor = Inductor(tmp_path / "cache").compile(quantized)
    assert_same_methods(quantized, inductor, eager, 1e-5, batch=2, slots=128)
    artefact = Aot().build(quantized, tmp_path / "artefact")
    assert_same_methods(quantized, artefact.executable, eager, 1e-5, batch=2, slots=128)


def test_tensorrt_refuses_it_by_name(quantized, tmp_path):
    with pytest.raises(BackendError, match="tensorrt does not run 8-bit weights: choose eager"):
        TensorRT().build(quantized, tmp_path / "artefact")

"""Linear layers in 8 bits: a quarter of the memory, a small error that is told, all backends."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from triptych.backends.aot import Aot
from triptych.backends.artefact import weights
from triptych.backends.base import BackendError
from triptych.backends.eager import Eager
from triptych.backends.inductor import Inductor
from triptych.backends.job import job
from triptych.backends.packing import TOLERANCE
from triptych.backends.tensorrt import TensorRT
from triptych.blocks.quantized import Int8Linear
from triptych.cli.executing import job_of
from triptych.dsl.load import load_recipe

from .conftest import TINY, assert_same_methods

MIXED = "chat.target=eager(precision: [bf16(lm), f32(vit), bf16(merger)])"
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


def test_inductor_computes_the_same(quantized, tmp_path):
    inductor = Inductor(tmp_path).compile(quantized)
    assert_same_methods(quantized, inductor, Eager().compile(quantized), 1e-5, batch=2, slots=128)


def test_an_artefact_holds_8_bits_beside_two_precisions(tmp_path):
    recipe = load_recipe(TINY, amend=[QUANTIZED, MIXED])
    both = job(recipe, "chat", weights=0)
    artefact = Aot().build(both, tmp_path / "artefact")
    held = weights(artefact.folder, artefact.manifest)
    assert {name for name, x in held.items() if x.dtype == torch.int8} == set(both.quantized)
    assert held["vit.patch_embed.weight"].dtype == torch.float32
    assert held["lm.embed.weight"].dtype == torch.bfloat16
    ours, eager = artefact.executable, Eager().compile(both)
    assert_same_methods(both, ours, eager, TOLERANCE[both.dtype], batch=2, slots=128)


def test_tensorrt_refuses_it_by_name(quantized, tmp_path):
    with pytest.raises(BackendError, match="tensorrt does not run 8-bit weights: choose eager"):
        TensorRT().build(quantized, tmp_path / "artefact")

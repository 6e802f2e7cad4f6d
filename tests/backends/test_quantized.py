"""Linear layers in few bits: less memory, an error that is told, the same answers everywhere."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchao.quantization.quant_primitives import dequantize_affine

from triptych.backends.aot import Aot
from triptych.backends.base import BackendError
from triptych.backends.eager import Eager
from triptych.backends.from_job import FromJob
from triptych.backends.generation import Session
from triptych.backends.inductor import Inductor
from triptych.backends.job import job
from triptych.backends.packing import TOLERANCE
from triptych.backends.probe import difference, probe
from triptych.backends.tensorrt import TensorRT
from triptych.blocks.input.processor import Processor
from triptych.blocks.matrices import unpacked
from triptych.blocks.quantized import Int4Linear, Int8Linear
from triptych.blocks.rounding import relative, rounded
from triptych.blocks.storage import BYTES, Storage
from triptych.cli.coverage import report
from triptych.cli.executing import job_of
from triptych.compiler.outlay import Asked, outlay
from triptych.compiler.plan import plan
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.load import load_recipe

from .conftest import TINY, asked, assert_same_methods, picture

MIXED = "chat.target=eager(precision: [bf16(lm), f32(vit), bf16(merger)])"
QUANTIZED = "chat.quantize=[int8(vit.blocks.mlp), int4(lm.blocks, group: 32)]"
FEW = Storage(4, 16)


@pytest.fixture(scope="module")
def quantized():
    return job(load_recipe(TINY, amend=[QUANTIZED]), "chat", weights=0)


@pytest.fixture(scope="module")
def lively():
    """Its blocks outweigh the embedding, so that something new is said with each token."""
    tiny = job(load_recipe(TINY, amend=[QUANTIZED]), "chat", weights=0)
    for name, tensor in tiny.lowered.module.state_dict().items():
        if name.endswith(".scale"):
            tensor.mul_(3)
    return tiny


@pytest.fixture
def linear():
    torch.manual_seed(0)
    made = nn.Linear(48, 32)
    made.weight.data[3] = 0
    return made


def test_a_layer_in_8_bits_is_within_half_a_step_of_what_it_was(linear):
    held, error = rounded(linear.weight.detach(), Storage(8))
    made = Int8Linear(held, linear.bias)
    step_O = linear.weight.abs().amax(1) / 127
    back = made.weight.float() * made.scale[:, None]
    assert made.weight.dtype == torch.int8
    assert ((back - linear.weight).abs() <= step_O[:, None] / 2 + 1e-7).all()
    assert relative([error]) == pytest.approx(
        ((back - linear.weight).norm() / linear.weight.norm()).item()
    )
    x = torch.randn(7, 48)
    assert (made(x) - linear(x)).abs().max() < 0.02
    assert torch.equal(made(x)[:, 3], linear(x)[:, 3])


def test_a_layer_in_4_bits_is_within_half_a_step_of_what_it_was(linear):
    linear.weight.data[5].abs_().add_(0.5)  # a row whose range would begin above zero
    held, error = rounded(linear.weight.detach(), FEW)
    made = Int4Linear(held, linear.bias)
    groups = linear.weight.detach().unflatten(1, (3, 16))
    low, high = groups.amin(2).clamp(max=0), groups.amax(2).clamp(min=0)
    back = unpacked(made.weight, made.scale, made.zero, torch.float32)
    off = (back - linear.weight).unflatten(1, (3, 16)).abs().amax(2)
    # Half a step to the nearest, and as much for a zero that is a whole number of steps away.
    assert (off <= (high - low) / 15 * 1.01).all()
    assert relative([error]) == pytest.approx(
        ((back - linear.weight).norm() / linear.weight.norm()).item(), rel=1e-5
    )
    x = torch.randn(7, 48)
    torch.testing.assert_close(made(x), nn.functional.linear(x, back, linear.bias))
    assert torch.equal(made(x)[:, 3], linear(x)[:, 3])


def test_a_byte_holds_an_even_input_in_its_low_half(linear):
    held, _ = rounded(linear.weight.detach(), FEW)
    assert {name: tensor.shape for name, tensor in held.items()} == {
        "weight": (32, 24),
        "scale": (32, 3),
        "zero": (32, 3),
    }
    number = torch.empty(32, 48, dtype=torch.uint8)
    number[:, ::2], number[:, 1::2] = held["weight"] % 16, held["weight"] // 16
    ours = unpacked(held["weight"], held["scale"], held["zero"], torch.float32)
    scale, zero = held["scale"].float(), held["zero"].int()
    theirs = dequantize_affine(number, (1, 16), scale, zero, torch.uint8, 0, 15)
    assert torch.equal(ours, theirs)


def test_what_is_held_is_what_was_foretold(linear):
    for storage in (Storage(8), FEW, Storage(4, 48)):
        held, _ = rounded(linear.weight.detach(), storage)
        shapes = {
            name: (tuple(x.shape), str(x.dtype).removeprefix("torch.")) for name, x in held.items()
        }
        assert shapes == storage.held(32, 48)
        assert sum(x.nbytes for x in held.values()) == storage.size(32, 48)
        assert {kind: getattr(torch, kind).itemsize for kind in BYTES} == BYTES


def test_what_was_selected_is_in_few_bits_and_nothing_else(quantized):
    state = quantized.lowered.module.state_dict()
    few = {name: tensor.dtype for name, tensor in state.items() if name in quantized.quantized}
    assert sorted(map(str, few.values())) == ["torch.int8"] * 2 * 2 + ["torch.uint8"] * 2 * 7
    others = [name for name, x in state.items() if x.dtype in (torch.int8, torch.uint8)]
    assert {name.replace(".zero", ".weight") for name in others} == few.keys()
    assert {name.partition(".")[0] for name in few} == {"lm", "vit"}
    assert not [name for name in few if "norm" in name or "embed" in name or "qkv" in name]


def test_groups_that_do_not_fit_are_refused_before_anything_is_made():
    """Of programs without weights nothing else would tell."""
    recipe = load_recipe(TINY, amend=["chat.quantize=int4(lm.blocks, group: 24)"])
    with pytest.raises(RecipeError, match="groups of 24 do not divide the 32 inputs of"):
        job(recipe, "chat")


def test_without_weights_there_is_the_same_to_fill(quantized):
    empty = job(load_recipe(TINY, amend=[QUANTIZED]), "chat")
    ours, theirs = (
        {name: (x.shape, x.dtype) for name, x in made.lowered.module.state_dict().items()}
        for made in (empty, quantized)
    )
    assert ours == theirs
    assert not empty.rounding and not empty.weight_rounding
    assert empty.digest == quantized.digest


def test_the_error_is_known_and_small_but_not_nothing(quantized):
    assert quantized.weight_rounding.keys() == {"vit", "lm"}
    assert 0.001 < quantized.weight_rounding["vit"] < 0.01 < quantized.weight_rounding["lm"] < 0.1
    assert quantized.rounding.keys() == quantized.methods.keys()
    assert quantized.rounding["project"] == 0
    assert 0 < quantized.rounding["vision_image"] < 0.05
    assert quantized.rounding["vision_image"] < quantized.rounding["decode"] < 0.5


def test_plan_says_what_is_held_and_what_that_saves(quantized):
    ours, exact = (
        outlay(recipe, plan(recipe), Asked()).modes[0]
        for recipe in (load_recipe(TINY, amend=[QUANTIZED]), load_recipe(TINY))
    )
    assert ours.weights == sum(x.nbytes for x in quantized.lowered.module.state_dict().values())
    assert (ours.weights + ours.saved, 0) == (exact.weights, exact.saved)


def test_the_error_is_told(capsys):
    job_of(load_recipe(TINY, amend=[QUANTIZED]), "chat", None, 0, None)
    tower, language, methods = capsys.readouterr().err.splitlines()
    assert tower.startswith("vit: 4 linear layers in int8, weights off full precision by 5.")
    assert language.startswith(
        "lm: 14 linear layers in int4(group: 32), weights off full precision"
    )
    assert methods.startswith("methods off full precision by: vision_image ")


def test_all_backends_say_the_same(lively, tmp_path):
    """`test_inspect` holds what an artefact says of its error; weights are plain tensors in it."""
    artefact = Aot().build(lively, tmp_path / "artefact")
    compiled = {
        "eager": Eager().compile(lively),
        "inductor": Inductor(tmp_path / "cache").compile(lively),
        "aot": artefact.executable,
    }
    for ours in compiled.values():
        # Float32, of weights three times as large as drawn; each backend sums in its own order.
        assert_same_methods(lively, ours, compiled["eager"], 2e-5, batch=2, slots=128)
    processor = Processor(lively.spec)
    dialogues = [asked("hello there"), asked(picture(100, 60), "what is this?")]
    said = {
        name: Session(ours, processor, lively.spec).batch(dialogues, new=8)
        for name, ours in compiled.items()
    }
    assert said["inductor"] == said["eager"] == said["aot"]
    assert artefact.manifest.quantized == {n: str(one) for n, one in lively.quantized.items()}
    assert artefact.manifest.weight_rounding == lively.weight_rounding
    assert artefact.manifest.rounding == lively.rounding


def test_two_precisions_beside_groups_that_no_kernel_knows(tmp_path):
    recipe = load_recipe(TINY, amend=["chat.quantize=int4(lm.blocks, group: 16)", MIXED])
    both = job(recipe, "chat", weights=0)
    held = both.lowered.module.state_dict()
    assert held["vit.patch_embed.weight"].dtype == torch.float32
    assert held["lm.embed.weight"].dtype == torch.bfloat16
    given = probe(both.methods["decode"], both.limits, both.tokens, batch=2, slots=128)
    copy = {feed: tensor.clone() for feed, tensor in given.items()}
    found = Inductor(tmp_path).compile(both).run("decode", copy)
    wanted = Eager().compile(both).run("decode", given)
    assert difference(found, wanted) <= TOLERANCE[both.dtype]


def test_tensorrt_refuses_it_by_name(quantized, tmp_path):
    recipe = load_recipe(TINY, amend=[QUANTIZED])
    told = "tensorrt takes no weights in few bits, and 18 layers have such: choose eager"
    with pytest.raises(BackendError, match=told):
        TensorRT().build(quantized, tmp_path / "artefact")
    with pytest.raises(BackendError, match=told):
        report(FromJob(quantized), recipe, None, "sm90", None, as_json=False)

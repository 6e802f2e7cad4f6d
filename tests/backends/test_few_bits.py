"""Weights in few bits are made of the user's own whole ones, wherever these are read."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from triptych.backends.artefact import Artefact
from triptych.backends.bindings import parameters_of
from triptych.backends.few_bits import whole
from triptych.backends.from_artefact import FromArtefact
from triptych.backends.from_job import FromJob
from triptych.backends.job import job
from triptych.backends.manifest import ArtefactError
from triptych.backends.weights import Weights, as_published
from triptych.dsl.load import load_recipe

from .conftest import TINY, packed

QUANTIZED = "chat.quantize=[int8(vit.blocks.mlp), int4(lm.blocks, group: 32)]"
MIXED = "chat.target=aot(precision: [bf16(lm), f32(vit), bf16(merger)])"


@pytest.fixture(scope="module")
def published(recipe, tiny_job, tmp_path_factory):
    """The whole weights, as they were published; in a precision that is not that of the code."""
    file = tmp_path_factory.mktemp("published") / "model.safetensors"
    state = tiny_job.lowered.module.state_dict()
    whole = {name: tensor.contiguous() for name, tensor in as_published(recipe, state)}
    save_file(whole, file)
    return file


@pytest.fixture(scope="module")
def mixed():
    return load_recipe(TINY, amend=[QUANTIZED, MIXED])


@pytest.fixture(scope="module")
def work(mixed, published):
    """Rounded where the recipe is compiled."""
    return job(mixed, "chat", weights=Weights.open(mixed, published))


@pytest.fixture(scope="module")
def bare(mixed, tmp_path_factory):
    """An artefact that was made without weights."""
    return packed(FromJob(job(mixed, "chat")), tmp_path_factory.mktemp("bare") / "artefact")


def assert_same(artefact: Artefact, work, given: Path | None = None) -> None:
    """Its parameters are those of the job, bit for bit."""
    ours = parameters_of(artefact.folder, artefact.manifest, given)
    theirs = work.lowered.module.state_dict()
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert (tensor.dtype, tensor.shape) == (theirs[name].dtype, theirs[name].shape), name
        assert torch.equal(tensor, theirs[name]), name


def test_those_that_are_linked_are_rounded_at_each_start(work, published, tmp_path):
    linked = packed(FromJob(work, link=True), tmp_path / "artefact")
    assert linked.manifest.weights.kind == "linked"
    assert not (linked.folder / "weights").exists()
    assert linked.manifest.weight_rounding == work.weight_rounding
    assert_same(linked, work)


@pytest.mark.parametrize("names", ["published", "ours"])
def test_those_that_are_given_later_are_rounded_then(
    bare, work, published, tiny_job, names, tmp_path
):
    given = published
    if names == "ours":
        given = tmp_path / "run.safetensors"
        save_file(tiny_job.lowered.module.state_dict(), given)
    assert_same(bare, work, given)


def test_what_is_compiled_again_has_them_inside(bare, work, published, tmp_path):
    """Rounded once; and the manifest says how far that brought them off."""
    made = packed(FromArtefact(bare, published), tmp_path / "new")
    assert made.manifest.weights.kind == "inside"
    assert made.manifest.quantized == bare.manifest.quantized
    assert bare.manifest.weight_rounding == {}
    assert made.manifest.weight_rounding == work.weight_rounding
    assert_same(made, work)
    again = packed(FromArtefact(made), tmp_path / "again")
    assert again.manifest.weight_rounding == work.weight_rounding
    assert_same(again, work)


def test_they_are_rounded_from_the_precision_of_their_part(bare, tiny_job):
    exact = whole(bare.manifest)
    assert exact["vit.blocks.0.mlp.fc1.weight"].dtype == torch.float32
    assert exact["lm.blocks.0.mlp.gate.weight"].dtype == torch.bfloat16
    state = tiny_job.lowered.module.state_dict()
    assert {name: port.sizes for name, port in exact.items()} == {
        name: tuple(tensor.shape) for name, tensor in state.items()
    }


def test_without_what_rounds_them_it_is_said_what_to_do(bare, published, monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(
        ArtefactError, match=r"18 weights are made in few bits .* pip install torch"
    ):
        parameters_of(bare.folder, bare.manifest, published)

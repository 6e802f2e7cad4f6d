"""Weights are found under our names or the published ones, and what does not fit is named."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from triptych.backends.job import job
from triptych.backends.resources import ResourceError, resources
from triptych.backends.weights import Weights, WeightsError
from triptych.compiler.weights import names


@pytest.fixture(scope="module")
def state(tiny_job):
    return {name: tensor.clone() for name, tensor in tiny_job.lowered.module.state_dict().items()}


def loaded(recipe, path):
    return job(recipe, "chat", weights=Weights.open(recipe, path)).lowered.module.state_dict()


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_file_with_our_names(recipe, state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    assert_equal(loaded(recipe, tmp_path / "w.safetensors"), state)


def test_a_folder_of_published_files(recipe, state, tmp_path):
    published = names(recipe).published
    theirs = [(published[name], tensor) for name, tensor in state.items()]
    save_file(dict(theirs[:20]), tmp_path / "model-00001-of-00002.safetensors")
    save_file(dict(theirs[20:]), tmp_path / "model-00002-of-00002.safetensors")
    assert_equal(loaded(recipe, tmp_path), state)


def test_a_run_that_is_done_and_one_that_is_not(recipe, state, tmp_path):
    checkpoint = tmp_path / "checkpoints" / "sft-00000010"
    checkpoint.mkdir(parents=True)
    save_file(state, checkpoint / "weights.safetensors")
    assert_equal(loaded(recipe, tmp_path), state)
    save_file(
        {name: tensor + 1 for name, tensor in state.items()}, tmp_path / "weights.safetensors"
    )
    assert not torch.equal(loaded(recipe, tmp_path)["lm.norm.weight"], state["lm.norm.weight"])


def test_all_that_does_not_fit_is_named_at_once(recipe, state, tmp_path):
    wrong = {name: tensor for name, tensor in state.items() if name != "merger.fc1.bias"}
    wrong |= {"lm.norm.weight": torch.zeros(7), "extra.weight": torch.zeros(1)}
    save_file(wrong, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as caught:
        Weights.open(recipe, tmp_path / "w.safetensors")
    said = str(caught.value)
    assert "1 tensors are missing: merger.fc1.bias; there is merger.fc" in said
    assert "1 tensors have no place in the recipe: extra.weight" in said
    assert "lm.norm.weight is [32] here and [7] there" in said


@pytest.mark.parametrize("content", [None, b"", b"not tensors"])
def test_what_holds_no_weights_is_said(recipe, tmp_path, content):
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"is not there|cannot be read as safetensors"):
        Weights.open(recipe, path)
    if content is None:
        with pytest.raises(WeightsError, match="holds no weights"):
            Weights.open(recipe, tmp_path)


def test_a_vocabulary_that_ships_needs_no_folder(recipe, tmp_path):
    assert resources(recipe, tmp_path) is None


def test_a_vocabulary_beside_the_weights_is_found(recipe, tmp_path):
    here = recipe.tokens.tokenizer.model_copy(update={"name": "own"})
    own = recipe.model_copy(update={"tokens": recipe.tokens.model_copy(update={"tokenizer": here})})
    with pytest.raises(ResourceError, match=r"own\.tiktoken.*is in none of"):
        resources(own, tmp_path)
    (tmp_path / "own.tiktoken").write_bytes(b"")
    assert resources(own, tmp_path) == tmp_path

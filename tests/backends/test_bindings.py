"""Weights in the user's own files: linked by digest, or given to an artefact made without."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from triptych.backends import verification
from triptych.backends.aot import Aot
from triptych.backends.artefact import Artefact
from triptych.backends.bindings import parameters_of
from triptych.backends.from_artefact import FromArtefact
from triptych.backends.from_job import FromJob
from triptych.backends.generation import Session
from triptych.backends.job import job
from triptych.backends.linking import linked, unbound
from triptych.backends.manifest import MANIFEST, ArtefactError, Manifest, Target
from triptych.backends.stored import WeightsError
from triptych.backends.weights import Weights, as_published
from triptych.cli.main import cli
from triptych.dsl.load import load_text

from .conftest import DIALOGUES, TINY

OTHER_FORMS = """
recipe other extends tiny {
  amend weights {
    from = [hf("a/tower", under: "visual."), hf("a/text")]
    drop map "model.layers.*.mlp.gate_proj.*"
    drop map "model.layers.*.mlp.up_proj.*"
    drop map "visual.merger.mlp.0.*"
    add map "model.layers.*.mlp.gate_up_proj.*" -> joined(
      ["lm.blocks.*.mlp.gate.*", "lm.blocks.*.mlp.up.*"],
    )
    add map "visual.merger.fc.weight" -> transposed("merger.fc1.weight")
    add map "visual.merger.fc.bias" -> "merger.fc1.bias"
    add ignore "visual.head.*" : "unused"
  }
}
"""
"""The tiny model, published in two repositories, with matrices joined and transposed."""


@pytest.fixture(scope="module")
def other():
    return load_text(Path(TINY).read_text(encoding="utf-8") + OTHER_FORMS, "tiny.vlm")


@pytest.fixture(scope="module")
def state(tiny_job):
    return dict(tiny_job.lowered.module.state_dict())


@pytest.fixture
def published(other, state, tmp_path):
    """A folder of published files, a folder for each repository."""
    every = {name: tensor.contiguous() for name, tensor in as_published(other, state)}
    tower = {name: tensor for name, tensor in every.items() if name.startswith("visual.")}
    text = {name: tensor for name, tensor in every.items() if name not in tower}
    tower = {name.removeprefix("visual."): tensor for name, tensor in tower.items()}
    folder = tmp_path / "published"
    for place, tensors in (("tower", tower | {"head.bias": torch.zeros(2)}), ("text", text)):
        (folder / place).mkdir(parents=True)
        save_file(tensors, folder / place / "model.safetensors")
    return folder


def rebound(artefact, folder, weights):
    """A copy of an artefact with its weights elsewhere, as `compile` would have written it."""
    shutil.copytree(artefact.folder, folder)
    shutil.rmtree(folder / "weights")
    manifest = Manifest.read(folder / MANIFEST)
    files = {name: file for name, file in manifest.files.items() if not name.startswith("weights/")}
    changed = manifest.model_copy(update={"weights": weights, "files": files})
    (folder / MANIFEST).write_text(changed.text(), encoding="utf-8")
    return folder


@pytest.fixture
def link(artefact, other, published, tmp_path):
    """An artefact that is linked to the published files."""
    weights = Weights.open(other, published)
    return rebound(artefact, tmp_path / "linked", linked(weights))


@pytest.fixture
def bare(artefact, other, tmp_path):
    """An artefact that was made without weights."""
    return rebound(artefact, tmp_path / "bare", unbound(other))


def parameters(folder, given=None):
    return parameters_of(folder, Manifest.read(folder / MANIFEST), given)


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_linked_files_are_taken_apart_as_the_recipe_says(link, published, state):
    record = Manifest.read(link / MANIFEST).weights
    assert record.files.keys() == {"tower/model.safetensors", "text/model.safetensors"}
    assert {binding.form.kind for binding in record.bindings} == {"same", "joined", "transposed"}
    assert_equal(parameters(link), state)


def test_linked_files_may_move(link, published, state, tmp_path):
    published.rename(tmp_path / "moved")
    with pytest.raises(ArtefactError, match=r"\.safetensors, which .* is not there: say where"):
        parameters(link)
    assert_equal(parameters(link, tmp_path / "moved"), state)
    said = CliRunner().invoke(cli, ["inspect", str(link)]).stdout
    assert "is not there: say where it is now" in said
    moved = ["inspect", str(link), "--weights", str(tmp_path / "moved")]
    assert "can run" in CliRunner().invoke(cli, moved).stdout


@pytest.mark.parametrize("how", ["a byte", "the end"])
def test_a_linked_file_that_was_changed_is_refused_by_name(link, published, how):
    file = published / "text" / "model.safetensors"
    content = bytearray(file.read_bytes())
    if how == "a byte":
        content[-3] ^= 1
    else:
        del content[-1]
    file.write_bytes(content)
    said = r"text/model\.safetensors is not the file that .*linked was made with: it"
    with pytest.raises(ArtefactError, match=said):
        parameters(link)


def test_an_artefact_answers_with_linked_weights(link, session):
    ours = Artefact(link).session()
    assert isinstance(ours, Session)
    assert ours.batch(DIALOGUES[1:2], new=3) == session.batch(DIALOGUES[1:2], new=3)


def test_a_large_file_is_not_read_again_until_it_is_touched(link, published, monkeypatch):
    """What is remembered cannot be set back: a changed byte is seen though size and time agree."""
    file = published / "text" / "model.safetensors"
    monkeypatch.setattr(verification, "REMEMBERED", 1)
    monkeypatch.setattr(verification, "SETTLED", -1)
    read = []
    sha256_of = verification.sha256_of

    def noted(path, tell):
        read.append(path)
        return sha256_of(path, tell)

    monkeypatch.setattr(verification, "sha256_of", noted)
    parameters(link)
    assert file in read
    read.clear()
    parameters(link)
    assert not read
    before = file.stat()
    content = bytearray(file.read_bytes())
    content[-3] ^= 1
    file.write_bytes(content)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(ArtefactError, match="is not the file"):
        parameters(link)


def test_a_file_that_has_just_changed_is_not_remembered(tmp_path, monkeypatch):
    file = tmp_path / "large"
    file.write_bytes(b"1")
    monkeypatch.setattr(verification, "REMEMBERED", 1)
    before = verification.known_digest(file)
    stat = file.stat()
    file.write_bytes(b"2")
    # As on a file system whose clock has not moved on.
    monkeypatch.setattr(type(file), "stat", lambda self, **options: stat)
    assert verification.known_digest(file) != before


@pytest.mark.parametrize("names", ["published", "ours"])
def test_weights_given_later_fit_by_name(bare, published, state, names, tmp_path):
    given = published
    if names == "ours":
        given = tmp_path / "run.safetensors"
        save_file(state, given)
    with pytest.raises(ArtefactError, match="made without weights: say where they are, --weights"):
        parameters(bare)
    assert_equal(parameters(bare, given), state)


def test_weights_in_another_precision_are_brought_to_that_of_the_code(bare, state, tmp_path):
    save_file({name: x.half() for name, x in state.items()}, tmp_path / "half.safetensors")
    found = parameters(bare, tmp_path / "half.safetensors")
    assert all(torch.equal(found[name], x.half().float()) for name, x in state.items())


def test_weights_that_do_not_fit_are_refused_by_the_names_of_tensors(bare, published):
    file = published / "text" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.0.mlp.gate_up_proj.weight"]
    tensors |= {"model.norm.weight": torch.zeros(7), "model.layers.2.mlp.down": torch.zeros(1)}
    save_file(tensors, file)
    with pytest.raises(WeightsError) as caught:
        parameters(bare, published)
    said = str(caught.value)
    assert "1 tensor is missing: model.layers.0.mlp.gate_up_proj.weight" in said
    assert "model.norm.weight is [32] here and [7] there" in said
    assert "without a place in the recipe: model.layers.2.mlp.down" in said


def test_whole_numbers_are_no_weights(bare, state, tmp_path):
    whole = {**state, "lm.norm.weight": torch.ones(32, dtype=torch.int8)}
    save_file(whole, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"lm\.norm\.weight of .*int8, and not torch\.float32"):
        parameters(bare, tmp_path / "w.safetensors")


def test_weights_that_are_inside_are_not_given(artefact, published):
    with pytest.raises(ArtefactError, match="has its weights inside: leave out --weights"):
        parameters(artefact.folder, published)


def test_what_lies_in_no_file_of_the_user_is_not_linked(recipe, tiny_job, tmp_path):
    from triptych.backends.base import BackendError

    with pytest.raises(BackendError, match="drawn from a seed lie in no file: leave out --link"):
        FromJob(tiny_job, link=True)._weights(tmp_path)


def test_run_takes_weights(bare, published, session):
    asked_for = ["--prompt", "hello there", "--max-new", "4", "--json"]
    done = CliRunner().invoke(cli, ["run", str(bare), "--weights", str(published), *asked_for])
    assert done.exit_code == 0, done.output
    (answer,) = session.batch(DIALOGUES[:1], new=4)
    assert tuple(json.loads(done.stdout)["tokens"]) == answer.tokens


@pytest.mark.parametrize(
    ("given", "kind"), [("stored", "inside"), ("left", "linked"), ("not given", "none")]
)
def test_what_is_compiled_again_keeps_or_takes_weights(
    bare, published, state, tmp_path, given, kind
):
    """Of an artefact without weights: they are stored, or left where they lie."""
    source = None if given == "not given" else published
    origin = FromArtefact(Artefact(bare), source, link=given == "left")
    code = dict.fromkeys(origin.methods, "aoti/methods.pt2")
    new = tmp_path / "new"
    new.mkdir()
    manifest = origin.pack(new, "aot", Target.here(), code, {})
    assert manifest.weights.kind == kind
    assert (origin.reference() is None) == (kind == "none")
    if kind != "none":
        assert_equal(parameters_of(new, manifest), state)
    else:
        assert manifest.weights == Manifest.read(bare / MANIFEST).weights


def test_weights_are_looked_at_before_anything_is_compiled(bare, link, published, tmp_path):
    steps = []
    again = Aot(lambda *step: steps.append(step))
    with pytest.raises(WeightsError, match="nowhere is not there"):
        again.rebuild(Artefact(bare), tmp_path / "new", tmp_path / "nowhere")
    published.rename(tmp_path / "moved")
    with pytest.raises(ArtefactError, match="is not there"):
        again.rebuild(Artefact(link), tmp_path / "new")
    assert not steps


def test_links_that_moved_are_kept_where_they_are_now(link, published, state, tmp_path):
    moved = published.rename(tmp_path / "moved")
    origin = FromArtefact(Artefact(link), moved)
    new = tmp_path / "new"
    new.mkdir()
    code = dict.fromkeys(origin.methods, "aoti/methods.pt2")
    manifest = origin.pack(new, "aot", Target.here(), code, {})
    before = Manifest.read(link / MANIFEST).weights
    assert manifest.weights == before.model_copy(update={"source": str(moved)})
    assert_equal(parameters_of(new, manifest), state)


def test_a_recipe_is_compiled_with_links(other, published, state, tmp_path):
    work = job(other, "chat", weights=Weights.open(other, published))
    code = dict.fromkeys(work.methods, "aoti/methods.pt2")
    manifest = FromJob(work, link=True).pack(tmp_path, "aot", Target.here(), code, {})
    assert manifest.weights == linked(Weights.open(other, published))
    assert not (tmp_path / "weights").exists()
    assert_equal(parameters_of(tmp_path, manifest), state)

"""Engines are built from the programs inside an artefact, without the recipe."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from click.testing import CliRunner

from triptych.backends import tensorrt
from triptych.backends.artefact import Artefact
from triptych.backends.base import BackendError, Limit, Port
from triptych.backends.engine_build import Build
from triptych.backends.engine_programs import engine_limits
from triptych.backends.engines import Engine
from triptych.backends.exporting import part_of
from triptych.backends.from_artefact import FromArtefact
from triptych.backends.manifest import MANIFEST, Manifest, Target
from triptych.backends.offline import REMEDY, lacking_offline
from triptych.backends.records import PortRecord
from triptych.backends.tensorrt import TensorRT
from triptych.cli.compile import compile_command

from .conftest import operators_of_program

library = pytest.mark.skipif(
    bool(lacking_offline()),
    reason=f"not installed: {', '.join(lacking_offline())}; {REMEDY}",
)


@pytest.fixture(scope="module")
def origin(portable):
    return FromArtefact(portable)


@pytest.fixture(scope="module")
def limits(origin):
    return engine_limits(origin.limits, origin.spec, batch=1, slots=128)


@pytest.mark.parametrize("name", ["vision_image", "prefill", "decode"])
def test_a_program_from_a_file_is_the_method(origin, tiny_job, eager, limits, name):
    """For one sequence and a cache of one size, where the file has a range of both."""
    state = tiny_job.lowered.module.state_dict()
    operators = operators_of_program(origin, state, eager, limits, name)
    ours = {operator for operator in operators if operator.startswith("triptych.")}
    assert ours <= {"triptych.kv_updated.default"}


def test_a_program_knows_the_parts_of_its_recipe(origin):
    parts = {part_of(node) for node in origin.program("decode").graph.nodes}
    assert {"lm.embed", "lm.blocks", "lm.norm", "lm.head"} < parts


def test_the_new_artefact_has_engines_and_the_same_programs(
    portable, origin, limits, tmp_path, monkeypatch
):
    """With a builder that is none, and no weights: what is written is what is tested."""
    bare = without_weights(portable, tmp_path / "bare")
    built = []

    def build_engine(request, folder):
        built.append((request.method.name, dict(request.limits)))
        return Build(Engine(b"plan", "sm90", {}, request.method.outputs, {}), 0.1)

    gpu = Target(device="cuda", system="Linux", machine="x86_64", features=("sm90",))
    monkeypatch.setattr(tensorrt, "build_engine", build_engine)
    monkeypatch.setattr(
        tensorrt, "releases", lambda: {"tensorrt": "11.1", "torch-tensorrt": "2.14"}
    )
    monkeypatch.setattr(tensorrt, "Target", SimpleNamespace(here=lambda device: gpu))
    made = TensorRT(slots=128).rebuild(bare, tmp_path / "engines").manifest
    assert built == [(name, limits) for name in origin.methods]
    assert (made.backend, made.target, made.versions["tensorrt"]) == ("tensorrt", gpu, "11.1")
    assert (made.sizes["batch"], made.sizes["slots"]) == (Limit(1, 1), Limit(128, 128))
    before = portable.manifest
    for name, method in made.methods.items():
        assert made.files[method.code].state == "built"
        assert Engine.parse((tmp_path / "engines" / method.code).read_bytes()).plan == b"plan"
        assert made.files[method.program] == before.files[before.methods[name].program]
    assert (made.recipe, made.spec, made.parameters) == (
        before.recipe,
        before.spec,
        before.parameters,
    )


def without_weights(artefact, folder: Path) -> Artefact:
    """A copy that was made without."""
    for name in artefact.manifest.files:
        if not name.startswith("weights/"):
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes((artefact.folder / name).read_bytes())
    manifest = artefact.manifest
    files = {name: file for name, file in manifest.files.items() if (folder / name).exists()}
    none = manifest.weights.model_copy(update={"kind": "none", "bindings": ()})
    return written(folder, manifest, files=files, weights=none)


def written(folder: Path, manifest: Manifest, **changed: object) -> Artefact:
    text = manifest.model_copy(update=changed).text()
    (folder / MANIFEST).write_text(text, encoding="utf-8")
    return Artefact(folder)


def test_weights_in_few_bits_are_refused(portable, tmp_path):
    port = PortRecord.of(Port((8, 8), torch.int8))
    parameters = portable.manifest.parameters | {"lm.head.weight": port}
    bare = without_weights(portable, tmp_path / "bare")
    few = written(bare.folder, bare.manifest, parameters=parameters)
    with pytest.raises(BackendError, match="takes no weights in few bits, and 1 layer has such"):
        TensorRT().rebuild(few, tmp_path / "engines")


def asked(artefact: Artefact, *options: str):
    """What the command says of an artefact."""
    return CliRunner().invoke(
        compile_command, [str(artefact.folder), "--backend", "tensorrt", *options]
    )


def test_what_is_asked_without_a_report_is_refused(portable):
    said = asked(portable, "--target", "sm90", "--out", "new")
    assert said.exit_code == 2
    assert "are for --report-only" in said.output


@library
def test_engines_are_built_of_what_is_inside(portable, tmp_path):
    """`decode` of it: what the recipe's own engine of it is, `test_engines` says."""
    manifest = portable.manifest
    others = {record.program for name, record in manifest.methods.items() if name != "decode"}
    bare = without_weights(portable, tmp_path / "bare")
    for file in others:
        (bare.folder / file).unlink()
    files = {name: file for name, file in bare.manifest.files.items() if name not in others}
    decode = {"decode": manifest.methods["decode"]}
    alone = written(bare.folder, bare.manifest, methods=decode, files=files)
    options = ("--target", "sm89", "--report-only", "--evidence", "built", "--json")
    said = json.loads(asked(alone, *options).stdout)
    assert (said["recipe"], said["mode"], said["blocking"]) == ("tiny", "chat", [])
    (method,) = said["methods"].values()
    assert method["engines"] == 1
    assert len(method["built"]["aliased"]) == 4
    assert {"lm.embed", "lm.blocks", "lm.norm", "lm.head"} <= method["parts"].keys()

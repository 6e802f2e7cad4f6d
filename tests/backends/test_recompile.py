"""Code for another machine is made from the programs inside an artefact, without the recipe."""

from __future__ import annotations

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from triptych.backends.artefact import PACKAGE, Artefact
from triptych.backends.exporting import arguments, in_form
from triptych.backends.from_artefact import FromArtefact, loaded
from triptych.backends.manifest import MANIFEST, ArtefactError, Manifest, Target
from triptych.backends.verification import sha256_of
from triptych.blocks.operators import write_slots
from triptych.cli.compile import compile_command

from .conftest import assert_same_methods

UNWANTED = ("lark", "triptych.dsl", "triptych.compiler", "triptych.recipes")
"""networkx is no more of ours there, but what torch compiles with imports it."""
ALONE = """
import sys

sys.modules.update(dict.fromkeys({unwanted!r}))  # to import one of them is an error
from triptych.cli.main import main

sys.argv = ["triptych", "compile", "foreign", "--out", "here"]
main()
"""


def changed(folder: Path, **update: object) -> None:
    manifest = Manifest.read(folder / MANIFEST).model_copy(update=update)
    (folder / MANIFEST).write_text(manifest.text(), encoding="utf-8")


def only(folder: Path, method: str) -> Path:
    """The artefact with one of its methods: to compile all of them takes a minute."""
    manifest = Manifest.read(folder / MANIFEST)
    others = [record.program for name, record in manifest.methods.items() if name != method]
    for program in others:
        (folder / program).unlink()
    files = {name: record for name, record in manifest.files.items() if name not in others}
    changed(folder, methods={method: manifest.methods[method]}, files=files)
    return folder


def test_code_is_made_again_without_the_language_and_the_compiler(
    artefact, tiny_job, eager, tmp_path
):
    """What is refused here, as its message says, is compiled here from what is inside."""
    foreign = only(Path(shutil.copytree(artefact.folder, tmp_path / "foreign")), "vision_image")
    before = Manifest.read(foreign / MANIFEST)
    changed(foreign, versions={**before.versions, "torch": "2.1.0"})
    with pytest.raises(ArtefactError, match=r"`triptych compile .*foreign --out NEW`"):
        _ = Artefact(foreign).executable
    code = ALONE.format(unwanted=UNWANTED)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "off program by" in done.stdout
    again = Artefact(tmp_path / "here")
    manifest = again.manifest
    work = replace(tiny_job, methods={"vision_image": tiny_job.methods["vision_image"]})
    assert_same_methods(work, again.executable, eager, 1e-5)
    assert manifest.versions["torch"] == str(torch.__version__)
    assert manifest.versions["exported by torch"] == "2.1.0"
    assert manifest.target == Target.here()
    assert manifest.files[PACKAGE].against == "program"
    assert max(manifest.files[PACKAGE].errors.values()) < 1e-4
    same = ("recipe", "methods", "limits", "parameters", "spec", "weights", "dtype")
    assert all(getattr(manifest, one) == getattr(before, one) for one in same)
    kept = {name for name in before.files if not name.startswith(("aoti/", "kernels/"))}
    assert all(manifest.files[name] == before.files[name] for name in kept)


def test_programs_are_of_no_target(artefact):
    """Triptych's own operators stand in them: code for any target can say what they become."""
    manifest = artefact.manifest
    found = {
        name: {
            str(node.target)
            for node in loaded(artefact.folder / method.program, manifest).graph.nodes
            if str(node.target).startswith("triptych.")
        }
        for name, method in manifest.methods.items()
    }
    assert "triptych.segment_attention.default" in found["vision_image"]
    assert "triptych.kv_update.default" in found["prefill"] & found["decode"]


def test_a_program_takes_another_form(artefact):
    manifest = artefact.manifest
    program = loaded(artefact.folder / manifest.methods["decode"].program, manifest)
    operator = torch.ops.triptych.kv_update.default
    targets = [node.target for node in in_form(program, {operator: write_slots}).graph.nodes]
    assert operator not in targets
    assert targets.count(write_slots) == len(manifest.methods["decode"].updated)
    parameters = FromArtefact(artefact).parameters
    weights, _ = arguments(parameters, manifest.outsides["decode"], manifest.sizes)
    assert list(weights) == list(manifest.methods["decode"].parameters)


def test_a_program_that_torch_cannot_read_is_said(artefact, tmp_path):
    """As one of a release whose format is another; its digest is right."""
    copy = Path(shutil.copytree(artefact.folder, tmp_path / "copy"))
    file = copy / "programs" / "decode.pt2"
    file.write_bytes(b"a format of later years")
    files = dict(artefact.manifest.files)
    record = files["programs/decode.pt2"]
    files["programs/decode.pt2"] = record.model_copy(
        update={"sha256": sha256_of(file), "size": file.stat().st_size}
    )
    changed(copy, files=files, versions={**artefact.manifest.versions, "torch": "9.1.0"})
    with pytest.raises(ArtefactError, match=r"cannot read .*decode\.pt2, which torch 9\.1\.0 expo"):
        FromArtefact(Artefact(copy)).program("decode", tmp_path)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([], "give the new artefact a folder with --out"),
        (["--out", "o", "--mode", "chat", "--set", "lm.depth=2"], "--mode, --set: decided when"),
        (["--out", "o", "--backend", "inductor"], "inductor compiles recipes"),
        (["--out", "o", "--report-only"], "--report-only is for --backend tensorrt"),
        (["--out", "o", "--link"], "--link is for files of your own"),
    ],
)
def test_what_was_decided_is_not_asked_again(artefact, options, said):
    done = CliRunner().invoke(compile_command, [str(artefact.folder), *options])
    assert done.exit_code == 2
    assert said in done.output

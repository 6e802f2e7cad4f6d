"""`triptych inspect` prints what an artefact is, and names every file that is not as written."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
import torch
from click.testing import CliRunner

from triptych.backends.manifest import FORMAT, MANIFEST, ArtefactError, Manifest, Target, versions
from triptych.backends.verification import check_fit
from triptych.cli.inspect import inspect_command

from .small import CONTENT, DIGEST, rewritten, small


@pytest.fixture
def folder(tmp_path):
    """A small artefact."""
    return small(tmp_path / "artefact")


def inspect(*arguments):
    return CliRunner().invoke(inspect_command, list(map(str, arguments)))


def test_a_person_reads_all_that_the_manifest_knows(folder):
    done = inspect(folder)
    assert done.exit_code == 0, done.output
    lines = [" ".join(line.split()) for line in done.output.splitlines()]
    for said in (
        f"recipe tiny, mode chat, digest {DIGEST}",
        f"format {FORMAT}",
        "precision float32, 1 weights in few bits",
        "here can run",
        "decode text.tokens int64 [batch, 1]",
        "decode cache.0.k ... cache.0.v (2) float32 [batch, 2, slots, 16] updated in place",
        "decode 2 parameters yields logits",
        "slots 32 to 512 in steps of 16",
        "weights/00001.safetensors 2 parameters in 2 tensors",
        "lm: 1 linear layer in int4(group: 64), weights off full precision by 9.0e-02",
        "methods off full precision by: decode 2.0e-03",
        "tokens tiktoken(name: qwen.tiktoken)",
        "image image, native(multiple: 28)",
        "image(patch: 14, mean: [0.4815], std: [0.2686])",
        "layout chatml",
        "limits context 512, batch [1, 4], history none",
        "sampling greedy(repetition_penalty: 1)",
    ):
        assert said in lines, (said, done.output)
    assert any(
        "executed on Xeon, off eager by at most 3.0e-07 as written" in line for line in lines
    )
    assert any("programs/decode.pt2 9 " in line and "built as written" in line for line in lines)
    assert any(line.startswith("made by triptych") and "g++ 12" in line for line in lines)
    assert any(f"torch {torch.__version__}" in line for line in lines)


def test_json_is_the_manifest_and_what_was_found(folder):
    said = json.loads(inspect(folder, "--json").stdout)
    assert (said["cannot_run"], said["problems"]) == (None, {})
    assert Manifest.model_validate(said["manifest"]) == Manifest.read(folder / MANIFEST)


@pytest.mark.parametrize("name", CONTENT)
def test_a_byte_changed_is_named(folder, name):
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    done = inspect(folder)
    assert done.exit_code == 1
    assert f"{folder / name} was changed" in done.stderr
    assert [line.split()[0] for line in done.stdout.splitlines() if "DAMAGED" in line] == [name]


def test_every_file_that_is_wrong_is_named_at_once(folder):
    (folder / "aoti/methods.pt2").write_bytes(b"machine cod")
    (folder / "programs/decode.pt2").unlink()
    (folder / "aoti/extra.so").write_bytes(b"code")
    (folder / "weights/00001.safetensors").write_bytes(b"Numbers")
    done = inspect(folder, "--json")
    assert done.exit_code == 1
    problems = json.loads(done.stdout)["problems"]
    assert problems.keys() == {
        "aoti/methods.pt2",
        "programs/decode.pt2",
        "aoti/extra.so",
        "weights/00001.safetensors",
    }
    assert "has 11 bytes and should have 12" in problems["aoti/methods.pt2"]
    assert "is missing" in problems["programs/decode.pt2"]
    assert "does not belong" in problems["aoti/extra.so"]
    assert "aoti/extra.so" in inspect(folder).stdout


def test_a_changed_manifest_is_refused(folder):
    file = folder / MANIFEST
    file.write_text(file.read_text().replace('"high": 4', '"high": 9'))
    assert isinstance(inspect(folder).exception, ArtefactError)
    assert "manifest.json was changed after it was written" in str(inspect(folder).exception)


@pytest.mark.parametrize("number", [1, FORMAT + 1])
def test_another_format_is_refused_with_what_to_do(folder, number):
    content = json.loads((folder / MANIFEST).read_text())
    (folder / MANIFEST).write_text(json.dumps({**content, "format": number}))
    said = str(inspect(folder).exception)
    assert f"has format {number}, and this version of triptych reads {FORMAT}" in said
    assert "run `triptych compile` again from the recipe" in said


def test_what_cannot_run_here_is_whole_all_the_same(folder):
    target = Target.here()
    rewritten(folder, target=target.model_copy(update={"features": ("avx1024",)}))
    done = inspect(folder)
    assert done.exit_code == 0
    assert "was compiled for avx1024: make code for this machine" in done.output


@pytest.mark.parametrize("found", [None, "10.9"])
def test_engines_of_another_tensorrt_are_refused(folder, monkeypatch, found):
    monkeypatch.setattr("triptych.backends.verification._tensorrt", lambda: found)
    made = {**versions(), "tensorrt": "11.1"}
    manifest = rewritten(folder, backend="tensorrt", versions=made)
    said = rf"built by TensorRT 11\.1, and here is {found or 'none'}: make engines"
    with pytest.raises(ArtefactError, match=said):
        check_fit(folder, manifest)


def test_engines_for_another_gpu_are_refused(folder):
    target = Target(device="cuda", system=Target.here().system, machine="x86_64", features=("sm1",))
    target = target.model_copy(update={"machine": Target.here().machine})
    manifest = rewritten(folder, backend="tensorrt", target=target)
    with pytest.raises(ArtefactError, match=r"compiled for sm1: make engines for this machine wi"):
        check_fit(folder, manifest)


def test_it_knows_no_language_and_no_compiler(folder):
    code = (
        "import sys\n"
        "from triptych.cli.main import main\n"
        f"sys.argv = ['triptych', 'inspect', {str(folder)!r}]\n"
        "try:\n    main()\nexcept SystemExit as leave:\n    assert not leave.code\n"
        "unwanted = ('lark', 'networkx', 'triptych.dsl', 'triptych.compiler')\n"
        "loaded = [name for name in sys.modules if name.startswith(unwanted)]\n"
        "assert not loaded, loaded\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr

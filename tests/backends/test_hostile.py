"""What a stranger may have written into an artefact is refused by name before anything is read."""

from __future__ import annotations

import hashlib
import json
import os
import struct

import pytest
import torch
from safetensors.torch import save_file

from triptych.backends import manifest as manifests
from triptych.backends.artefact import Artefact
from triptych.backends.bindings import parameters_of
from triptych.backends.manifest import MANIFEST, ArtefactError, Manifest
from triptych.backends.stored import WeightsError
from triptych.backends.verification import sha256_of, verify

from .small import WEIGHTS, rewritten, small


@pytest.fixture
def folder(tmp_path):
    """A small artefact."""
    return small(tmp_path / "artefact")


def written(folder, content):
    """A manifest as a stranger writes it: the digest of itself is right."""
    content.pop("digest", None)
    digest = hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()
    (folder / MANIFEST).write_text(json.dumps({"digest": digest, **content}))


def content_of(folder):
    return json.loads((folder / MANIFEST).read_text())


@pytest.mark.parametrize("name", ["../outside", "/etc/passwd", "a/../../b", "a//b", "", "c:\\x"])
def test_a_name_that_leads_out_of_the_folder(folder, name):
    content = content_of(folder)
    content["files"][name] = content["files"][WEIGHTS]
    written(folder, content)
    with pytest.raises(ArtefactError, match=r"manifest\.json is damaged: files\."):
        Artefact(folder)


@pytest.mark.parametrize(
    ("place", "value", "said"),
    [
        (("methods", "decode", "code"), "../run.so", "methods.decode.code"),
        (("methods", "decode", "code"), "other.so", "other.so that the method decode names"),
        (("methods", "decode", "program"), "x.pt2", "x.pt2 that the method decode names"),
        (("weights", "bindings", 0, "file"), "w.safetensors", "w.safetensors of weights is not"),
        (("spec", "tokens", "tokenizer", "name"), "../../key", "that the spec of tokens names"),
        (("spec", "tokens"), "word", "that the spec of tokens names"),
        (("files", WEIGHTS, "size"), 10**30, f"files.{WEIGHTS}.size"),
        (("files", WEIGHTS, "size"), -1, f"files.{WEIGHTS}.size"),
        (("files", WEIGHTS, "sha256"), "f" * 63, f"files.{WEIGHTS}.sha256"),
        (("limits", "batch", "high"), 2**63, "limits.batch.high"),
        (("limits", "batch", "multiple"), 0, "limits.batch.multiple"),
        (("limits", "slots"), None, "limits.slots"),
        (("methods", "decode", "inputs", "cache.0.k", "dtype"), "load", "cache.0.k.dtype"),
        (("methods", "decode", "inputs", "cache.0.k", "sizes"), ["x"], "x of decode has no limits"),
        (("methods", "decode", "parameters"), ["w"], "w of decode is no parameter"),
        (("weights", "bindings", 0, "form", "groups"), 0, "weights.bindings.0.form.groups"),
        (("weights", "bindings"), [], "lies nowhere"),
        (("parameters", "lm.norm.weight", "sizes"), [9], "lm.norm.weight is (9,) to the methods"),
        (("quantized",), {"lm.head.weight": "int2"}, "quantized.lm.head.weight"),
        (("quantized",), {"lm.norm.weight": "int8"}, "lm.norm.weight is kept in few bits, and is"),
        (("versions",), {}, "no release of torch"),
        (("unknown",), 1, "unknown"),
    ],
)
def test_a_manifest_that_does_not_hold_together(folder, place, value, said):
    content = content_of(folder)
    inner = content
    for key in place[:-1]:
        inner = inner[key]
    inner[place[-1]] = value
    written(folder, content)
    with pytest.raises(ArtefactError) as caught:
        Manifest.read(folder / MANIFEST)
    assert "manifest.json is damaged" in str(caught.value)
    assert said in str(caught.value)


def test_a_parameter_that_lies_in_two_tensors(folder):
    content = content_of(folder)
    content["weights"]["bindings"] *= 2
    written(folder, content)
    with pytest.raises(ArtefactError, match=r"weight lies in two tensors"):
        Manifest.read(folder / MANIFEST)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"format": 3, "format": 3}', "'format' is said twice"),
        ('{"files": {"a": 1, "b": 2, "a": 3}}', "'a' is said twice"),
        ("[" * 200_000, "is damaged"),
        ('{"format": NaN}', "NaN is no number"),
        ('{"format": ' + "9" * 5000 + "}", "is damaged"),
        ("\x00", "is damaged"),
        ("[]", "has format None"),
        ('{"format": {}}', "has format {}"),
    ],
    ids=lambda value: value[:20],
)
def test_json_that_is_none_or_says_a_thing_twice(folder, text, said):
    (folder / MANIFEST).write_text(text)
    with pytest.raises(ArtefactError) as caught:
        Manifest.read(folder / MANIFEST)
    assert str(folder / MANIFEST) in str(caught.value)
    assert said in str(caught.value)


def test_a_huge_manifest_is_not_read(folder, monkeypatch):
    monkeypatch.setattr(manifests, "LARGEST", 1000)
    with pytest.raises(ArtefactError, match=r"manifest\.json is damaged: it has more than 1,000 b"):
        Manifest.read(folder / MANIFEST)


@pytest.mark.parametrize("kind", ["a link", "a link to a folder", "a pipe", "an extra link"])
def test_what_is_no_file_of_its_own(folder, tmp_path, kind):
    """A link would be followed to what may change after it was verified; a pipe has no end."""
    file = folder / WEIGHTS
    if kind == "a link":
        file.rename(tmp_path / "elsewhere")
        file.symlink_to(tmp_path / "elsewhere")
    elif kind == "a link to a folder":
        file.parent.rename(tmp_path / "elsewhere")
        file.parent.symlink_to(tmp_path / "elsewhere")
    elif kind == "a pipe":
        file.unlink()
        os.mkfifo(file)
    else:
        (folder / "weights" / "more").symlink_to("/dev/zero")
    with pytest.raises(ArtefactError, match=r"weights"):
        verify(folder, Manifest.read(folder / MANIFEST).files)


def header(described, length=None):
    """A safetensors file with this header, and 64 bytes of numbers."""
    text = (described if isinstance(described, str) else json.dumps(described)).encode()
    return struct.pack("<Q", len(text) if length is None else length) + text + bytes(64)


NORMAL = {"dtype": "F32", "shape": [8], "data_offsets": [0, 32]}
ONE, OTHER = json.dumps(NORMAL), json.dumps({**NORMAL, "data_offsets": [32, 64]})
HEAD = {"lm.embed.weight": NORMAL, "lm.norm.weight": {**NORMAL, "data_offsets": [32, 64]}}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (header(HEAD, 2**62), "cannot be read as safetensors"),
        (header(HEAD, 10**9), "cannot be read as safetensors"),
        (header({**HEAD, "lm.norm.weight": {**NORMAL, "shape": [2**40]}}), "cannot be read"),
        (header({**HEAD, "lm.norm.weight": {**NORMAL, "data_offsets": [32, 9**9]}}), "cannot be"),
        (header({**HEAD, "lm.norm.weight": {**NORMAL, "data_offsets": [64, 32]}}), "cannot be"),
        (header({"../a": NORMAL, "b": {**NORMAL, "data_offsets": [32, 64]}}), "cannot be read"),
        (header(f'{{"lm.embed.weight": {ONE}, "lm.embed.weight": {OTHER}}}'), "cannot be read"),
        (header(f'{{"lm.embed.weight": {ONE}, "lm.norm.weight": {ONE}}}'), "cannot be read"),
        (b"", "cannot be read as safetensors"),
        (b"\xff" * 200, "cannot be read as safetensors"),
    ],
    ids=range(10),
)
def test_a_file_of_weights_that_is_none(folder, content, said):
    (folder / WEIGHTS).write_bytes(content)
    with pytest.raises(WeightsError) as caught:
        parameters_of(folder, Manifest.read(folder / MANIFEST))
    assert str(folder / WEIGHTS) in str(caught.value)
    assert said in str(caught.value)


def test_a_tensor_of_another_shape_never_reaches_the_code(folder):
    """Compiled code would read past its end."""
    tensors = {"lm.embed.weight": torch.zeros(8), "lm.norm.weight": torch.zeros(4)}
    save_file(tensors, folder / WEIGHTS)
    files = dict(Manifest.read(folder / MANIFEST).files)
    update = {"sha256": sha256_of(folder / WEIGHTS), "size": (folder / WEIGHTS).stat().st_size}
    files[WEIGHTS] = files[WEIGHTS].model_copy(update=update)
    manifest = rewritten(folder, files=files)
    verify(folder, files)
    with pytest.raises(WeightsError, match=r"lm\.norm\.weight of .* is \[4\], and should be \[8\]"):
        parameters_of(folder, manifest)

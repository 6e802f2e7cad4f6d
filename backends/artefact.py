"""An artefact: a folder that answers without its recipe, checked before a byte of it is run.

    manifest.json        what it is: methods, limits, weights, the host's part, digests
    programs/METHOD.pt2  each method as a portable program without weights
    aoti/methods.pt2     machine code of all methods for one kind of processor
    weights/*.safetensors  every parameter, once
    tokenizer/FILE       the vocabulary

The code in `aoti` is machine code, and the programs name operators: an artefact must be trusted as
any program is. The digests find damage, not malice.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors.torch import load_file
from torch import Tensor

from ..blocks import operators  # noqa: F401  (the code in an artefact calls triptych's operators)
from ..blocks.input.processor import Processor
from .base import Executable, Limit, Method, Port
from .generation import Session

MANIFEST = "manifest.json"
PROGRAMS = "programs"
PACKAGE = "aoti/methods.pt2"
WEIGHTS = "weights"
TOKENIZER = "tokenizer"


class ArtefactError(Exception):
    """A folder is not an artefact that can be run here; the message says why and what to do."""


class _Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class PortRecord(_Record):
    """One input of a method."""

    sizes: tuple[int | str, ...]
    dtype: str

    @classmethod
    def of(cls, port: Port) -> PortRecord:
        """What is written of a port."""
        return cls(sizes=port.sizes, dtype=str(port.dtype).removeprefix("torch."))

    def port(self) -> Port:
        """The port again."""
        return Port(self.sizes, getattr(torch, self.dtype))


class MethodRecord(_Record):
    """The outside of a method: compiled code takes its parameters, then its inputs, in order."""

    inputs: dict[str, PortRecord]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]
    updated: tuple[str, ...]
    """Inputs that are updated in place."""
    program: str

    @classmethod
    def of(cls, method: Method, program: str) -> MethodRecord:
        """What is written of a method."""
        inputs = {name: PortRecord.of(port) for name, port in method.inputs.items()}
        return cls(
            inputs=inputs,
            outputs=method.outputs,
            parameters=method.parameters,
            updated=tuple(method.caches),
            program=program,
        )

    def method(self, name: str) -> Method:
        """The method again."""
        inputs = {feed: record.port() for feed, record in self.inputs.items()}
        return Method(name, inputs, self.outputs, self.parameters)


class LimitRecord(_Record):
    """The range of a named size."""

    low: int
    high: int
    multiple: int


class Target(_Record):
    """The machine that compiled code is for."""

    device: Literal["cpu"] = "cpu"
    system: str
    machine: str
    features: tuple[str, ...]
    """Instruction sets that the code may use."""

    @classmethod
    def here(cls) -> Target:
        """This machine."""
        return cls(
            system=platform.system(),
            machine=platform.machine(),
            features=tuple(sorted(_features())),
        )

    def lacking(self, here: Target) -> list[str]:
        """What the code needs and `here` does not have."""
        if (self.system, self.machine) != (here.system, here.machine):
            return [f"{self.system} on {self.machine} (this is {here.system} on {here.machine})"]
        return sorted(set(self.features) - set(here.features))


class FileRecord(_Record):
    """One file: its content, and what is known of it."""

    sha256: str
    size: int
    state: Literal["stored", "built", "executed"]
    """Stored as it came; built, and never run; or executed and compared with eager."""
    device: str | None = None
    errors: dict[str, float] = {}
    """For each method executed, the largest difference from eager as a share of its scale."""


class RecipeRecord(_Record):
    """What the artefact was made from."""

    name: str
    mode: str
    digest: str
    """SHA-256 of the methods, their limits, the host's part, and the precision."""


class Manifest(_Record):
    """All that is known of an artefact."""

    format: Literal[1] = 1
    recipe: RecipeRecord
    versions: dict[str, str]
    target: Target
    dtype: str
    methods: dict[str, MethodRecord]
    limits: dict[str, LimitRecord]
    weights: dict[str, str]
    """Parameter -> file; empty when the artefact was made without weights."""
    spec: dict[str, Any]
    """The feed spec: tokens, inputs, positions, layouts, limits, sampling."""
    files: dict[str, FileRecord]

    def text(self) -> str:
        """The manifest as it is written: a digest of itself first, then everything."""
        content = self.model_dump(mode="json")
        return json.dumps({"digest": _digest(content), **content}, indent=1) + "\n"

    @classmethod
    def read(cls, file: Path) -> Manifest:
        """The manifest in a file; ArtefactError unless it is whole."""
        try:
            content = json.loads(file.read_bytes())
        except FileNotFoundError as problem:
            raise ArtefactError(
                f"{file.parent} is not an artefact: it has no {MANIFEST}"
            ) from problem
        except (OSError, ValueError) as problem:
            raise ArtefactError(f"{file} is damaged: {problem}") from problem
        if not isinstance(content, dict) or content.get("format") != 1:
            raise ArtefactError(f"{file} was written by another version of triptych: compile again")
        if content.pop("digest", None) != _digest(content):
            raise ArtefactError(f"{file} was changed after it was written: compile again")
        try:
            return cls.model_validate(content)
        except ValidationError as problem:
            raise ArtefactError(f"{file} is damaged: {problem.errors()[0]['msg']}") from problem


class Artefact:
    """An artefact whose files are all what its manifest says."""

    def __init__(self, folder: Path) -> None:
        """Read and verify; ArtefactError names the file that is missing, changed or foreign."""
        self.folder = folder
        self.manifest = Manifest.read(folder / MANIFEST)
        _verify(folder, self.manifest.files)

    @cached_property
    def executable(self) -> ArtefactExecutable:
        """The methods; ArtefactError when the code is not for this machine or this torch."""
        return ArtefactExecutable(self.folder, self.manifest)

    def session(self) -> Session:
        """What answers."""
        spec = self.manifest.spec
        return Session(self.executable, Processor(spec, self.folder / TOKENIZER), spec)


class ArtefactExecutable(Executable):
    """Methods of an AOTInductor package; weights are mapped from their files and shared by all."""

    def __init__(self, folder: Path, manifest: Manifest) -> None:
        _check_fit(folder, manifest)
        self.methods = {name: record.method(name) for name, record in manifest.methods.items()}
        self.limits = {
            name: Limit(record.low, record.high, record.multiple)
            for name, record in manifest.limits.items()
        }
        self.device = torch.device(manifest.target.device)
        weights: dict[str, Tensor] = {}
        for file in dict.fromkeys(manifest.weights.values()):
            weights |= load_file(folder / file)
        self._parameters = {
            name: [weights[parameter] for parameter in method.parameters]
            for name, method in self.methods.items()
        }
        package = str(folder / PACKAGE)
        self._loaders = {
            name: torch._C._aoti.AOTIModelPackageLoader(package, name, False, 1, -1)
            for name in self.methods
        }

    def _run(
        self, method: Method, inputs: dict[str, Tensor], sizes: Mapping[str, int]
    ) -> dict[str, Tensor]:
        given = [*self._parameters[method.name], *inputs.values()]
        outputs = self._loaders[method.name].boxed_run(given)
        return dict(zip(method.outputs, outputs, strict=True))


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to fill; it takes its place, whole, when all went well.

    ArtefactError when `folder` holds something that is not an artefact.
    """
    if folder.exists() and not (folder / MANIFEST).exists() and any(folder.iterdir()):
        raise ArtefactError(f"{folder} holds other files: give the artefact a folder of its own")
    folder.parent.mkdir(parents=True, exist_ok=True)
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    old = folder.with_name(f".{folder.name}.{os.getpid()}.old")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir()
    try:
        yield beside
        for path in [*beside.rglob("*"), beside]:
            _flush(path)
        if folder.exists():
            folder.rename(old)
        beside.rename(folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def records(folder: Path, states: Mapping[str, Any] | None = None) -> dict[str, FileRecord]:
    """What there is to say of each file below a folder; `states` has more than "stored"."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_sha256, files)
        return {
            (name := path.relative_to(folder).as_posix()): FileRecord(
                sha256=digest,
                size=path.stat().st_size,
                **((states or {}).get(name) or {"state": "stored"}),
            )
            for path, digest in zip(files, digests, strict=True)
        }


def versions() -> dict[str, str]:
    """What made an artefact."""
    from importlib.metadata import version

    return {
        "triptych": version("triptych"),
        "torch": str(torch.__version__),
        "python": platform.python_version(),
    }


def _check_fit(folder: Path, manifest: Manifest) -> None:
    again = "run `triptych compile` again on this machine"
    theirs, ours = manifest.versions["torch"], str(torch.__version__)
    if _release(theirs) != _release(ours):
        raise ArtefactError(f"{folder} was compiled by torch {theirs}, and this is {ours}: {again}")
    lacking = manifest.target.lacking(Target.here())
    if lacking:
        raise ArtefactError(f"{folder} was compiled for {', '.join(lacking)}: {again}")
    if not manifest.weights:
        raise ArtefactError(f"{folder} was made without weights: compile again with --weights")


def _verify(folder: Path, files: Mapping[str, FileRecord]) -> None:
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(files.keys() - there):
        raise ArtefactError(f"{folder / name} is missing: copy the whole artefact again")
    for name in sorted(there - files.keys() - {MANIFEST}):
        raise ArtefactError(f"{folder / name} does not belong to the artefact: remove it")
    for name, record in files.items():
        size = (folder / name).stat().st_size
        if size != record.size:
            raise ArtefactError(
                f"{folder / name} has {size:,} bytes and should have {record.size:,}: "
                "copy it again, or compile again"
            )
    with ThreadPoolExecutor() as pool:
        digests = pool.map(_sha256, (folder / name for name in files))
        for (name, record), digest in zip(files.items(), digests, strict=True):
            if digest != record.sha256:
                raise ArtefactError(
                    f"{folder / name} was changed: its digest is {digest[:12]}..., not "
                    f"{record.sha256[:12]}...; copy it again, or compile again"
                )


def _features() -> set[str]:
    """The instruction sets of this processor that a compiler may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    kinds = ("avx", "amx", "fma", "bmi", "sse", "f16c", "asimd", "sve", "bf16", "i8mm", "vaes")
    return {flag for flag in flags.partition(":")[2].split() if flag.startswith(kinds)}


def _release(torch_version: str) -> tuple[str, ...]:
    return tuple(torch_version.partition("+")[0].split(".")[:2])


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""What an artefact says of itself: every file with its digest, every method with its limits."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import util
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError

from .base import Limit, Method, Port

MANIFEST = "manifest.json"
FORMAT: Final = 2
"""Raised when what a manifest holds changes; only this one is read."""

_CHUNK = 2**24


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
    """The file of the portable program."""
    code: str
    """The file of the compiled code."""

    @classmethod
    def of(cls, method: Method, program: str, code: str) -> MethodRecord:
        """What is written of a method."""
        inputs = {name: PortRecord.of(port) for name, port in method.inputs.items()}
        return cls(
            inputs=inputs,
            outputs=method.outputs,
            parameters=method.parameters,
            updated=tuple(method.caches),
            program=program,
            code=code,
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

    @classmethod
    def of(cls, limit: Limit) -> LimitRecord:
        """What is written of a limit."""
        return cls(low=limit.low, high=limit.high, multiple=limit.multiple)

    def limit(self) -> Limit:
        """The limit again."""
        return Limit(self.low, self.high, self.multiple)


class Target(_Record):
    """The machine that compiled code is for."""

    device: Literal["cpu", "cuda"]
    system: str
    machine: str
    features: tuple[str, ...]
    """What the code may use: instruction sets, or the compute capability of a GPU."""

    @classmethod
    def here(cls, device: Literal["cpu", "cuda"] = "cpu") -> Target:
        """This machine."""
        return cls(
            device=device,
            system=platform.system(),
            machine=platform.machine(),
            features=tuple(sorted(_FEATURES[device]())),
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

    format: Literal[2] = FORMAT
    recipe: RecipeRecord
    backend: Literal["aot", "tensorrt"]
    versions: dict[str, str]
    """What made it: triptych, torch and Python, and the compiler or the builder of engines."""
    target: Target
    dtype: str
    quantized: tuple[str, ...] = ()
    """The weights that are kept in 8 bits."""
    rounding: dict[str, float] = {}
    """For each method, how far 8 bits bring it off what it yields without them."""
    methods: dict[str, MethodRecord]
    limits: dict[str, LimitRecord]
    weights: dict[str, str]
    """Parameter -> file; empty when the artefact was made without weights."""
    spec: dict[str, Any]
    """The feed spec: tokens, inputs, positions, layouts, limits, sampling."""
    files: dict[str, FileRecord]

    @property
    def outsides(self) -> dict[str, Method]:
        """The methods."""
        return {name: record.method(name) for name, record in self.methods.items()}

    @property
    def sizes(self) -> dict[str, Limit]:
        """The limits of the named sizes."""
        return {name: record.limit() for name, record in self.limits.items()}

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
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else None
            raise ArtefactError(
                f"{file} has format {found}, and this version of triptych reads {FORMAT}: run "
                "`triptych compile` again from the recipe and its weights"
            )
        if content.pop("digest", None) != _digest(content):
            raise ArtefactError(f"{file} was changed after it was written: compile again")
        try:
            return cls.model_validate(content)
        except ValidationError as problem:
            raise ArtefactError(f"{file} is damaged: {problem.errors()[0]['msg']}") from problem


def versions() -> dict[str, str]:
    """What made an artefact, whatever its backend."""
    return {
        "triptych": version("triptych"),
        "torch": str(torch.__version__),
        "safetensors": version("safetensors"),
        "python": platform.python_version(),
    }


def verify(folder: Path, files: Mapping[str, FileRecord]) -> None:
    """ArtefactError names the first file that is missing, foreign, changed or cut short."""
    for _, problem in damage(folder, files):
        raise ArtefactError(problem)


def damage(
    folder: Path, files: Mapping[str, FileRecord], read: Callable[[int], None] = lambda size: None
) -> Iterator[tuple[str, str]]:
    """Each file that is missing, foreign, changed or cut short, and what to do about it.

    `read` is told of the bytes that were read, a piece at a time; what is quick to see comes first.
    """
    there = {path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file()}
    for name in sorted(files.keys() - there):
        yield name, f"{folder / name} is missing: copy the whole artefact again"
    for name in sorted(there - files.keys() - {MANIFEST}):
        yield name, f"{folder / name} does not belong to the artefact: remove it"
    whole: dict[str, FileRecord] = {}
    for name in sorted(files.keys() & there):
        size = (folder / name).stat().st_size
        if size == files[name].size:
            whole[name] = files[name]
            continue
        yield (
            name,
            f"{folder / name} has {size:,} bytes and should have {files[name].size:,}: "
            "copy it again, or compile again",
        )
    with ThreadPoolExecutor() as pool:
        digests = pool.map(lambda name: sha256_of(folder / name, read), whole)
        for (name, record), digest in zip(whole.items(), digests, strict=True):
            if digest != record.sha256:
                yield (
                    name,
                    f"{folder / name} was changed: its digest is {digest[:12]}..., not "
                    f"{record.sha256[:12]}...; copy it again, or compile again",
                )


def check_fit(folder: Path, manifest: Manifest) -> None:
    """ArtefactError when the code is not for this machine, or lacks its weights."""
    again = "run `triptych compile` again on this machine"
    theirs, ours = manifest.versions["torch"], str(torch.__version__)
    if _release(theirs) != _release(ours):
        raise ArtefactError(f"{folder} was compiled by torch {theirs}, and this is {ours}: {again}")
    lacking = manifest.target.lacking(Target.here(manifest.target.device))
    if lacking:
        raise ArtefactError(f"{folder} was compiled for {', '.join(lacking)}: {again}")
    if manifest.backend == "tensorrt":
        built, found = manifest.versions["tensorrt"], _tensorrt()
        if built != found:
            raise ArtefactError(
                f"{folder} was built by TensorRT {built}, and here is {found or 'none'}: {again}"
            )
    if not manifest.weights:
        raise ArtefactError(f"{folder} was made without weights: compile again with --weights")


def sha256_of(path: Path, read: Callable[[int], None] = lambda size: None) -> str:
    """SHA-256 of a file; `read` is told of the bytes, a piece at a time."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            read(len(chunk))
    return digest.hexdigest()


def _release(torch_version: str) -> tuple[str, ...]:
    return tuple(torch_version.partition("+")[0].split(".")[:2])


def _digest(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _instruction_sets() -> set[str]:
    """The instruction sets of this processor that a compiler may use."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return set()
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), ":")
    kinds = ("avx", "amx", "fma", "bmi", "sse", "f16c", "asimd", "sve", "bf16", "i8mm", "vaes")
    return {flag for flag in flags.partition(":")[2].split() if flag.startswith(kinds)}


def _capability() -> set[str]:
    """The compute capability of the GPU, as `sm90`; empty without one."""
    if not torch.cuda.is_available():
        return set()
    major, minor = torch.cuda.get_device_capability()
    return {f"sm{major}{minor}"}


def _tensorrt() -> str | None:
    """The release of TensorRT that is installed."""
    if not util.find_spec("tensorrt"):
        return None
    import tensorrt

    return str(tensorrt.__version__)


_FEATURES = {"cpu": _instruction_sets, "cuda": _capability}

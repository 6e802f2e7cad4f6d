"""What an artefact says of itself: every file with its digest, every method with its limits."""

from __future__ import annotations

import hashlib
import json
import platform
from collections.abc import Iterator, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any, Final, Literal

import torch
from pydantic import Field, ValidationError

from .base import Limit, Method
from .few_bits import misfits, whole
from .records import (
    Digest,
    Dtype,
    Fewer,
    FileName,
    FileRecord,
    LimitRecord,
    MethodRecord,
    PortRecord,
    Record,
    WeightsRecord,
)

MANIFEST = "manifest.json"
FORMAT: Final = 3
"""Raised when what a manifest holds changes; only this one is read."""
LARGEST = 2**26
"""Bytes of a manifest, at most: that of a model of 72 billion parameters has a 60th of it."""


class ArtefactError(Exception):
    """A folder is not an artefact that can be run here; the message says why and what to do."""


class Target(Record):
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


class RecipeRecord(Record):
    """What the artefact was made from."""

    name: str
    mode: str
    """Of an artefact that trains: the stage."""
    digest: Digest
    """SHA-256 of the methods, their limits, the host's part, and the precision."""


class Manifest(Record):
    """All that is known of an artefact."""

    format: Literal[3] = FORMAT
    recipe: RecipeRecord
    backend: Literal["aot", "tensorrt"]
    versions: dict[str, str]
    """What made it: triptych, torch and Python, and the compiler or the builder of engines."""
    target: Target
    dtype: Dtype
    quantized: dict[str, Fewer] = Field(default_factory=dict)
    """How the weights are kept that are kept in few bits: `int8`, `int4(group: 64)`."""
    weight_rounding: dict[str, float] = Field(default_factory=dict)
    """For each part, how far few bits bring its weights off: root of squares, as a share."""
    rounding: dict[str, float] = Field(default_factory=dict)
    """For each method, how far few bits bring it off what it yields without them."""
    methods: dict[str, MethodRecord]
    limits: dict[str, LimitRecord]
    parameters: dict[str, PortRecord]
    """What the methods take beside their inputs."""
    tokens: int
    """A bound of ids: every table of embeddings has a row for each below it."""
    weights: WeightsRecord
    spec: dict[str, Any]
    """The feed spec: tokens, inputs, positions, layouts, limits, sampling."""
    training: dict[str, Any] | None = None
    """Of an artefact that trains: what its step needs beside its methods."""
    files: dict[FileName, FileRecord]

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
        """The manifest in a file; ArtefactError unless it is whole and agrees with itself."""
        content = _json(file)
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            found = content.get("format") if isinstance(content, dict) else None
            raise ArtefactError(
                f"{file} has format {str(found)[:20]}, and this version of triptych reads "
                f"{FORMAT}: run `triptych compile` again from the recipe and its weights"
            )
        if content.pop("digest", None) != _digest(content):
            raise ArtefactError(f"{file} was changed after it was written: compile again")
        try:
            manifest = cls.model_validate(content)
        except ValidationError as problem:
            first = problem.errors()[0]
            place = ".".join(str(key)[:80] for key in first["loc"])
            raise ArtefactError(f"{file} is damaged: {place}: {first['msg']}") from problem
        for complaint in _disagreements(manifest):
            raise ArtefactError(f"{file} is damaged: {complaint}")
        return manifest


def versions() -> dict[str, str]:
    """What made an artefact, whatever its backend."""
    return {
        "triptych": version("triptych"),
        "torch": str(torch.__version__),
        "safetensors": version("safetensors"),
        "python": platform.python_version(),
    }


def _json(file: Path) -> Any:
    """What a JSON file holds; ArtefactError when it is none, huge, or says a thing twice."""
    try:
        with file.open("rb") as content:
            text = content.read(LARGEST + 1)
        if len(text) > LARGEST:
            raise ArtefactError(f"{file} is damaged: it has more than {LARGEST:,} bytes")
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_number)
    except FileNotFoundError as problem:
        raise ArtefactError(f"{file.parent} is not an artefact: it has no {MANIFEST}") from problem
    except (OSError, ValueError, RecursionError) as problem:
        raise ArtefactError(f"{file} is damaged: {problem}") from problem


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"{twice[:80]!r} is said twice")
    return found


def _no_number(text: str) -> None:
    raise ValueError(f"{text} is no number of JSON")


def _disagreements(manifest: Manifest) -> Iterator[str]:
    """What a manifest says that its other parts do not bear out."""
    needed = {"torch", *(["tensorrt"] if manifest.backend == "tensorrt" else [])}
    for tool in sorted(needed - manifest.versions.keys()):
        yield f"no release of {tool}"
    named = dict[str, str]()  # file -> what names it
    for name, method in manifest.methods.items():
        named |= {method.program: f"the method {name}", method.code: f"the method {name}"}
        for parameter in sorted(set(method.parameters) - manifest.parameters.keys()):
            yield f"{parameter} of {name} is no parameter"
        for given in method.inputs.values():
            for size in given.sizes:
                if isinstance(size, str) and size not in manifest.limits:
                    yield f"{size} of {name} has no limits"
    for user in ("tokens", "questions"):
        if manifest.spec.get(user):
            named[f"tokenizer/{_vocabulary(manifest.spec[user])}"] = f"the spec of {user}"
    yield from misfits(manifest)
    weights = manifest.weights
    inside = weights.kind == "inside"
    ports = {name: record.port() for name, record in manifest.parameters.items()}
    taken = ports if inside else whole(manifest)
    held = dict[str, tuple[int, ...]]()
    for binding in weights.bindings:
        for parameter in binding.holds.keys() & held.keys():
            yield f"{parameter} lies in two tensors"
        held |= binding.holds
    for parameter, port in taken.items():
        if held.get(parameter, port.sizes) != port.sizes:
            yield f"{parameter} is {port.sizes} to the methods, and {held[parameter]} in its file"
    if weights.kind != "none":
        for parameter in sorted(taken.keys() - held.keys()):
            yield f"{parameter} lies nowhere"
        known = manifest.files if inside else weights.files
        for file in {binding.file for binding in weights.bindings}:
            if file is None or file not in known:
                yield f"the file {file} of weights is not listed"
    for file, by in named.items():
        if file not in manifest.files:
            yield f"the file {file} that {by} names is not listed"


def _vocabulary(tokens: Any) -> str:
    """The file of a tokenizer, as the spec names it."""
    tokenizer = tokens.get("tokenizer") if isinstance(tokens, dict) else None
    found = tokenizer.get("path", tokenizer.get("name")) if isinstance(tokenizer, dict) else None
    return str(found)


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


_FEATURES = {"cpu": _instruction_sets, "cuda": _capability}

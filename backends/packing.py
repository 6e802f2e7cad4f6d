"""Writing an artefact: what is the same whatever its code is for."""

from __future__ import annotations

import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.export import ExportedProgram

from ..blocks.input.writing import vocabulary_file
from .artefact import PROGRAMS, TOKENIZER, WEIGHTS
from .base import BackendError, Executable, Limit
from .eager import EagerExecutable
from .job import Job
from .manifest import (
    MANIFEST,
    ArtefactError,
    FileRecord,
    LimitRecord,
    Manifest,
    MethodRecord,
    RecipeRecord,
    Target,
    sha256_of,
    versions,
)
from .probe import difference, probe

SHARD = 4 * 2**30
"""Bytes of one weights file, at most, unless one tensor is larger."""


TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far a method may be from eager, as a share of the largest number of its output."""

Progress: TypeAlias = Callable[[str, int, int], None]
"""Is told of each step of a build: what it is, how many are done, of how many."""


def silent(step: str, done: int, of: int) -> None:
    """Tells nobody how far the work is."""


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a file: as in `FileRecord`."""

    state: Literal["stored", "built", "executed"]
    device: str | None = None
    errors: Mapping[str, float] = field(default_factory=dict)


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


def save_program(program: ExportedProgram, folder: Path, name: str) -> str:
    """Write the portable program of a method; its file below the folder."""
    file = f"{PROGRAMS}/{name}.pt2"
    (folder / PROGRAMS).mkdir(exist_ok=True)
    # Example inputs would be pickled, and nothing else is: they are made again from the limits.
    examples, program._example_inputs = program._example_inputs, None
    torch.export.save(program, folder / file)
    program._example_inputs = examples
    return file


def pack(
    job: Job,
    folder: Path,
    backend: Literal["aot", "tensorrt"],
    target: Target,
    programs: Mapping[str, str],
    code: Mapping[str, str],
    tools: Mapping[str, str],
    limits: Mapping[str, Limit] | None = None,
) -> Manifest:
    """Write weights and tokenizer; the manifest, still without the digests of the files.

    `programs` and `code` name each method's files, `tools` the releases of what made the code.
    `limits` are those of the job unless the code has narrower ones.
    """
    return Manifest(
        recipe=RecipeRecord(name=job.recipe, mode=job.mode, digest=job.digest),
        backend=backend,
        versions={**versions(), **tools},
        target=target,
        dtype=str(job.dtype).removeprefix("torch."),
        quantized=job.quantized,
        rounding=dict(job.rounding),
        methods={
            name: MethodRecord.of(method, programs[name], code[name])
            for name, method in job.methods.items()
        },
        limits={name: LimitRecord.of(limit) for name, limit in (limits or job.limits).items()},
        weights=_write_weights(job, folder) if job.has_weights else {},
        spec=_with_tokenizer(job, folder / TOKENIZER),
        files={},
    )


def finish(manifest: Manifest, folder: Path, states: Mapping[str, State]) -> None:
    """Write the manifest, with the digest of every file and what is known of it."""
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    known = {record.program: State("built") for record in manifest.methods.values()} | dict(states)
    with ThreadPoolExecutor() as pool:
        digests = list(pool.map(sha256_of, files))
    records = {}
    for path, digest in zip(files, digests, strict=True):
        name = path.relative_to(folder).as_posix()
        state = known.get(name, State("stored"))
        records[name] = FileRecord(sha256=digest, size=path.stat().st_size, **asdict(state))
    whole = manifest.model_copy(update={"files": records})
    (folder / MANIFEST).write_text(whole.text(), encoding="utf-8")


def compared(
    job: Job, ours: Executable, limits: Mapping[str, Limit] | None = None
) -> dict[str, float]:
    """How far each method is from eager; BackendError when it is too far."""
    eager = EagerExecutable(job)
    errors: dict[str, float] = {}
    for name, method in job.methods.items():
        given = probe(method, limits or job.limits, job.tokens)
        copy = {feed: tensor.to(ours.device, copy=True) for feed, tensor in given.items()}
        theirs = {**eager.run(name, given), **{feed: given[feed] for feed in method.caches}}
        found = {**ours.run(name, copy), **{feed: copy[feed] for feed in method.caches}}
        errors[name] = difference(found, theirs)
        if not errors[name] <= TOLERANCE[job.dtype]:
            raise BackendError(
                f"the compiled {name} differs from eager by {errors[name]:.2g} of its scale, more "
                f"than {TOLERANCE[job.dtype]:g}: this is a defect of the compiler, please report it"
            )
    return errors


def processor() -> str:
    """What this machine computes with."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())


def _write_weights(job: Job, folder: Path) -> dict[str, str]:
    """The parameters that the methods use, in files of bounded size: parameter -> file."""
    used = dict.fromkeys(name for method in job.methods.values() for name in method.parameters)
    state = job.lowered.module.state_dict()
    (folder / WEIGHTS).mkdir()
    placed: dict[str, str] = {}
    for number, shard in enumerate(_shards({name: state[name] for name in used}), start=1):
        file = f"{WEIGHTS}/{number:05d}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in shard.items()}, folder / file)
        placed |= dict.fromkeys(shard, file)
    return placed


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > SHARD:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _with_tokenizer(job: Job, folder: Path) -> dict[str, Any]:
    """The spec, its tokenizers now files of the artefact."""
    spec = dict(job.spec)
    for user in ("tokens", "questions"):
        if spec.get(user):
            tokenizer = _kept(spec[user]["tokenizer"], job.resources, folder)
            spec[user] = spec[user] | {"tokenizer": tokenizer}
    return spec


def _kept(tokenizer: dict[str, Any], resources: Path | None, folder: Path) -> dict[str, Any]:
    """A tokenizer whose file is a copy in the folder."""
    source = vocabulary_file(tokenizer, resources)
    folder.mkdir(exist_ok=True)
    (folder / source.name).write_bytes(source.read_bytes())
    return tokenizer | {"path" if "path" in tokenizer else "name": source.name}


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

"""Writing an artefact: what is the same whatever it is made from, and whatever its code is for."""

from __future__ import annotations

import ctypes
import glob
import os
import platform
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.export import ExportedProgram

from .artefact import PROGRAMS, WEIGHTS
from .base import BackendError, Executable, Limit, Method, Port
from .manifest import MANIFEST, ArtefactError, Manifest, Target
from .probe import difference, probe
from .records import Binding, FileRecord, WeightsRecord
from .verification import sha256_of

SHARD = 4 * 2**30
"""Bytes of one weights file, at most, unless one tensor is larger."""


TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far a method may be from eager, as a share of the largest number of its output."""

SAID = {"eager": "eager", "program": "its portable program"}
"""What errors are measured against, in words."""

_OLD = ".old"
_HERE, _EXCHANGE = -100, 2  # AT_FDCWD and RENAME_EXCHANGE of Linux

Progress: TypeAlias = Callable[[str, int, int], None]
"""Is told of each step of a build: what it is, how many are done, of how many."""


def silent(step: str, done: int, of: int) -> None:
    """Tells nobody how far the work is."""


@dataclass(frozen=True, slots=True)
class State:
    """What is known of a file: as in `FileRecord`."""

    state: Literal["stored", "built", "executed"]
    device: str | None = None
    against: Literal["eager", "program"] | None = None
    errors: Mapping[str, float] = field(default_factory=dict)


class Origin(Protocol):
    """What an artefact is made from: a job, a stage, or another artefact."""

    @property
    def against(self) -> Literal["eager", "program"]:
        """What `reference` runs."""
        ...

    @property
    def methods(self) -> Mapping[str, Method]:
        """The methods, from outside."""
        ...

    @property
    def parameters(self) -> Mapping[str, Port]:
        """What the methods take beside their inputs."""
        ...

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The limits of the named sizes."""
        ...

    @property
    def dtype(self) -> torch.dtype:
        """The precision of the whole."""
        ...

    @property
    def tokens(self) -> int:
        """A bound of ids."""
        ...

    @property
    def spec(self) -> Mapping[str, Any]:
        """The host's part."""
        ...

    def program(self, name: str, folder: Path | None = None) -> ExportedProgram:
        """The portable program of a method, which is written to its file below a folder too, if one
        is given."""
        ...

    def reference(self) -> Executable | None:
        """What the methods should yield; None without weights."""
        ...

    def pack(
        self,
        folder: Path,
        backend: Literal["aot", "tensorrt"],
        target: Target,
        code: Mapping[str, str],
        tools: Mapping[str, str],
        limits: Mapping[str, Limit] | None = None,
    ) -> Manifest:
        """Write weights and tokenizer; the manifest, still without the digests of the files.

        `code` names each method's file, `tools` the releases of what made the code. `limits` are
        the origin's unless the code has narrower ones.
        """
        ...


@contextmanager
def writing(folder: Path) -> Iterator[Path]:
    """A folder beside `folder` to fill; it takes its place, whole, when all went well.

    However the process ends, `folder` is what it was or what it is to be. What a killed one left
    beside it is removed by the next; or put back, where the file system takes two steps to replace
    a folder, and it was killed between them. ArtefactError when `folder` holds something else than
    an artefact.
    """
    if folder.exists() and not (folder / MANIFEST).exists() and any(folder.iterdir()):
        raise ArtefactError(f"{folder} holds other files: give the artefact a folder of its own")
    folder.parent.mkdir(parents=True, exist_ok=True)
    _clear(folder)
    beside = folder.with_name(f"{_beside(folder)}{os.getpid()}")
    beside.mkdir()
    try:
        yield beside
        for path in [*beside.rglob("*"), beside]:
            _flush(path)
        if not folder.exists():
            beside.rename(folder)
        elif not exchanged(beside, folder):
            folder.rename(beside.with_name(f"{beside.name}{_OLD}"))
            beside.rename(folder)
        _flush(folder.parent)
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        _clear(folder)


def exchanged(one: Path, other: Path) -> bool:
    """Two folders change their names in one step of the file system; False where it knows none."""
    library = ctypes.CDLL(None, use_errno=True)
    if not hasattr(library, "renameat2"):
        return False
    names = (os.fsencode(one.absolute()), os.fsencode(other.absolute()))
    status: int = library.renameat2(_HERE, names[0], _HERE, names[1], _EXCHANGE)
    return status == 0


def _beside(folder: Path) -> str:
    """How the names of folders begin that this machine writes beside one; a process id follows."""
    return f".{folder.name}.{platform.node()}."


def _clear(folder: Path) -> None:
    """Remove what killed processes of this machine left beside a folder; put back what they took
    away last."""
    for left in sorted(folder.parent.glob(f"{glob.escape(_beside(folder))}*")):
        owner = left.name.removeprefix(_beside(folder)).removesuffix(_OLD)
        if not owner.isdecimal() or (int(owner) != os.getpid() and _runs(int(owner))):
            continue
        if left.name.endswith(_OLD) and not folder.exists():
            left.rename(folder)
        shutil.rmtree(left, ignore_errors=True)


def _runs(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # it runs, for somebody else
    return True


def program_file(name: str) -> str:
    """The file of a method's portable program, below an artefact."""
    return f"{PROGRAMS}/{name}.pt2"


def save_program(program: ExportedProgram, folder: Path, name: str) -> None:
    """Write the portable program of a method."""
    file = program_file(name)
    (folder / PROGRAMS).mkdir(parents=True, exist_ok=True)
    # Example inputs would be pickled, and nothing else is: they are made again from the limits.
    examples, program._example_inputs = program._example_inputs, None
    torch.export.save(program, folder / file)
    program._example_inputs = examples


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
    origin: Origin, reference: Executable, ours: Executable, limits: Mapping[str, Limit]
) -> dict[str, float]:
    """How far each method is from the reference; BackendError when it is too far."""
    errors: dict[str, float] = {}
    for name, method in origin.methods.items():
        given = probe(method, limits, origin.tokens)
        copy = {feed: tensor.to(ours.device, copy=True) for feed, tensor in given.items()}
        theirs = {**reference.run(name, given), **{feed: given[feed] for feed in method.caches}}
        found = {**ours.run(name, copy), **{feed: copy[feed] for feed in method.caches}}
        errors[name] = difference(found, theirs)
        if not errors[name] <= TOLERANCE[origin.dtype]:
            raise BackendError(
                f"the compiled {name} differs from {SAID[origin.against]} by {errors[name]:.2g} of "
                f"its scale, more than {TOLERANCE[origin.dtype]:g}: this is a defect of the "
                "compiler, please report it"
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


def write_weights(tensors: Mapping[str, Tensor], folder: Path) -> WeightsRecord:
    """Parameters in files of bounded size, each under its name."""
    (folder / WEIGHTS).mkdir()
    bindings = []
    for number, shard in enumerate(_shards(tensors), start=1):
        file = f"{WEIGHTS}/{number:05d}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in shard.items()}, folder / file)
        for name, tensor in shard.items():
            shape = tuple(tensor.shape)
            bindings.append(Binding(tensor=name, shape=shape, holds={name: shape}, file=file))
    return WeightsRecord(kind="inside", bindings=tuple(bindings))


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


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)

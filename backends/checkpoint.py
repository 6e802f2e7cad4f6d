"""A training run on disk: checkpoints that are whole or not there, and what they were made from.

    RUN/checkpoints/STAGE-00001200/
        manifest.json           recipe, settings, progress, versions, digests of the other files
        weights.safetensors     every parameter, by the recipe's names
        optimizer.safetensors   AdamW's state of the weights that the stage trains
        random.safetensors      the state of torch's generators

A checkpoint is written into a folder with another name, flushed to the disk, and renamed, so a
power cut leaves either the whole of it or nothing that `checkpoints` would find.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, Literal

import numpy
import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

_MANIFEST = "manifest.json"
_WEIGHTS = "weights.safetensors"
_OPTIMIZER = "optimizer.safetensors"
_RANDOM = "random.safetensors"


class CheckpointError(Exception):
    """A checkpoint cannot be read, or does not belong to the run that asks for it."""


class Progress(BaseModel):
    """How far a stage has come; with the data's seed this decides everything that follows."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    stage: str
    step: int = 0
    position: int = 0
    """Samples taken from the stage's data, bad ones included: where the next batch starts."""
    sequences: int = 0
    tokens: int = 0
    warm: float = 0.0
    """The share of the stage that was done when the warm-up ended."""
    seconds: float = 0.0
    finished: bool = False


class Manifest(BaseModel):
    """What a checkpoint is: enough to continue bit-equal, or to say why that is not possible."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    format: Literal[1] = 1
    serial: int
    """1 for the first checkpoint of the run, and so on."""
    recipe: str
    digest: str
    """SHA-256 of `settings`, to compare two runs at a glance."""
    settings: dict[str, Any]
    """The recipe's values and the run's options: all that decides the weights, the data's content
    included."""
    progress: Progress
    versions: dict[str, str]
    files: dict[str, str]
    """File name -> SHA-256."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """One checkpoint that is whole; its tensors are read when they are asked for."""

    folder: Path
    manifest: Manifest

    @property
    def progress(self) -> Progress:
        """Which stage it is of, and how far that had come."""
        return self.manifest.progress

    def weights(self) -> dict[str, Tensor]:
        """Every parameter by name."""
        return self._tensors(_WEIGHTS)

    def optimizer(self) -> dict[str, Tensor]:
        """The optimizer's state, as `Optimizer.state` gave it."""
        return self._tensors(_OPTIMIZER)

    def restore_random(self) -> None:
        """Put torch's generators where they were."""
        state = self._tensors(_RANDOM)
        torch.set_rng_state(state["cpu"])
        if "cuda" in state and torch.cuda.is_available():
            torch.cuda.set_rng_state(state["cuda"])

    def _tensors(self, name: str) -> dict[str, Tensor]:
        path = self.folder / name
        try:
            if _sha256(path) != self.manifest.files[name]:
                raise CheckpointError(f"{path} is not the file that its manifest describes")
            return load_file(path)
        except (OSError, KeyError, SafetensorError) as error:
            raise CheckpointError(f"cannot read {path}: {error}") from error


def save(
    run: Path,
    *,
    recipe: str,
    settings: dict[str, Any],
    progress: Progress,
    weights: Mapping[str, Tensor],
    optimizer: Mapping[str, Tensor],
) -> Checkpoint:
    """Write a checkpoint of the run, whole or not at all."""
    folder = run / "checkpoints" / f"{progress.stage}-{progress.step:08d}"
    beside = folder.with_name(f".{folder.name}.{os.getpid()}")
    shutil.rmtree(beside, ignore_errors=True)
    beside.mkdir(parents=True)
    random = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        random["cuda"] = torch.cuda.get_rng_state()
    files = {}
    for name, tensors in ((_WEIGHTS, weights), (_OPTIMIZER, optimizer), (_RANDOM, random)):
        save_file(
            {key: value.detach().contiguous() for key, value in tensors.items()}, beside / name
        )
        _flush(beside / name)
        files[name] = _sha256(beside / name)
    manifest = Manifest(
        serial=max((one.manifest.serial for one in checkpoints(run)), default=0) + 1,
        recipe=recipe,
        digest=digest(settings),
        settings=settings,
        progress=progress,
        versions=versions(),
        files=files,
    )
    write_text(beside / _MANIFEST, manifest.model_dump_json(indent=1) + "\n")
    _remove(folder)
    beside.rename(folder)
    _flush(folder.parent)
    return Checkpoint(folder, manifest)


def read(folder: Path) -> Checkpoint:
    """The checkpoint in a folder; CheckpointError when there is none that is whole."""
    try:
        manifest = Manifest.model_validate_json((folder / _MANIFEST).read_bytes())
    except OSError as error:
        raise CheckpointError(f"{folder} holds no checkpoint: {error.strerror}") from error
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(key) for key in first["loc"])
        raise CheckpointError(f"{folder / _MANIFEST}: {place}: {first['msg']}") from error
    return Checkpoint(folder, manifest)


def checkpoints(run: Path) -> list[Checkpoint]:
    """Every whole checkpoint of a run, the oldest first."""
    folders = (folder for folder in (run / "checkpoints").glob("[!.]*") if folder.is_dir())
    found = [read(folder) for folder in folders if (folder / _MANIFEST).exists()]
    return sorted(found, key=lambda one: one.manifest.serial)


def prune(run: Path, keep: int) -> None:
    """Remove all but the last `keep` checkpoints; the end of a stage always stays."""
    passing = [one for one in checkpoints(run) if not one.progress.finished]
    for one in passing[: len(passing) - keep]:
        _remove(one.folder)
    for torn in (run / "checkpoints").glob(".*"):
        shutil.rmtree(torn)


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """What differs between the settings of two runs, one line a value.

    >>> changes({"lm": {"width": 64}, "seed": 0}, {"lm": {"width": 96}, "seed": 0})
    ['lm.width: 64 -> 96']
    """
    old, new = dict(_leaves(before)), dict(_leaves(after))
    return [
        f"{path}: {old.get(path, 'absent')} -> {new.get(path, 'absent')}"
        for path in dict.fromkeys((*old, *new))
        if old.get(path) != new.get(path) or (path in old) != (path in new)
    ]


def digest(settings: Mapping[str, Any]) -> str:
    """SHA-256 of settings, whatever the order of their keys."""
    return hashlib.sha256(json.dumps(settings, sort_keys=True).encode()).hexdigest()


def versions() -> dict[str, str]:
    """What the numbers of a run depend on beside its recipe and its data."""
    return {
        "triptych": version("triptych"),
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "numpy": numpy.__version__,
        "pillow": version("pillow"),
    }


def write_text(path: Path, text: str) -> None:
    """Replace a file's content in one step: a reader sees the old text or the new, never half."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    beside.write_text(text, encoding="utf-8")
    _flush(beside)
    beside.replace(path)
    _flush(path.parent)


def write_weights(path: Path, weights: Mapping[str, Tensor]) -> None:
    """Replace a safetensors file in one step."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    _save_tensors(beside, weights)
    beside.replace(path)
    _flush(path.parent)


def _leaves(value: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _leaves(inner, f"{path}.{key}" if path else str(key))
    else:
        yield path, value


def _save_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, path)
    _flush(path)


def _remove(folder: Path) -> None:
    # The manifest goes first: what is left when this is cut short is no checkpoint any more.
    (folder / _MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()

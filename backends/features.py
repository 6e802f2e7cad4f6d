"""What frozen parts make of pictures, kept on disk: computed once, and read from then on.

    RUN/features/STAGE.INPUT.KEY/ab/abcdef.safetensors

The key is a digest of all that decides the values beside the picture: the operations, their
weights, the rule of the input, torch and the device. A file is named by the digest of what the
method takes of the picture. It is written beside, flushed to the disk and renamed, so a power cut
leaves the whole of it or nothing. A file that is torn, changed or foreign is named, and made anew.

Each picture is computed alone. So its values, and the losses behind them, do not depend on the
batch in which it was seen first.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from ..compiler.graph import Graph, Program
from ..compiler.ops import Input
from ..compiler.text import text
from .gradients import Method

PREFIX = "features_"
"""What the methods begin with whose values are kept; the input of the recipe follows."""


@dataclass
class Store:
    """The folder of a run for one stage; counts what came from it. Threads share it."""

    folder: Path
    stage: str
    notice: Callable[[str], None]
    read: int = 0
    computed: int = 0
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def open(self, keys: Mapping[str, str]) -> None:
        """Remove what other weights or rules made, and what a killed run left half written.

        `keys` are those of the methods of the stage.
        """
        used = {
            f"{self.stage}.{name.removeprefix(PREFIX)}.{key[:16]}" for name, key in keys.items()
        }
        for folder in self.folder.glob(f"{self.stage}.*"):
            if folder.name not in used:
                shutil.rmtree(folder)
        for torn in self.folder.glob(f"{self.stage}.*/*/.*"):
            torn.unlink()

    def count(self, *, read: bool) -> None:
        """One more picture is there."""
        with self._lock:
            self.read += read
            self.computed += not read

    def __str__(self) -> str:
        return f"features of {self.read:,} pictures read from the cache, {self.computed:,} computed"


class Kept:
    """A method of one input's pictures that computes those which are not on disk."""

    def __init__(self, method: Method, graph: Graph, store: Store, name: str, key: str) -> None:
        self._method = method
        self._inputs = [node.name for node in graph if isinstance(node.op, Input)]
        self._store = store
        self._key = key
        self._folder = store.folder / f"{store.stage}.{name.removeprefix(PREFIX)}.{key[:16]}"

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The values of all pictures, one after another."""
        made = [self._of(picture) for picture in pictures(inputs, self._inputs)]
        return {name: torch.cat([one[name] for one in made]) for name in made[0]}

    def _of(self, picture: Mapping[str, Tensor]) -> dict[str, Tensor]:
        name = digest_of(picture)
        file = self._folder / name[:2] / f"{name}.safetensors"
        device = next(iter(picture.values())).device
        kept = self._read(file, device)
        self._store.count(read=kept is not None)
        if kept is None:
            kept = self._method(picture)
            _write(file, {one: value.cpu() for one, value in kept.items()}, self._key)
        return kept

    def _read(self, file: Path, device: torch.device) -> dict[str, Tensor] | None:
        """What a file holds; None when it is not there, or not what was written for this."""
        try:
            with safe_open(file, framework="pt") as content:
                said = content.metadata() or {}
                kept = {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
        except FileNotFoundError:
            return None
        except (OSError, SafetensorError) as problem:
            self._store.notice(f"{file} cannot be read ({problem}): it is made anew")
            return None
        if said != _said(file, kept, self._key):
            self._store.notice(f"{file} is not what was written there: it is made anew")
            return None
        return {name: value.to(device) for name, value in kept.items()}


def key_of(
    program: Program, method: str, weights: Mapping[str, Tensor], device: str, compiled: bool
) -> str:
    """The digest of all that decides what a method makes of a picture."""
    graph = program.methods[method]
    parts = {
        "graph": text(graph),
        "weights": {name: digest_of({name: weights[name]}) for name in graph.parameters()},
        "rule": program.spec["inputs"][method.removeprefix(PREFIX)],
        "torch": str(torch.__version__),
        "device": torch.device(device).type,
        "compiled": compiled,
    }
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def pictures(inputs: Mapping[str, Tensor], wanted: list[str]) -> Iterator[dict[str, Tensor]]:
    """What a method takes of each picture of a batch: of packed ones, the rows of a segment."""
    parts = dict[str, list[Tensor]]()
    for name in wanted:
        segments_N = inputs.get(f"{name.rpartition('.')[0]}.segment_id")
        tensor = inputs[name]
        rows = 1 if segments_N is None else segments_N.unique_consecutive(return_counts=True)[1]
        split = tensor.split(rows if isinstance(rows, int) else rows.tolist())
        is_id = name.endswith(".segment_id")
        parts[name] = [part - part[0] if is_id else part for part in split]
    for picture in zip(*parts.values(), strict=True):
        yield dict(zip(parts, picture, strict=True))


def digest_of(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of named tensors: names, types, shapes and numbers."""
    found = hashlib.sha256()
    for name, tensor in tensors.items():
        found.update(f"{name} {tensor.dtype} {list(tensor.shape)} ".encode())
        found.update(_bytes(tensor))
    return found.hexdigest()


def _bytes(tensor: Tensor) -> Any:
    return tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy()


def _said(file: Path, kept: Mapping[str, Tensor], key: str) -> dict[str, str]:
    """What a file says of itself."""
    content = digest_of({name: kept[name] for name in sorted(kept)})
    return {"key": key, "picture": file.stem, "content": content}


def _write(file: Path, kept: Mapping[str, Tensor], key: str) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    beside = file.with_name(f".{file.name}.{os.getpid()}.{threading.get_ident()}")
    dense = {name: value.contiguous() for name, value in kept.items()}
    save_file(dense, beside, metadata=_said(file, dense, key))
    with beside.open("rb") as written:
        os.fsync(written.fileno())
    beside.replace(file)

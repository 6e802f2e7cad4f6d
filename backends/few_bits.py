"""Weights that are kept in few bits, made of whole ones where these are read.

A manifest says what the code takes. Inside an artefact that is what lies in its files; the files
that a user links, or gives later, hold the whole matrix. An artefact runs on this file too, so it
knows nothing of recipes and of the compiler.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from importlib import util
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..blocks.rounding import Rounding, relative, rounded
from ..blocks.storage import Storage
from .base import Port

if TYPE_CHECKING:
    from .manifest import Manifest


class RoundingError(Exception):
    """Weights in few bits cannot be made here."""


def storages(manifest: Manifest) -> dict[str, Storage]:
    """How the weights are kept that the code takes in few bits."""
    quantized = manifest.quantized.items()
    return {name: Storage.read(how) for name, how in quantized if name in manifest.parameters}


def whole(manifest: Manifest) -> dict[str, Port]:
    """The parameters as files of the user hold them, in the precision that they are rounded from:
    that of what stands nearest in the model, for a part computes in one."""
    few = storages(manifest)
    made = {name for matrix, storage in few.items() for name in _held(matrix, storage)}
    ports = {name: record.port() for name, record in manifest.parameters.items()}
    exact = {name: port for name, port in ports.items() if name not in made}
    default: torch.dtype = getattr(torch, manifest.dtype)
    for name, storage in few.items():
        out, into = map(int, ports[name].sizes)
        near = max(exact, key=lambda other: _shared(name, other), default=name)
        dtype = exact[near].dtype if _shared(name, near) and near in exact else default
        exact[name] = Port(storage.whole(out, into), dtype)
    return exact


def in_few_bits(
    tensors: Iterable[tuple[str, Tensor]], few: Mapping[str, Storage]
) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Parameters as the code takes them, of whole ones; and the error of each part's weights.

    RoundingError where what rounds them is not installed.
    """
    if few and not util.find_spec("torchao"):
        raise RoundingError(
            f"{len(few)} weights are made in few bits of those in your files by torchao, which is "
            "not installed here: pip install torchao, or keep them inside, by `triptych compile` "
            "where it is"
        )
    found = dict[str, Tensor]()
    changed = dict[str, Rounding]()
    for name, tensor in tensors:
        if name not in few:
            found[name] = tensor
            continue
        held, changed[name] = rounded(tensor, few[name])
        found |= zip(_held(name, few[name]), held.values(), strict=True)
    return found, by_part(changed)


def by_part(changed: Mapping[str, Rounding]) -> dict[str, float]:
    """The error of all weights of each part together."""
    parts = dict.fromkeys(name.partition(".")[0] for name in changed)
    return {
        part: relative(one for name, one in changed.items() if name.partition(".")[0] == part)
        for part in parts
    }


def misfits(manifest: Manifest) -> Iterator[str]:
    """What a manifest says of weights in few bits that its parameters do not bear out."""
    for name, storage in storages(manifest).items():
        sizes = manifest.parameters[name].sizes
        if len(sizes) != 2:
            yield f"{name} is kept in few bits, and is no matrix"
            continue
        out, into = storage.whole(*map(int, sizes))
        wanted = storage.held(out, into)
        for part, (shape, kind) in zip(_held(name, storage), wanted.values(), strict=True):
            found = manifest.parameters.get(part)
            if not found or (found.sizes, found.dtype) != (shape, kind) or into % storage.step:
                yield f"{part} is not what {storage} of {name} takes"


def _held(matrix: str, storage: Storage) -> list[str]:
    """The names of the tensors that take the place of a matrix."""
    layer = matrix.removesuffix("weight")
    return [f"{layer}{name}" for name in storage.held(storage.step, storage.step)]


def _shared(one: str, other: str) -> int:
    """How many of their names' parts, from the left, are the same."""
    parts = list(zip(one.split("."), other.split("."), strict=False))
    return next((at for at, (left, right) in enumerate(parts) if left != right), len(parts))

"""Weights on disk, by the names of a recipe's parameters, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from ..compiler.build import build
from ..compiler.weights import names
from ..dsl.diagnostics import nearest
from ..dsl.recipe import Recipe

_SHOWN = 5
"""How many names a message lists."""


class WeightsError(Exception):
    """Weights cannot be read, or are not those of the recipe."""


@dataclass(frozen=True, slots=True)
class Weights:
    """Where each parameter lies: a file, and the name of the tensor in it."""

    source: Path
    places: Mapping[str, tuple[Path, str]]

    @classmethod
    def open(cls, recipe: Recipe, source: Path, parts: Collection[str] | None = None) -> Weights:
        """The weights of a recipe in a training run, a file, or a folder of published files.

        With `parts`, only the parameters of these parts are looked for. Tensors may have our names
        or the published ones. WeightsError names every parameter that has no tensor, every tensor
        that has no place, and every shape that differs.
        """
        found = {name: (file, shape) for file in _files(source) for name, shape in _shapes(file)}
        wanted = {name: param.shape for name, param in build(recipe).parameters().items()}
        if parts is not None:
            wanted = {name: shape for name, shape in wanted.items() if name.split(".")[0] in parts}
        published = names(recipe)
        ours = {name: name for name in wanted}
        map_ = (
            ours
            if any(name in found for name in ours)
            else {name: published.published[name] for name in wanted}
        )
        problems = [
            *_missing(map_, found),
            *_homeless(map_, found, published.reason_to_ignore),
            *(
                f"{name} is {list(wanted[name])} here and {list(found[theirs][1])} there"
                for name, theirs in map_.items()
                if theirs in found and found[theirs][1] != wanted[name]
            ),
        ]
        if problems:
            raise WeightsError(f"{source} does not fit {recipe.name}:\n  " + "\n  ".join(problems))
        return cls(source, {name: (found[theirs][0], theirs) for name, theirs in map_.items()})

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter with its tensor, file by file; nothing is kept."""
        for file in dict.fromkeys(file for file, _ in self.places.values()):
            with safe_open(file, framework="pt") as content:
                for name, (place, theirs) in self.places.items():
                    if place == file:
                        yield name, content.get_tensor(theirs)

    def fill(self, module: nn.Module) -> None:
        """Copies the weights into a module, in the module's precision."""
        state = module.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, tensor in self.tensors():
                if name in state:
                    state[name].copy_(tensor)


def _files(source: Path) -> list[Path]:
    """The safetensors files that a path stands for."""
    if source.is_file():
        return [source]
    if not source.is_dir():
        raise WeightsError(f"{source} is not there: give a training run, a file, or a folder")
    final = source / "weights.safetensors"
    if final.exists():
        return [final]
    files = sorted(source.glob("*.safetensors"))
    if files:
        return files
    # A run that is still under way: its newest checkpoint.
    checkpoints = sorted(
        source.glob("checkpoints/[!.]*/weights.safetensors"), key=lambda file: file.stat().st_mtime
    )
    if checkpoints:
        return checkpoints[-1:]
    raise WeightsError(f"{source} holds no weights: no .safetensors file, no checkpoint")


def _shapes(file: Path) -> list[tuple[str, tuple[int, ...]]]:
    try:
        with safe_open(file, framework="pt") as content:
            return [(name, tuple(content.get_slice(name).get_shape())) for name in content.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise WeightsError(f"{file} cannot be read as safetensors: {problem}") from problem


def _missing(map_: Mapping[str, str], found: Mapping[str, object]) -> Iterator[str]:
    lacking = [theirs for theirs in map_.values() if theirs not in found]
    if lacking:
        near = nearest(lacking[0], found)
        hint = f"; there is {near}" if near else ""
        yield f"{len(lacking)} tensors are missing: {_listed(lacking)}{hint}"


def _homeless(
    map_: Mapping[str, str], found: Mapping[str, object], reason: object
) -> Iterator[str]:
    assert callable(reason)
    known = set(map_.values())
    extra = [name for name in found if name not in known and reason(name) is None]
    if extra:
        yield f"{len(extra)} tensors have no place in the recipe: {_listed(extra)}"


def _listed(names_: list[str]) -> str:
    more = f" and {len(names_) - _SHOWN} more" if len(names_) > _SHOWN else ""
    return ", ".join(names_[:_SHOWN]) + more

"""Weights on disk, by the names of a recipe's parameters, read one tensor at a time."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from torch import Tensor, nn

from ..compiler.build import build
from ..compiler.weights import Shape, names, shape_of
from ..dsl.diagnostics import nearest
from ..dsl.published import Form, Interleaved, Joined, Squeezed, Transposed
from ..dsl.recipe import Recipe
from .bindings import taken_apart as apart
from .checkpoint import checkpoints
from .headers import WeightsError, fitted, tensors_at
from .records import FormRecord

VOCABULARY = ("lm.embed.weight", "lm.head.weight")
"""The tables with a row for each entry of the vocabulary."""


@dataclass(frozen=True, slots=True)
class Place:
    """A tensor in a file, and the parameters that it holds."""

    file: Path
    name: str
    shape: Shape
    holds: tuple[str, ...]
    form: Form


@dataclass(frozen=True, slots=True)
class Weights:
    """Where each parameter of a recipe, or of some of its parts, lies on disk."""

    source: Path
    places: tuple[Place, ...]
    shapes: Mapping[str, Shape]

    @classmethod
    def open(
        cls,
        recipe: Recipe,
        source: Path,
        parts: Collection[str] | None = None,
        *,
        under: str = "",
        growing: Collection[str] = (),
        fresh: bool = False,
    ) -> Weights:
        """The weights of a recipe in a training run, a file, or a folder of published files.

        With `parts`, only the parameters of these parts are looked for. Tensors may have our names
        or the published ones, which `under` is written before. WeightsError names every parameter
        that has no tensor, every tensor that has no place, and every shape that differs; only the
        parameters `growing` may have fewer rows there, and with `fresh` those that the recipe says
        nobody published may be missing.
        """
        found = tensors_at(recipe, source, under)
        every = build(recipe).parameters()
        shapes = {
            name: param.shape
            for name, param in every.items()
            if parts is None or name.partition(".")[0] in parts
        }
        fit = fitted(recipe, found, shapes, growing=growing, fresh=fresh)
        if fit.problems:
            lines = "\n  ".join(fit.problems)
            raise WeightsError(f"{source} does not fit {recipe.name}:\n  {lines}")
        places = tuple(
            Place(there.file, there.name, there.shape, t.holds, t.form)
            for t in fit.wanted
            for there in [found[t.name]]
        )
        return cls(source, places, shapes)

    def tensors(self) -> Iterator[tuple[str, Tensor]]:
        """Each parameter with its tensor, file by file; nothing is kept."""
        for file in dict.fromkeys(place.file for place in self.places):
            with safe_open(file, framework="pt") as content:
                for place in self.places:
                    if place.file == file:
                        shapes = [self.shapes[name] for name in place.holds]
                        ours = taken_apart(place.form, content.get_tensor(place.name), shapes)
                        yield from zip(place.holds, map(_grown, ours, shapes), strict=True)

    def fill(self, module: nn.Module) -> None:
        """Copies the weights into a module, in the module's precision."""
        state = module.state_dict(keep_vars=True)
        with torch.no_grad():
            for name, tensor in self.tensors():
                if name in state:
                    state[name].copy_(tensor)


def starts(recipe: Recipe, sources: Mapping[str, Path]) -> dict[str, Tensor]:
    """The parameters of each of these parts, from where its start lies.

    A vocabulary may have fewer entries there: each of the others starts as the mean of those.
    """
    found = dict[str, Tensor]()
    checked_parts(recipe, sources)
    for part, source in sources.items():
        start = getattr(recipe.block(part), "start", None)
        under = start.under if start else ""
        opened = Weights.open(recipe, source, [part], under=under, growing=VOCABULARY)
        found |= opened.tensors()
    return found


def weights_after(source: Path, stage: str | None) -> Path:
    """The weights that a stage of a run ended with; what is no run, or no stage's, as it is.

    WeightsError when the run holds no end of that stage.
    """
    every = checkpoints(source)
    if stage is None or not every:
        return source
    ends = [one for one in every if one.progress.stage == stage and one.progress.finished]
    if not ends:
        raise WeightsError(f"{source} holds no end of the stage {stage}: train that first")
    return ends[-1].folder / "weights.safetensors"


def checked_parts(recipe: Recipe, named: Iterable[str]) -> tuple[str, ...]:
    """The parts of these names; WeightsError for one that the recipe lacks."""
    parts = dict.fromkeys(name.partition(".")[0] for name in build(recipe).parameters())
    for name in named:
        if name not in parts:
            near = nearest(name, parts) or ", ".join(parts)
            raise WeightsError(f"{recipe.name} has no part {name!r}; there is {near}")
    return tuple(named)


def as_published(recipe: Recipe, tensors: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """Parameters, or gradients of them, by their published names and in the published form.

    A published tensor is left out when one of the parameters that it holds is not given.
    """
    for tensor in names(recipe).holding(tensors):
        if all(name in tensors for name in tensor.holds):
            yield tensor.name, put_together(tensor.form, [tensors[name] for name in tensor.holds])


def taken_apart(form: Form, tensor: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
    """What a published tensor holds, in these shapes."""
    return apart(form_of(form), tensor, shapes)


def form_of(form: Form) -> FormRecord:
    """A form of the language as a manifest says it."""
    match form:
        case Joined(groups=groups):
            return FormRecord(kind="joined", groups=groups)
        case Interleaved(parts=parts, groups=groups):
            return FormRecord(kind="interleaved", parts=parts, groups=groups)
        case Transposed():
            return FormRecord(kind="transposed")
        case Squeezed():
            return FormRecord(kind="squeezed")
    return FormRecord()


def put_together(form: Form, tensors: Sequence[Tensor]) -> Tensor:
    """The published tensor that holds these; the way back from `taken_apart`."""
    match form:
        case Transposed():
            return tensors[0].T
        case Squeezed():
            return tensors[0].reshape(shape_of(form, [tuple(tensors[0].shape)]))
        case Joined(groups=groups):
            grouped = [tensor.unflatten(0, (groups, -1)) for tensor in tensors]
            return torch.cat(grouped, dim=1).flatten(0, 1)
        case Interleaved(parts=parts, groups=groups):
            heads: Tensor = tensors[0].unflatten(0, (parts, groups, -1)).transpose(0, 1)
            return heads.flatten(0, 2)
    return tensors[0]


def _grown(tensor: Tensor, shape: Shape) -> Tensor:
    """The tensor with as many rows as its parameter; the new ones are the mean of the others."""
    if tensor.shape == shape:
        return tensor
    mean = tensor.float().mean(0, keepdim=True).to(tensor.dtype)
    return torch.cat((tensor, mean.expand(shape[0] - len(tensor), *shape[1:])))

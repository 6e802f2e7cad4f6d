"""From a recipe's map of weights to the bindings of a manifest, which need no recipe."""

from __future__ import annotations

from collections.abc import Mapping

from ..compiler.build import build
from ..compiler.weights import Shape, names
from ..dsl.published import Form
from ..dsl.recipe import Recipe
from .bindings import linked_as
from .headers import repositories
from .records import Binding, Repository, WeightsRecord
from .weights import Weights, form_of


def unbound(recipe: Recipe) -> WeightsRecord:
    """What weights must be that come later: the whole of a recipe's map."""
    published = names(recipe)
    shapes = {name: param.shape for name, param in build(recipe).parameters().items()}
    return WeightsRecord(
        kind="none",
        bindings=tuple(
            _binding(tensor.name, tensor.shape, tensor.holds, tensor.form, shapes)
            for tensor in published.tensors.values()
        ),
        repositories=tuple(
            Repository(folder=folder, under=under) for folder, under in repositories(recipe)
        ),
        ignored=tuple(pattern for pattern, _ in published.ignored),
    )


def linked(weights: Weights) -> WeightsRecord:
    """Weights as they lie on disk, each file by its digest."""
    return linked_as(
        weights.source,
        [
            (one.file, _binding(one.name, one.shape, one.holds, one.form, weights.shapes))
            for one in weights.places
        ],
    )


def _binding(
    tensor: str, shape: Shape, holds: tuple[str, ...], form: Form, shapes: Mapping[str, Shape]
) -> Binding:
    return Binding(
        tensor=tensor,
        shape=shape,
        holds={name: shapes[name] for name in holds},
        form=form_of(form),
    )

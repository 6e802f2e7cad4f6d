"""Which tensors a checkpoint holds, by the headers of its files, and whether they are a recipe's.

No tensor is read, and torch is not needed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

from ..compiler.build import build
from ..compiler.places import labels
from ..compiler.weights import Published, Shape, names
from ..dsl.diagnostics import Diagnostic, Fix
from ..dsl.published import Renamed
from ..dsl.recipe import Recipe
from .stored import Found, WeightsError, misfits, tensors_in

__all__ = ["Fit", "WeightsError", "fitted", "prove_checkpoint", "tensors_at"]


def tensors_at(recipe: Recipe, source: Path, under: str) -> dict[str, Found]:
    """Every tensor that a path stands for, by the name that the recipe's map uses.

    Only headers are read. Where a recipe takes its weights from several repositories, a folder may
    hold one folder for each, called as the repository is. WeightsError when there is nothing to
    read.
    """
    apart = [(source / folder, front) for folder, front in repositories(recipe)]
    if any(folder.is_dir() for folder, _ in apart):
        return tensors_in(apart)
    return tensors_in([(source, under)])


def repositories(recipe: Recipe) -> list[tuple[str, str]]:
    """The folder of each repository that a recipe takes its weights from, and what stands before
    its names; none where there is one repository alone."""
    if not recipe.weights or len(recipe.weights.from_) < 2:
        return []
    return [
        (repository.repository.rpartition("/")[2], repository.under)
        for repository in recipe.weights.from_
    ]


@dataclass(frozen=True, slots=True)
class Fit:
    """The tensors of a checkpoint that hold the wanted parameters, and what does not fit, if any:
    one line for all that is missing, one for all that has no place, one for each other shape."""

    wanted: tuple[Published, ...]
    problems: tuple[str, ...]


def fitted(
    recipe: Recipe,
    found: Mapping[str, Found],
    shapes: Mapping[str, Shape],
    *,
    growing: Collection[str] = (),
    fresh: bool = False,
) -> Fit:
    """How the tensors that were found fit the parameters of these shapes.

    They may have our names or the published ones. The parameters `growing` may have fewer rows;
    with `fresh`, those that the recipe says nobody published may be missing.
    """
    published = names(recipe)
    wanted = published.holding(shapes)
    if any(name in found for name in shapes if name not in published.fresh):
        wanted = [
            Published(name, shape, (name,), Renamed(target=name)) for name, shape in shapes.items()
        ]
    if fresh:
        wanted = [t for t in wanted if t.name in found or t.name not in published.fresh]
    problems = misfits(
        {tensor.name: tensor.shape for tensor in wanted},
        found,
        fresh=published.fresh,
        known={*build(recipe).parameters(), *published.tensors},
        ignored=lambda name: published.reason_to_ignore(name) is not None,
        growing={tensor.name for tensor in wanted if tensor.holds[0] in growing},
    )
    return Fit(tuple(wanted), problems)


def prove_checkpoint(recipe: Recipe, source: Path) -> tuple[Diagnostic, ...]:
    """What does not fit between a checkpoint and the map of a recipe's weights, both ways.

    WeightsError when there is nothing to read.
    """
    found = tensors_at(recipe, source, "")
    shapes = {name: param.shape for name, param in build(recipe).parameters().items()}
    fit = fitted(recipe, found, shapes, fresh=True)
    return tuple(
        Diagnostic(
            "W808",
            problem,
            labels(
                recipe,
                ("weights.from", f"{source.name} is not what the map is of"),
                ("weights", "the map"),
            ),
            "each tensor of a checkpoint is loaded or ignored, and each parameter comes from one",
            Fix("add `map`, `fresh` or `ignore` for them, or name another checkpoint"),
        )
        for problem in fit.problems
    )

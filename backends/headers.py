"""Which tensors a checkpoint holds, by the headers of its files, and whether they are a recipe's.

No tensor is read, and torch is not needed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from ..compiler.build import build
from ..compiler.places import labels
from ..compiler.weights import Names, Published, Shape, names
from ..dsl.diagnostics import Diagnostic, Fix, nearest
from ..dsl.published import Renamed
from ..dsl.recipe import Recipe

_SHOWN = 5
"""How many names a message lists."""

_PICKLES = (".bin", ".pt", ".pth")


class WeightsError(Exception):
    """Weights cannot be read, or are not those of the recipe."""


@dataclass(frozen=True, slots=True)
class Found:
    """A tensor that is there."""

    file: Path
    name: str
    shape: Shape


def tensors_at(recipe: Recipe, source: Path, under: str) -> dict[str, Found]:
    """Every tensor that a path stands for, by the name that the recipe's map uses.

    Only headers are read. Where a recipe takes its weights from several repositories, a folder may
    hold one folder for each, called as the repository is. WeightsError when there is nothing to
    read.
    """
    folders = [(source, under)]
    if recipe.weights and len(recipe.weights.from_) > 1:
        apart = [
            (source / repository.repository.rpartition("/")[2], repository.under)
            for repository in recipe.weights.from_
        ]
        if any(folder.is_dir() for folder, _ in apart):
            folders = apart
    found = dict[str, Found]()
    for folder, front in folders:
        for file in _files(folder):
            for name, shape in _shapes(file):
                if front + name in found:
                    first = found[front + name].file
                    raise WeightsError(f"{front + name} is in {first} and in {file}: keep one")
                found[front + name] = Found(file, name, shape)
    return found


def _files(source: Path) -> list[Path]:
    """The safetensors files that a path stands for."""
    if source.is_file():
        if source.suffix in _PICKLES:
            raise _pickled(source)
        return [source]
    if not source.is_dir():
        raise WeightsError(f"{source} is not there: give a training run, a file, or a folder")
    final = source / "weights.safetensors"
    if final.exists():
        return [final]
    if files := sorted(source.glob("*.safetensors")):
        return files
    # A run that is still under way: its newest checkpoint.
    checkpoints = sorted(
        source.glob("checkpoints/[!.]*/weights.safetensors"), key=lambda file: file.stat().st_mtime
    )
    if checkpoints:
        return checkpoints[-1:]
    if pickled := sorted(path for path in source.iterdir() if path.suffix in _PICKLES):
        raise _pickled(pickled[0])
    raise WeightsError(f"{source} holds no weights: no .safetensors file, no checkpoint")


def _pickled(file: Path) -> WeightsError:
    return WeightsError(
        f"{file} is a pickle, and reading one can run any code: make safetensors of it first, "
        f"`save_file(torch.load({file.name!r}, weights_only=True), 'model.safetensors')`"
    )


def _shapes(file: Path) -> list[tuple[str, Shape]]:
    try:
        with safe_open(file, framework="np") as content:
            return [(name, tuple(content.get_slice(name).get_shape())) for name in content.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise WeightsError(f"{file} cannot be read as safetensors: {problem}") from problem


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
    known = {*build(recipe).parameters(), *published.tensors}
    problems = [
        *_missing(wanted, found, published.fresh),
        *_homeless(known, found, published),
        *(
            f"{tensor.name} is {list(tensor.shape)} here and {list(there.shape)} there"
            for tensor in wanted
            if (there := found.get(tensor.name))
            and there.shape != tensor.shape
            and not (tensor.holds[0] in growing and _is_shorter(there.shape, tensor.shape))
        ),
    ]
    return Fit(tuple(wanted), tuple(problems))


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


def _is_shorter(there: Shape, here: Shape) -> bool:
    return there[1:] == here[1:] and 0 < there[0] < here[0]


def _missing(
    wanted: Sequence[Published], found: Mapping[str, Found], fresh: Collection[str]
) -> Iterator[str]:
    missing = [tensor.name for tensor in wanted if tensor.name not in found]
    untrained = [name for name in missing if name in fresh]
    if untrained:
        yield f"{_counted(untrained)} fresh, and not trained there: {_listed(untrained)}"
    lacking = [name for name in missing if name not in fresh]
    if lacking:
        near = nearest(lacking[0], found)
        hint = f"; there is {near}" if near else ""
        yield f"{_counted(lacking)} missing: {_listed(lacking)}{hint}"


def _homeless(
    known: Collection[str], found: Mapping[str, Found], published: Names
) -> Iterator[str]:
    extra = [name for name in found if name not in known and not published.reason_to_ignore(name)]
    if extra:
        yield f"{_counted(extra)} without a place in the recipe: {_listed(extra)}"


def _counted(names_: list[str]) -> str:
    return "1 tensor is" if len(names_) == 1 else f"{len(names_)} tensors are"


def _listed(names_: list[str]) -> str:
    more = f" and {len(names_) - _SHOWN} more" if len(names_) > _SHOWN else ""
    return ", ".join(names_[:_SHOWN]) + more

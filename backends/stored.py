"""Which tensors lie in the safetensors files at a path, by their headers alone.

An artefact runs on this file too, so it knows nothing of recipes and of the compiler.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

Shape = tuple[int, ...]

_SHOWN = 5
"""How many names a message lists."""

_PICKLES = (".bin", ".pt", ".pth")


class WeightsError(Exception):
    """Weights cannot be read, or are not those of the model."""


@dataclass(frozen=True, slots=True)
class Found:
    """A tensor that is there."""

    file: Path
    name: str
    shape: Shape


def tensors_in(folders: Sequence[tuple[Path, str]]) -> dict[str, Found]:
    """Every tensor of each of these paths, by its name with the path's own text in front.

    WeightsError when there is nothing to read, or two tensors of one name.
    """
    found = dict[str, Found]()
    for folder, front in folders:
        for file in files_at(folder):
            for name, shape in _shapes(file):
                if front + name in found:
                    first = found[front + name].file
                    raise WeightsError(f"{front + name} is in {first} and in {file}: keep one")
                found[front + name] = Found(file, name, shape)
    return found


def files_at(source: Path) -> list[Path]:
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


def misfits(
    wanted: Mapping[str, Shape],
    found: Mapping[str, Found],
    *,
    fresh: Collection[str] = (),
    known: Collection[str] = (),
    ignored: Callable[[str], bool] = lambda name: False,
    growing: Collection[str] = (),
) -> tuple[str, ...]:
    """What does not fit, if anything: one line for all that is missing, one for all that has no
    place, one for each other shape.

    Of the tensors that are `wanted`, those in `growing` may have fewer rows. Other tensors may be
    there that are `known` or `ignored`; what is `fresh` was published by nobody.
    """
    return (
        *_missing(wanted, found, fresh),
        *_homeless(found, {*wanted, *known}, ignored),
        *(
            f"{name} is {list(shape)} here and {list(there.shape)} there"
            for name, shape in wanted.items()
            if (there := found.get(name))
            and there.shape != shape
            and not (name in growing and _is_shorter(there.shape, shape))
        ),
    )


def _shapes(file: Path) -> list[tuple[str, Shape]]:
    try:
        with safe_open(file, framework="np") as content:
            return [(name, tuple(content.get_slice(name).get_shape())) for name in content.keys()]  # noqa: SIM118
    except (OSError, SafetensorError) as problem:
        raise WeightsError(f"{file} cannot be read as safetensors: {problem}") from problem


def _pickled(file: Path) -> WeightsError:
    return WeightsError(
        f"{file} is a pickle, and reading one can run any code: make safetensors of it first, "
        f"`save_file(torch.load({file.name!r}, weights_only=True), 'model.safetensors')`"
    )


def _is_shorter(there: Shape, here: Shape) -> bool:
    return there[1:] == here[1:] and 0 < there[0] < here[0]


def _missing(
    wanted: Collection[str], found: Mapping[str, Found], fresh: Collection[str]
) -> Iterator[str]:
    missing = [name for name in wanted if name not in found]
    untrained = [name for name in missing if name in fresh]
    if untrained:
        yield f"{_counted(untrained)} fresh, and not trained there: {_listed(untrained)}"
    lacking = [name for name in missing if name not in fresh]
    if lacking:
        near = difflib.get_close_matches(lacking[0], list(found), n=1)
        hint = f"; there is {near[0]}" if near else ""
        yield f"{_counted(lacking)} missing: {_listed(lacking)}{hint}"


def _homeless(
    found: Mapping[str, Found], known: Collection[str], ignored: Callable[[str], bool]
) -> Iterator[str]:
    extra = [name for name in found if name not in known and not ignored(name)]
    if extra:
        yield f"{_counted(extra)} without a place in the recipe: {_listed(extra)}"


def _counted(names: list[str]) -> str:
    return "1 tensor is" if len(names) == 1 else f"{len(names)} tensors are"


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more

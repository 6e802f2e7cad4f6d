"""The parameters of an artefact, from the files that hold them: inside, or the user's own."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TypeAlias

from safetensors import SafetensorError, safe_open
from torch import Tensor

from .base import Port
from .few_bits import RoundingError, in_few_bits, storages, whole
from .manifest import ArtefactError, Manifest
from .records import Binding, Content, FormRecord, WeightsRecord
from .stored import Shape, WeightsError, misfits, tensors_in
from .verification import known_digest

Placed: TypeAlias = Sequence[tuple[Path, Binding]]
"""Tensors, each with the file that it lies in."""


def parameters_of(folder: Path, manifest: Manifest, given: Path | None = None) -> dict[str, Tensor]:
    """Every parameter, mapped from its file into memory where it lies there as it is needed.

    `given` is where the user's own files are: those that were linked, which may have moved, or
    those of an artefact that was made without. ArtefactError or WeightsError name what is not
    there, was changed, or does not fit.
    """
    return parameters_and_rounding(folder, manifest, given)[0]


def parameters_and_rounding(
    folder: Path, manifest: Manifest, given: Path | None
) -> tuple[dict[str, Tensor], Mapping[str, float]]:
    """The same, and how far few bits bring the weights of each part off: those of files of the
    user are made so here."""
    where = placed(folder, manifest, given)
    if manifest.weights.kind == "inside":
        ports = {name: record.port() for name, record in manifest.parameters.items()}
        return dict(read(where, ports)), manifest.weight_rounding
    try:
        return in_few_bits(read(where, whole(manifest)), storages(manifest))
    except RoundingError as problem:
        raise ArtefactError(f"{folder}: {problem}") from problem


def placed(folder: Path, manifest: Manifest, given: Path | None) -> Placed:
    """Where each tensor lies, in files that were seen to be the right ones."""
    weights = manifest.weights
    if lacks := lacking(folder, manifest, given, known_digest):
        raise ArtefactError(lacks)
    if weights.kind == "inside":
        return [(folder / str(binding.file), binding) for binding in weights.bindings]
    if weights.kind == "linked":
        files = _linked_files(weights, given)
        return [(files[str(binding.file)], binding) for binding in weights.bindings]
    assert given
    return _fitting(manifest, given)


def lacking(
    folder: Path, manifest: Manifest, given: Path | None, digest: Callable[[Path], str]
) -> str | None:
    """Why there are no weights to run with, and what to do; None when there are.

    The files that were linked are held against their digests, each as `digest` finds it.
    """
    weights = manifest.weights
    if weights.kind == "inside":
        return f"{folder} has its weights inside: leave out --weights {given}" if given else None
    if weights.kind == "linked":
        files = _linked_files(weights, given)
        checked = (_changed(folder, files[n], one, digest) for n, one in weights.files.items())
        return next(filter(None, checked), None)
    if given is None:
        return f"{folder} was made without weights: say where they are, --weights PATH"
    return None


def read(placed: Placed, ports: Mapping[str, Port]) -> Iterator[tuple[str, Tensor]]:
    """Each of these parameters with its tensor, file by file."""
    for file in dict.fromkeys(file for file, _ in placed):
        try:
            with safe_open(file, framework="pt") as content:
                for binding in (one for where, one in placed if where == file):
                    if ports.keys() & binding.holds.keys():
                        tensor = content.get_tensor(binding.tensor)
                        yield from _parameters(file, binding, tensor, ports)
        except (OSError, SafetensorError) as problem:
            raise WeightsError(f"{file} cannot be read as safetensors: {problem}") from problem


def linked_as(source: Path, placed: Placed) -> WeightsRecord:
    """Tensors that stay in the user's own files, each file by its digest.

    `source` is the file, or the folder that the files are below.
    """
    root = source.parent if source.is_file() else source
    files = {file.relative_to(root).as_posix(): file for file, _ in placed}
    with ThreadPoolExecutor() as pool:
        digests = pool.map(known_digest, files.values())
        contents = {
            name: Content(sha256=digest, size=file.stat().st_size)
            for (name, file), digest in zip(files.items(), digests, strict=True)
        }
    bindings = tuple(
        binding.model_copy(update={"file": file.relative_to(root).as_posix()})
        for file, binding in placed
    )
    return WeightsRecord(kind="linked", bindings=bindings, source=str(source), files=contents)


def taken_apart(form: FormRecord, tensor: Tensor, shapes: Sequence[Shape]) -> tuple[Tensor, ...]:
    """What a tensor of a file holds, in these shapes."""
    match form.kind:
        case "transposed":
            return (tensor.T,)
        case "squeezed":
            return (tensor.reshape(shapes[0]),)
        case "joined":
            rows = [shape[0] // form.groups for shape in shapes]
            grouped = tensor.unflatten(0, (form.groups, -1)).split(rows, dim=1)
            return tuple(part.flatten(0, 1) for part in grouped)
        case "interleaved":
            parts = tensor.unflatten(0, (form.groups, form.parts, -1))
            return (parts.transpose(0, 1).flatten(0, 2),)
    return (tensor,)


def _parameters(
    file: Path, binding: Binding, tensor: Tensor, ports: Mapping[str, Port]
) -> Iterator[tuple[str, Tensor]]:
    """The wanted parameters of one tensor, in the precision that the code takes."""
    shapes = list(binding.holds.values())
    if tuple(tensor.shape) != binding.shape:
        raise WeightsError(
            f"{binding.tensor} of {file} is {list(tensor.shape)}, and should be "
            f"{list(binding.shape)}"
        )
    try:
        parts = taken_apart(binding.form, tensor, shapes)
    except (RuntimeError, IndexError) as problem:
        raise WeightsError(f"{binding.tensor} of {file}: {problem}") from problem
    if [tuple(part.shape) for part in parts] != shapes:
        raise WeightsError(f"{binding.tensor} of {file} does not hold {', '.join(binding.holds)}")
    for name, part in zip(binding.holds, parts, strict=True):
        if name not in ports:
            continue
        wanted = ports[name].dtype
        if part.dtype != wanted and not (part.is_floating_point() and wanted.is_floating_point):
            raise WeightsError(f"{binding.tensor} of {file} is {part.dtype}, and not {wanted}")
        yield name, part.to(wanted).contiguous()


def _linked_files(weights: WeightsRecord, given: Path | None) -> dict[str, Path]:
    """Where the user's own files should be, by the names that they were linked under."""
    source = given or Path(str(weights.source))
    if len(weights.files) == 1 and not source.is_dir():
        return dict.fromkeys(weights.files, source)
    return {name: source / name for name in weights.files}


def _changed(
    folder: Path, file: Path, content: Content, digest: Callable[[Path], str]
) -> str | None:
    """Why a file is not the one that was linked; None when it is."""
    if not file.is_file():
        return (
            f"{file}, which {folder} takes its weights from, is not there: say where it is now, "
            "--weights PATH"
        )
    size = file.stat().st_size
    if size != content.size:
        said = f"it has {size:,} bytes, not {content.size:,}"
    elif (found := digest(file)) != content.sha256:
        said = f"its digest is {found[:12]}..., not {content.sha256[:12]}..."
    else:
        return None
    return (
        f"{file} is not the file that {folder} was made with: {said}; give that file, or compile "
        "the recipe again with this one"
    )


def _fitting(manifest: Manifest, given: Path) -> Placed:
    """The tensors of files that an artefact without weights is given; WeightsError where they do
    not fit.

    They may have our names or the published ones; all that they hold must have its place.
    """
    weights = manifest.weights
    apart = [(given / one.folder, one.under) for one in weights.repositories]
    folders = apart if any(folder.is_dir() for folder, _ in apart) else [(given, "")]
    found = tensors_in(folders)
    bindings = weights.bindings
    published = {binding.tensor for binding in bindings}
    shapes = {name: tuple(map(int, port.sizes)) for name, port in whole(manifest).items()}
    if any(name in found for name in shapes if name not in published):
        bindings = tuple(
            Binding(tensor=name, shape=shape, holds={name: shape}) for name, shape in shapes.items()
        )
    wanted = [one for one in bindings if shapes.keys() & one.holds.keys()]
    ignored = [_pattern(text) for text in weights.ignored]
    problems = misfits(
        {one.tensor: one.shape for one in wanted},
        found,
        known={*published, *(name for one in weights.bindings for name in one.holds)},
        ignored=lambda name: any(pattern.fullmatch(name) for pattern in ignored),
    )
    if problems:
        lines = "\n  ".join(problems)
        raise WeightsError(f"{given} does not fit {manifest.recipe.name}:\n  {lines}")
    return [
        (found[one.tensor].file, one.model_copy(update={"tensor": found[one.tensor].name}))
        for one in wanted
    ]


def _pattern(text: str) -> re.Pattern[str]:
    """A pattern of names, in which `*` stands for any text."""
    return re.compile("(.+)".join(map(re.escape, text.split("*"))))

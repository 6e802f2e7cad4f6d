"""What an artefact is made from when there is no recipe: the portable programs of another."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, Self

import torch
from torch import Tensor
from torch.export import ExportedProgram

from .artefact import TOKENIZER, Artefact
from .base import Executable, Limit, Method, Port
from .bindings import linked_as, parameters_and_rounding, placed
from .exporting import exported_again
from .manifest import ArtefactError, Manifest, Target, versions
from .packing import program_file, write_weights
from .records import LimitRecord, WeightsRecord


@dataclass(frozen=True)
class FromArtefact:
    """An artefact, as `Origin` asks for it.

    `given` is where the user's weights are: those of an artefact without, which are then stored
    unless they are to be linked (`link`), or those that were linked, which stay so.
    """

    artefact: Artefact
    given: Path | None = None
    link: bool = False

    @classmethod
    def checked(cls, artefact: Artefact, given: Path | None, link: bool) -> Self:
        """The same, before anything is compiled: ArtefactError or WeightsError name a file of
        weights that is not there, was changed, or does not fit."""
        origin = cls(artefact, given, link)
        if origin.has_weights:
            placed(artefact.folder, origin.manifest, given)
        return origin

    @property
    def against(self) -> Literal["program"]:
        """The portable programs."""
        return "program"

    @property
    def manifest(self) -> Manifest:
        """What the artefact says of itself."""
        return self.artefact.manifest

    @property
    def source(self) -> tuple[str, str]:
        """The names of the recipe and of its mode."""
        return self.manifest.recipe.name, self.manifest.recipe.mode

    @cached_property
    def methods(self) -> Mapping[str, Method]:
        """The artefact's."""
        return self.manifest.outsides

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The artefact's."""
        return self.manifest.sizes

    @property
    def dtype(self) -> torch.dtype:
        """The artefact's."""
        found: torch.dtype = getattr(torch, self.manifest.dtype)
        return found

    @property
    def tokens(self) -> int:
        """The artefact's."""
        return self.manifest.tokens

    @cached_property
    def parameters(self) -> dict[str, Port]:
        """The artefact's."""
        return {name: record.port() for name, record in self.manifest.parameters.items()}

    @property
    def has_weights(self) -> bool:
        """Whether the parameters hold numbers."""
        return self.manifest.weights.kind != "none" or self.given is not None

    @cached_property
    def _read(self) -> tuple[dict[str, Tensor], Mapping[str, float]]:
        return parameters_and_rounding(self.artefact.folder, self.manifest, self.given)

    @property
    def tensors(self) -> dict[str, Tensor]:
        """The parameters."""
        return self._read[0]

    @property
    def spec(self) -> Mapping[str, Any]:
        """The artefact's."""
        return self.manifest.spec

    def program(self, name: str, folder: Path | None = None) -> ExportedProgram:
        """The program inside, which is copied as it is; ArtefactError when torch cannot read it."""
        source = self.artefact.folder / self.manifest.methods[name].program
        if folder:
            copy = folder / program_file(name)
            copy.parent.mkdir(exist_ok=True)
            shutil.copyfile(source, copy)
        program = loaded(source, self.manifest)
        return exported_again(program, self.parameters, self.methods[name], self.limits)

    def reference(self) -> Executable | None:
        """The programs themselves, run operator by operator."""
        return Programs(self) if self.has_weights else None

    def pack(
        self,
        folder: Path,
        backend: Literal["aot", "tensorrt"],
        target: Target,
        code: Mapping[str, str],
        tools: Mapping[str, str],
        limits: Mapping[str, Limit] | None = None,
    ) -> Manifest:
        """As in `Origin`; the manifest says of the recipe what this one's does."""
        if (self.artefact.folder / TOKENIZER).exists():  # what trains a stage has none
            shutil.copytree(self.artefact.folder / TOKENIZER, folder / TOKENIZER)
        made = self.manifest.versions
        narrow = {name: LimitRecord.of(limit) for name, limit in (limits or self.limits).items()}
        return self.manifest.model_copy(
            update={
                "backend": backend,
                "target": target,
                "versions": {**versions(), **tools, EXPORTER: made.get(EXPORTER, made["torch"])},
                "methods": {
                    name: record.model_copy(
                        update={"program": program_file(name), "code": code[name]}
                    )
                    for name, record in self.manifest.methods.items()
                },
                "limits": narrow,
                "weights": self._weights(folder),
                "weight_rounding": dict(self._read[1]) if self.has_weights else {},
                "files": {},
            }
        )

    def _weights(self, folder: Path) -> WeightsRecord:
        weights = self.manifest.weights
        if not self.has_weights:
            return weights
        if weights.kind == "linked":
            return weights.model_copy(update={"source": str(self.given or weights.source)})
        if self.link and self.given:
            return linked_as(self.given, placed(self.artefact.folder, self.manifest, self.given))
        return write_weights(self.tensors, folder)


EXPORTER = "exported by torch"
"""In `versions`: the release that exported the programs, where it is not the one that compiled
them."""


class Programs(Executable):
    """Portable programs as they are: what code that is made of them is compared with."""

    def __init__(self, origin: FromArtefact) -> None:
        self.methods = origin.methods
        self.limits = origin.limits
        self.device = torch.device("cpu")
        self._origin = origin

    def _run(
        self, method: Method, inputs: dict[str, Tensor], sizes: Mapping[str, int]
    ) -> dict[str, Tensor]:
        origin = self._origin
        file = origin.artefact.folder / origin.manifest.methods[method.name].program
        program = loaded(file, origin.manifest).module(check_guards=False)
        parameters = {name: origin.tensors[name] for name in method.parameters}
        outputs: dict[str, Tensor] = program(parameters, inputs)
        return outputs


def loaded(file: Path, manifest: Manifest) -> ExportedProgram:
    """A portable program; ArtefactError when this torch cannot read it."""
    try:
        return torch.export.load(file)
    except Exception as problem:  # whatever the release at hand stumbles over
        by = manifest.versions.get(EXPORTER, manifest.versions["torch"])
        first = str(problem).partition("\n")[0][:200]
        raise ArtefactError(
            f"torch {torch.__version__} cannot read {file}, which torch {by} exported ({first}): "
            f"use torch {by}, or run `triptych compile` again from the recipe and its weights"
        ) from problem

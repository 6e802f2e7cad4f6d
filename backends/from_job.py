"""What a recipe's artefact is made from: a job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch.export import ExportedProgram

from ..blocks.input.writing import vocabulary_file
from .artefact import TOKENIZER
from .base import BackendError, Executable, Limit, Method, Port
from .eager import EagerExecutable
from .exporting import exported, parameter_ports
from .job import Job
from .linking import linked
from .manifest import Manifest, RecipeRecord, Target, versions
from .packing import program_file, save_program, write_weights
from .records import LimitRecord, MethodRecord, PortRecord, WeightsRecord


@dataclass(frozen=True)
class FromJob:
    """A job, as `Origin` asks for it; with `link`, its weights stay where they lie."""

    job: Job
    link: bool = False

    @property
    def against(self) -> Literal["eager"]:
        """The recipe's own modules."""
        return "eager"

    @property
    def source(self) -> tuple[str, str]:
        """The names of the recipe and of its mode."""
        return self.job.recipe, self.job.mode

    @property
    def methods(self) -> Mapping[str, Method]:
        """The job's."""
        return self.job.methods

    @property
    def limits(self) -> Mapping[str, Limit]:
        """The job's."""
        return self.job.limits

    @property
    def dtype(self) -> torch.dtype:
        """The job's."""
        return self.job.dtype

    @property
    def tokens(self) -> int:
        """The job's."""
        return self.job.tokens

    @cached_property
    def parameters(self) -> dict[str, Port]:
        """The parameters that the methods use, in the order of the methods."""
        return parameter_ports(self.job.lowered.module, *self.methods.values())

    @property
    def spec(self) -> Mapping[str, Any]:
        """The job's."""
        return self.job.spec

    def program(self, name: str, folder: Path | None = None) -> ExportedProgram:
        """Exported."""
        program = exported(self.job, name)
        if folder:
            save_program(program, folder, name)
        return program

    def reference(self) -> Executable | None:
        """Eager."""
        return EagerExecutable(self.job) if self.job.has_weights else None

    def pack(
        self,
        folder: Path,
        backend: Literal["aot", "tensorrt"],
        target: Target,
        code: Mapping[str, str],
        tools: Mapping[str, str],
        limits: Mapping[str, Limit] | None = None,
    ) -> Manifest:
        """As in `Origin`."""
        job = self.job
        return Manifest(
            recipe=RecipeRecord(name=job.recipe, mode=job.mode, digest=job.digest),
            backend=backend,
            versions={**versions(), **tools},
            target=target,
            dtype=_name(job.dtype),
            quantized={name: str(storage) for name, storage in job.quantized.items()},
            weight_rounding=dict(job.weight_rounding),
            rounding=dict(job.rounding),
            methods={
                name: MethodRecord.of(method, program_file(name), code[name])
                for name, method in job.methods.items()
            },
            limits={name: LimitRecord.of(limit) for name, limit in (limits or job.limits).items()},
            parameters={name: PortRecord.of(port) for name, port in self.parameters.items()},
            tokens=job.tokens,
            weights=self._weights(folder),
            spec=_with_tokenizer(job, folder / TOKENIZER),
            files={},
        )

    def _weights(self, folder: Path) -> WeightsRecord:
        if not self.job.has_weights:
            return self.job.unbound
        if not self.link:
            state = self.job.lowered.module.state_dict()
            return write_weights({name: state[name] for name in self.parameters}, folder)
        if self.job.weights is None:
            raise BackendError("weights drawn from a seed lie in no file: leave out --link")
        return linked(self.job.weights)


def _with_tokenizer(job: Job, folder: Path) -> dict[str, Any]:
    """The spec, its tokenizers now files of the artefact."""
    spec = dict(job.spec)
    for user in ("tokens", "questions"):
        if spec.get(user):
            tokenizer = _kept(spec[user]["tokenizer"], job.resources, folder)
            spec[user] = spec[user] | {"tokenizer": tokenizer}
    return spec


def _kept(tokenizer: dict[str, Any], resources: Path | None, folder: Path) -> dict[str, Any]:
    """A tokenizer whose file is a copy in the folder."""
    source = vocabulary_file(tokenizer, resources)
    folder.mkdir(exist_ok=True)
    (folder / source.name).write_bytes(source.read_bytes())
    return tokenizer | {"path" if "path" in tokenizer else "name": source.name}


def _name(dtype: torch.dtype) -> Any:
    return str(dtype).removeprefix("torch.")

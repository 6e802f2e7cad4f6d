"""What the artefact of a stage is made from, and where the trainer finds it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram

from . import able, native
from .artefact import Artefact, PackageExecutable
from .base import Executable, Limit, Method, Port
from .exporting import parameter_ports
from .manifest import ArtefactError, Manifest, RecipeRecord, Target, versions
from .packing import Progress, program_file, save_program, silent
from .records import LimitRecord, MethodRecord, PortRecord, WeightsRecord
from .stage_job import StageJob
from .toolchain import cache_folder
from .verification import check_fit


@dataclass(frozen=True)
class FromStage:
    """A stage, as `Origin` asks for it. Its artefact has no weights: those that learn are the
    run's, which also compares the code with eager, on its first batch."""

    job: StageJob

    @property
    def against(self) -> Literal["eager"]:
        """The trainer's own step."""
        return "eager"

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
        return self.job.lowered.dtype

    @property
    def tokens(self) -> int:
        """Not asked for: nothing is compared before there is a run."""
        return 1

    @cached_property
    def parameters(self) -> dict[str, Port]:
        """The parameters that the methods use, in the order of the methods."""
        return parameter_ports(self.job.lowered.module, *self.methods.values())

    @property
    def spec(self) -> Mapping[str, Any]:
        """The job's, without a tokenizer: that is the run's."""
        spec = self.job.lowered.program.spec
        return {name: said for name, said in spec.items() if name not in ("tokens", "questions")}

    def program(self, name: str, folder: Path | None = None) -> ExportedProgram:
        """Exported."""
        program = self.job.program(name)
        if folder:
            save_program(program, folder, name)
        return program

    def reference(self) -> Executable | None:
        """None: there are no weights."""
        return None

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
            recipe=RecipeRecord(name=job.recipe, mode=job.stage, digest=job.digest),
            backend=backend,
            versions={**versions(), **tools},
            target=target,
            dtype=str(self.dtype).removeprefix("torch."),  # type: ignore[arg-type]
            methods={
                name: MethodRecord.of(method, program_file(name), code[name]).model_copy(
                    update={"updated": job.updated[name]}
                )
                for name, method in job.methods.items()
            },
            limits={name: LimitRecord.of(limit) for name, limit in (limits or job.limits).items()},
            parameters={name: PortRecord.of(port) for name, port in self.parameters.items()},
            tokens=self.tokens,
            weights=WeightsRecord(kind="none", bindings=()),
            spec=dict(self.spec),
            training={"stage": job.stage, "trained": len(job.trained), **asdict(job.rule)},
            files={},
        )


def stage_artefact(
    job: StageJob,
    given: Iterable[Path] = (),
    *,
    progress: Progress = silent,
    notice: Callable[[str], None] = lambda text: None,
) -> Artefact:
    """The compiled methods of a stage: one of those that are `given`, or else what the user's cache
    folder holds, compiled now if it holds nothing.

    ArtefactError when what is given for the stage was compiled from something else, or for another
    machine.
    """
    from .aot import Aot

    for folder in given:
        artefact = Artefact(folder)
        made = artefact.manifest
        if made.training is None:
            raise ArtefactError(
                f"{folder} answers in mode {made.recipe.mode}, and trains nothing: "
                f"`triptych compile {job.recipe} --stage {job.stage} --out NEW`"
            )
        if made.training["stage"] != job.stage:
            continue
        check_fit(folder, made)
        if made.recipe.digest != job.digest:
            raise ArtefactError(
                f"{folder} was compiled from another recipe, or with other settings of stage "
                f"{job.stage}: `triptych compile {job.recipe} --stage {job.stage} --out NEW`, with "
                "the same --set"
            )
        return artefact
    folder = cache_folder("step", job.digest) / "artefact"
    try:
        artefact = Artefact(folder)
        check_fit(folder, artefact.manifest)
    except ArtefactError:
        able("aot")
        notice(f"{job.stage}: its step is compiled, and kept in {folder}")
        return Aot(progress).write(FromStage(job), folder)
    return artefact


def methods_of(artefact: Artefact, weights: Mapping[str, Tensor]) -> Executable:
    """The methods of a stage's artefact over these weights, some of which they move in place."""
    native.load_from(artefact.folder / native.LIBRARY)
    return PackageExecutable(artefact.folder, artefact.manifest, weights)

"""torch.export and AOTInductor: all methods in one package of machine code, weights beside it.

The code takes parameters and caches as inputs, so one copy of the weights serves every method, and
programs can be made before there are any. Pictures go through triptych's own operator inside the
code: measured on a CPU, it is as quick as masked attention for one picture (172 against 184 ms for
4 blocks of width 640, 1,024 patches, bfloat16) and 2.9 times as quick for ten frames of a clip.
"""

from __future__ import annotations

import os
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch.export import ExportedProgram

from ..blocks.operators import lowering
from .artefact import PACKAGE, Artefact, opened
from .base import Executable, Missing
from .exporting import export, linear_form
from .job import Job
from .manifest import Target
from .packing import (
    Progress,
    State,
    compared,
    finish,
    pack,
    processor,
    save_program,
    silent,
    writing,
)
from .toolchain import cache_folder, code_in, compiler_version, missing_compiler

OPTIONS: dict[str, Any] = {
    "aot_inductor.package": True,
    # The wrapper only calls kernels; optimising it costs seconds and gains nothing measurable.
    "aot_inductor.compile_wrapper_opt_level": "O0",
    # Without it Inductor sizes the buffers of parallel reductions for the threads of this machine,
    # and then starts as many threads as the machine at hand has: more cores, memory overrun.
    "cpp.dynamic_threads": True,
}


@dataclass(frozen=True)
class Aot:
    """Compiles every method to machine code, in an artefact.

    `progress` is told of each step: what it is, how many are done, of how many.
    """

    name: ClassVar[Literal["aot"]] = "aot"
    progress: Progress = silent
    _temporary: list[tempfile.TemporaryDirectory[str]] = field(default_factory=list, repr=False)

    def missing(self) -> Missing | None:
        """A C++ compiler, where there is none."""
        return missing_compiler(self.name)

    def compile(self, job: Job) -> Executable:
        """An artefact that lasts as long as the backend."""
        self._temporary.append(tempfile.TemporaryDirectory(prefix="triptych-"))
        return self.build(job, Path(self._temporary[-1].name) / "artefact").executable

    def build(self, job: Job, folder: Path) -> Artefact:
        """Write the artefact of a job, whole or not at all.

        BackendError when the code does not do what eager does.
        """
        steps = len(job.methods) * 2 + 2
        done = 0

        def step(name: str) -> None:
            nonlocal done
            self.progress(name, done, steps)
            done += 1

        with writing(folder) as beside, warnings.catch_warnings():
            # torch warns of its own internals here, which is nothing that a user could mend.
            warnings.simplefilter("ignore", FutureWarning)
            files: dict[str, list[Any]] = {}
            programs: dict[str, str] = {}
            for name in job.methods:
                step(f"export {name}")
                program = exported(job, name)
                programs[name] = save_program(program, beside, name)
                step(f"compile {name}")
                files[name] = compiled(program)
            step("package")
            _package(files, beside / PACKAGE)
            code = dict.fromkeys(job.methods, PACKAGE)
            tools = {"c++": compiler_version()}
            manifest = pack(job, beside, self.name, Target.here(), programs, code, tools)
            step("compare with eager")
            states: dict[str, State] = {PACKAGE: State("built")}
            if job.has_weights:
                errors = compared(job, opened(beside, manifest))
                states[PACKAGE] = State("executed", processor(), errors)
            finish(manifest, beside, states)
        self.progress("done", steps, steps)
        return Artefact(folder)


def exported(job: Job, name: str) -> ExportedProgram:
    """The program of one method: caches are written by plain tensor code, pictures see each other
    through triptych's operator, and a single token reads matrices as streams."""
    with lowering(kv_update="scatter", linear=linear_form(name)):
        return export(job.lowered.methods[name], job.methods[name], job.limits)


def compiled(program: ExportedProgram) -> list[Any]:
    """The files of AOTInductor for one program."""
    from torch._inductor import aot_compile

    module = program.module(check_guards=False)
    parameters, inputs = program.example_inputs[0]
    with code_in(cache_folder("aot")), torch.no_grad(), _all_threads():
        made = aot_compile(module, (parameters, inputs), options=dict(OPTIONS))
    assert isinstance(made, list)
    return made


@contextmanager
def _all_threads() -> Iterator[None]:
    """Loops are cut for all cores, however few threads the compiler itself may use."""
    before = torch.get_num_threads()
    torch.set_num_threads(os.cpu_count() or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _package(files: Mapping[str, list[Any]], path: Path) -> None:
    from torch.export.pt2_archive._package import package_pt2

    path.parent.mkdir()
    package_pt2(path, aoti_files=dict(files))

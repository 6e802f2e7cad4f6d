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
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import torch
from torch.export import ExportedProgram

from ..blocks.operators import write_slots
from . import native
from .artefact import PACKAGE, Artefact, opened
from .base import Executable, Missing
from .exporting import Arguments, arguments, in_form
from .manifest import Target
from .packing import Origin, Progress, State, compared, finish, processor, silent, writing
from .toolchain import ROUNDING, cache_folder, code_in, compiler_version, missing_compiler

if TYPE_CHECKING:
    from .job import Job

OPTIONS: dict[str, Any] = {
    **ROUNDING,
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

    def build(self, job: Job, folder: Path, *, link: bool = False) -> Artefact:
        """Write the artefact of a job, whole or not at all; with `link`, weights stay in the files
        that they were read from.

        BackendError when the code does not do what eager does.
        """
        from .from_job import FromJob

        return self.write(FromJob(job, link), folder)

    def rebuild(
        self, artefact: Artefact, folder: Path, given: Path | None = None, *, link: bool = False
    ) -> Artefact:
        """Write another artefact from the portable programs of one, for this machine and torch.

        `given` and `link` are as in `FromArtefact`. BackendError when the code does not do what the
        programs do.
        """
        from .from_artefact import FromArtefact

        return self.write(FromArtefact.checked(artefact, given, link), folder)

    def write(self, origin: Origin, folder: Path) -> Artefact:
        """Write the artefact of whatever has methods."""
        steps = len(origin.methods) * 2 + 2
        done = 0

        def step(name: str) -> None:
            nonlocal done
            self.progress(name, done, steps)
            done += 1

        with writing(folder) as beside, warnings.catch_warnings():
            # torch warns of its own internals here, which is nothing that a user could mend.
            warnings.simplefilter("ignore", FutureWarning)
            files: dict[str, list[Any]] = {}
            for name, method in origin.methods.items():
                step(f"export {name}")
                program = origin.program(name, beside)
                step(f"compile {name}")
                fake = arguments(origin.parameters, method, origin.limits)
                files[name] = compiled(program, fake)
            step("package")
            native.put_into(beside)
            _package(files, beside / PACKAGE)
            code = dict.fromkeys(origin.methods, PACKAGE)
            tools = {"c++": compiler_version()}
            manifest = origin.pack(beside, self.name, Target.here(), code, tools)
            step(f"compare with {origin.against}")
            state = State("built")
            if reference := origin.reference():
                errors = compared(origin, reference, opened(beside, manifest), origin.limits)
                state = State("executed", processor(), origin.against, errors)
            finish(manifest, beside, {PACKAGE: state, native.LIBRARY: state})
        self.progress("done", steps, steps)
        return Artefact(folder)


def compiled(program: ExportedProgram, given: Arguments) -> list[Any]:
    """The files of AOTInductor for one program: caches are written by plain tensor code, pictures
    see each other through triptych's operator, and a single token reads matrices as streams."""
    from torch._inductor import aot_compile

    module = in_form(program, {torch.ops.triptych.kv_update.default: write_slots})
    with code_in(cache_folder("aot")), torch.no_grad(), _all_threads():
        made = aot_compile(module, given, options=dict(OPTIONS))
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

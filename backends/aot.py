"""torch.export and AOTInductor: all methods in one package of machine code, weights beside it.

The code takes parameters and caches as inputs, so one copy of the weights serves every method, and
programs can be made before there are any. Pictures go through triptych's own operator inside the
code: measured on a CPU, it is as quick as masked attention for one picture (172 against 184 ms for
4 blocks of width 640, 1,024 patches, bfloat16) and 2.9 times as quick for ten frames of a clip.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.export import ExportedProgram

from ..blocks.input.processor import vocabulary_file
from ..blocks.operators import lowering
from .artefact import (
    MANIFEST,
    PACKAGE,
    PROGRAMS,
    TOKENIZER,
    WEIGHTS,
    Artefact,
    ArtefactExecutable,
    LimitRecord,
    Manifest,
    MethodRecord,
    RecipeRecord,
    Target,
    records,
    versions,
    writing,
)
from .base import BackendError, Missing
from .eager import EagerExecutable
from .exporting import export
from .job import Job
from .probe import difference, probe
from .toolchain import cache_folder, code_in, missing_compiler

OPTIONS: dict[str, Any] = {
    "aot_inductor.package": True,
    # The wrapper only calls kernels; optimising it costs seconds and gains nothing measurable.
    "aot_inductor.compile_wrapper_opt_level": "O0",
    # Without it Inductor sizes the buffers of parallel reductions for the threads of this machine,
    # and then starts as many threads as the machine at hand has: more cores, memory overrun.
    "cpp.dynamic_threads": True,
}
SHARD = 4 * 2**30
"""Bytes of one weights file, at most, unless one tensor is larger."""
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}
"""How far a method may be from eager, as a share of the largest number of its output."""


def silent(step: str, done: int, of: int) -> None:
    """Tells nobody how far the work is."""


@dataclass(frozen=True)
class Aot:
    """Compiles every method to machine code, in an artefact.

    `progress` is told of each step: what it is, how many are done, of how many.
    """

    name: ClassVar[str] = "aot"
    progress: Callable[[str, int, int], None] = silent
    _temporary: list[tempfile.TemporaryDirectory[str]] = field(default_factory=list, repr=False)

    def missing(self) -> Missing | None:
        """A C++ compiler, where there is none."""
        return missing_compiler(self.name)

    def compile(self, job: Job) -> ArtefactExecutable:
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

        with writing(folder) as beside:
            files: dict[str, list[Any]] = {}
            programs: dict[str, str] = {}
            for name in job.methods:
                step(f"export {name}")
                program = exported(job, name)
                programs[name] = _save(program, beside / PROGRAMS / f"{name}.pt2")
                step(f"compile {name}")
                files[name] = compiled(program)
            step("package")
            _package(files, beside / PACKAGE)
            manifest = Manifest(
                recipe=RecipeRecord(name=job.recipe, mode=job.mode, digest=job.digest),
                versions=versions(),
                target=Target.here(),
                dtype=str(job.dtype).removeprefix("torch."),
                methods={
                    name: MethodRecord.of(method, programs[name])
                    for name, method in job.methods.items()
                },
                limits={
                    name: LimitRecord(low=limit.low, high=limit.high, multiple=limit.multiple)
                    for name, limit in job.limits.items()
                },
                weights=_write_weights(job, beside) if job.has_weights else {},
                spec=_with_tokenizer(job, beside / TOKENIZER),
                files={},
            )
            step("compare with eager")
            code: dict[str, Any] = {"state": "built"}
            if job.has_weights:
                errors = compared(job, ArtefactExecutable(beside, manifest))
                code = {"state": "executed", "device": _processor(), "errors": errors}
            states = {PACKAGE: code, **{path: {"state": "built"} for path in programs.values()}}
            whole = manifest.model_copy(update={"files": records(beside, states)})
            (beside / MANIFEST).write_text(whole.text(), encoding="utf-8")
        self.progress("done", steps, steps)
        return Artefact(folder)


def exported(job: Job, name: str) -> ExportedProgram:
    """The program of one method: caches are written by plain tensor code, pictures see each other
    through triptych's operator."""
    with lowering(kv_update="scatter"):
        return export(job.lowered.methods[name], job.methods[name], job.limits)


def compiled(program: ExportedProgram) -> list[Any]:
    """The files of AOTInductor for one program."""
    from torch._inductor import aot_compile

    module = program.module(check_guards=False)
    parameters, inputs = program.example_inputs[0]
    with code_in(cache_folder("aot")), torch.no_grad(), _all_threads():
        made = aot_compile(module, (parameters, inputs), options=dict(OPTIONS))  # type: ignore[arg-type]
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


def compared(job: Job, ours: ArtefactExecutable) -> dict[str, float]:
    """How far each method is from eager; BackendError when it is too far."""
    eager = EagerExecutable(job)
    errors: dict[str, float] = {}
    for name, method in job.methods.items():
        given = probe(method, job.limits, job.tokens)
        copy = {feed: tensor.clone() for feed, tensor in given.items()}
        theirs = {**eager.run(name, given), **{feed: given[feed] for feed in method.caches}}
        found = {**ours.run(name, copy), **{feed: copy[feed] for feed in method.caches}}
        errors[name] = difference(found, theirs)
        if not errors[name] <= TOLERANCE[job.dtype]:
            raise BackendError(
                f"the compiled {name} differs from eager by {errors[name]:.2g} of its scale, more "
                f"than {TOLERANCE[job.dtype]:g}: this is a defect of the compiler, please report it"
            )
    return errors


def _save(program: ExportedProgram, path: Path) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    # Example inputs are pickled, and would be all that is: without them nothing is.
    examples, program._example_inputs = program._example_inputs, None
    torch.export.save(program, path)
    program._example_inputs = examples
    return f"{path.parent.name}/{path.name}"


def _package(files: Mapping[str, list[Any]], path: Path) -> None:
    from torch.export.pt2_archive._package import package_pt2

    path.parent.mkdir()
    package_pt2(path, aoti_files=dict(files))


def _write_weights(job: Job, folder: Path) -> dict[str, str]:
    """The parameters that the methods use, in files of bounded size: parameter -> file."""
    used = dict.fromkeys(name for method in job.methods.values() for name in method.parameters)
    state = job.lowered.module.state_dict()
    (folder / WEIGHTS).mkdir()
    placed: dict[str, str] = {}
    for number, shard in enumerate(_shards({name: state[name] for name in used}), start=1):
        file = f"{WEIGHTS}/{number:05d}.safetensors"
        save_file({name: tensor.contiguous() for name, tensor in shard.items()}, folder / file)
        placed |= dict.fromkeys(shard, file)
    return placed


def _shards(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    shard: dict[str, Tensor] = {}
    size = 0
    for name, tensor in tensors.items():
        if shard and size + tensor.nbytes > SHARD:
            yield shard
            shard, size = {}, 0
        shard[name] = tensor
        size += tensor.nbytes
    yield shard


def _with_tokenizer(job: Job, folder: Path) -> dict[str, Any]:
    """The spec, its tokenizer now a file of the artefact."""
    tokens = job.spec["tokens"]
    source = vocabulary_file(tokens["tokenizer"], job.resources)
    folder.mkdir()
    (folder / source.name).write_bytes(source.read_bytes())
    key = "path" if "path" in tokens["tokenizer"] else "name"
    here = tokens | {"tokenizer": tokens["tokenizer"] | {key: source.name}}
    return {**job.spec, "tokens": here}


def _processor() -> str:
    import platform

    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    named = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(named, platform.processor())

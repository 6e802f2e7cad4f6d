"""TensorRT: one engine a method, through torch-tensorrt's dynamo front end.

Weights and caches are inputs of an engine, so an engine is small, and one copy of the weights
serves them all; a cache is updated in place, and an engine that does not alias every cache is
refused.
`engine_programs` has what is handed over, and `engine_build` how the library is asked.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import util
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

import torch

from .artefact import ENGINES, Artefact, opened
from .base import BackendError, Executable, Missing
from .engine_build import build_engine, request
from .engine_programs import engine_limits
from .manifest import Target
from .offline import torch_tensorrt_release
from .packing import Origin, Progress, State, compared, finish, silent, writing
from .toolchain import cache_folder

if TYPE_CHECKING:
    from .job import Job

NEEDED = (2, 14)
"""The first torch-tensorrt in which an engine updates its inputs in place."""


def check_weights(origin: Origin) -> None:
    """BackendError where weights are kept in few bits: the inputs of an engine are full numbers."""
    few = [name for name, port in origin.parameters.items() if not port.dtype.is_floating_point]
    if layers := {name.rpartition(".")[0] for name in few}:
        have = "1 layer has" if len(layers) == 1 else f"{len(layers)} layers have"
        raise BackendError(
            f"tensorrt takes no weights in few bits, and {have} such: choose eager, inductor or "
            "aot, or compile the recipe with `quantize` left out"
        )


@dataclass(frozen=True)
class TensorRT:
    """Builds an engine for each method, on the GPU that will run it.

    `batch` sequences are answered at a time, with a cache of `slots` (the mode's most unless it is
    given). `progress` is told of each step.
    """

    name: ClassVar[Literal["tensorrt"]] = "tensorrt"
    batch: int = 1
    slots: int | None = None
    progress: Progress = silent
    _temporary: list[tempfile.TemporaryDirectory[str]] = field(default_factory=list, repr=False)

    def missing(self) -> Missing | None:
        """A GPU, a torch that can use it, TensorRT, torch-tensorrt: whatever is not there."""
        lacks = tuple(lacking())
        if not lacks:
            return None
        return Missing(
            self.name,
            lacks,
            "On a machine with an NVIDIA GPU: pip install 'triptych[tensorrt]', which brings "
            "TensorRT and a torch for CUDA. An engine is built on the GPU that runs it. For this "
            "machine, --backend aot compiles now.",
        )

    def compile(self, job: Job) -> Executable:
        """Engines that last as long as the backend."""
        self._temporary.append(tempfile.TemporaryDirectory(prefix="triptych-"))
        return self.build(job, Path(self._temporary[-1].name) / "artefact").executable

    def build(self, job: Job, folder: Path, *, link: bool = False) -> Artefact:
        """Write the artefact of a job, whole or not at all; with `link`, weights stay in the files
        that they were read from.

        BackendError names the method that TensorRT cannot build.
        """
        from .from_job import FromJob

        return self.write(FromJob(job, link), folder)

    def rebuild(
        self, artefact: Artefact, folder: Path, given: Path | None = None, *, link: bool = False
    ) -> Artefact:
        """Write another artefact from the portable programs of one, for this GPU and TensorRT.

        `given` and `link` are as in `FromArtefact`. BackendError names the method that TensorRT
        cannot build.
        """
        from .from_artefact import FromArtefact

        return self.write(FromArtefact.checked(artefact, given, link), folder)

    def write(self, origin: Origin, folder: Path) -> Artefact:
        """Write the artefact of whatever has methods that answer."""
        check_weights(origin)
        if len({port.dtype for port in origin.parameters.values()}) > 1:
            what = "parts in precisions of their own"
            raise BackendError(f"{self.name} does not run {what}: choose eager, inductor or aot")
        limits = engine_limits(origin.limits, origin.spec, self.batch, self.slots)
        steps = len(origin.methods) + 1
        with writing(folder) as beside:
            (beside / ENGINES).mkdir()
            code: dict[str, str] = {}
            for done, name in enumerate(origin.methods):
                self.progress(f"build {name}", done, steps)
                asked = request(origin, name, limits, beside)
                code[name] = f"{ENGINES}/{name}.engine"
                made = build_engine(asked, cache_folder("tensorrt"))
                (beside / code[name]).write_bytes(made.engine.content())
            self.progress(f"compare with {origin.against}", steps - 1, steps)
            gpu, tools = Target.here("cuda"), releases()
            manifest = origin.pack(beside, self.name, gpu, code, tools, limits)
            states = {file: State("built") for file in code.values()}
            if reference := origin.reference():
                errors = compared(origin, reference, opened(beside, manifest), limits)
                device = torch.cuda.get_device_name()
                states = {
                    file: State("executed", device, origin.against, {name: errors[name]})
                    for name, file in code.items()
                }
            finish(manifest, beside, states)
        self.progress("done", steps, steps)
        return Artefact(folder)


def lacking() -> Iterator[str]:
    """What this machine lacks to build and run engines, a line each."""
    if not torch.version.cuda:
        yield f"a torch for CUDA: this is torch {torch.__version__}"
    if not torch.cuda.is_available():
        yield "an NVIDIA GPU that torch can use"
    if not util.find_spec("tensorrt"):
        yield "TensorRT (the package tensorrt)"
    if not util.find_spec("torch_tensorrt"):
        yield f"torch-tensorrt {_dotted(NEEDED)} or newer"
    elif _numbers(found := torch_tensorrt_release()) < NEEDED:
        yield f"torch-tensorrt {_dotted(NEEDED)} or newer: this is {found}, which bakes caches in"


def releases() -> dict[str, str]:
    """What builds engines here."""
    import tensorrt
    import torch_tensorrt

    return {"tensorrt": tensorrt.__version__, "torch-tensorrt": torch_tensorrt.__version__}


def _numbers(text: str) -> tuple[int, ...]:
    """The first two numbers of a version.

    >>> _numbers("2.14.0+cu130")
    (2, 14)
    """
    return tuple(int(part) for part in text.partition("+")[0].split(".")[:2])


def _dotted(numbers: tuple[int, ...]) -> str:
    return ".".join(map(str, numbers))

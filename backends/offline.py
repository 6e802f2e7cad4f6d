"""TensorRT for RTX on a machine without a GPU, told which GPU to build for.

Its builder needs no GPU, by design. torch-tensorrt, which feeds it, asks torch about a GPU on the
way, and reads the finished engine back on one. Inside `declared`, such questions are answered with
the target that was declared, and a build ends when the engine's bytes are there. So nothing is
detected, and nothing is executed: an engine made here is known to be built, and no more.

NVIDIA's libraries are proprietary: they are installed beside triptych and never shipped with it
(constraints-tensorrt.txt). The package named tensorrt-rtx-cu13-libs holds none; the wheel of
onnxruntime's provider does.
"""

from __future__ import annotations

import ctypes
import logging
import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from functools import cache
from importlib import import_module, metadata, util
from pathlib import Path
from typing import Any

import torch

from ..blocks.quiet import quiet

WHEELS = (
    "torch-tensorrt-rtx",
    "tensorrt-rtx-cu13",
    "tensorrt-rtx-cu13-bindings",
    "onnxruntime-ep-nv-tensorrt-rtx-cu13",
)
"""The distributions that dry runs and builds need."""
REMEDY = "pip install --no-deps -r constraints-tensorrt.txt (Linux on x86-64; NVIDIA's licence)"
_LIBRARIES = ("libtensorrt_rtx.so*", "libtensorrt_onnxparser_rtx.so*")
_ORDINARY = "sm89"
"""What the library is told while it is imported; it keeps nothing of it."""


def lacking_offline() -> list[str]:
    """The distributions that are not installed here, of those that dry runs and builds need."""
    return [wheel for wheel in WHEELS if not _is_installed(wheel)]


def _is_installed(wheel: str) -> bool:
    try:
        metadata.version(wheel)
    except metadata.PackageNotFoundError:
        return False
    return True


def torch_tensorrt_release() -> str:
    """The release of torch-tensorrt that is installed, in its form for RTX or not."""
    for wheel in ("torch-tensorrt", "torch-tensorrt-rtx"):
        with suppress(metadata.PackageNotFoundError):
            return metadata.version(wheel)
    raise metadata.PackageNotFoundError("torch-tensorrt")


def buildable() -> tuple[str, ...]:
    """The targets that the builder knows, as `sm89`; standard TensorRT builds for the others."""
    kinds = load().ComputeCapability.__members__
    return tuple(name.lower() for name in kinds if name.startswith("SM"))


@dataclass(frozen=True, slots=True)
class _Device:
    """What is said of the GPU that is not there."""

    name: str
    major: int
    minor: int
    multi_processor_count: int = 100
    total_memory: int = 48 << 30


@contextmanager
def declared(target: str) -> Iterator[None]:
    """Inside, torch tells of a GPU of this compute capability, as `sm89`, whatever there is.

    Nothing is logged: what the library gives up for is raised as well.
    """
    major, minor = int(target[2:-1]), int(target[-1])
    device = _Device(f"declared {target}", major, minor)
    answers: dict[str, Callable[..., Any]] = {
        "get_device_capability": lambda *asked: (major, minor),
        "current_device": lambda: 0,
        "get_device_properties": lambda *asked: device,
        "mem_get_info": lambda *asked: (device.total_memory, device.total_memory),
    }
    with ExitStack() as stack:
        for name, answer in answers.items():
            stack.enter_context(replaced(torch.cuda, name, answer))
        stack.enter_context(quiet(logging.ERROR))
        yield


@cache
def load() -> Any:
    """TensorRT for RTX, with torch-tensorrt imported on top of it; once for a process."""
    place = util.find_spec("onnxruntime_ep_nv_tensorrt_rtx")
    assert place and place.submodule_search_locations, "asked for without looking what is lacking"
    for pattern in _LIBRARIES:
        for library in sorted(Path(place.submodule_search_locations[0]).glob(pattern)):
            ctypes.CDLL(str(library), ctypes.RTLD_GLOBAL)
    with ExitStack() as stack:
        stack.enter_context(declared(_ORDINARY))
        stack.enter_context(_without_runtime())
        if not hasattr(torch._C, "_CudaDeviceProperties"):
            stack.enter_context(replaced(torch._C, "_CudaDeviceProperties", object))
        import_module("torch_tensorrt")
        logging.captureWarnings(False)  # it turns them into a log, for everyone
    return import_module("tensorrt")


def releases() -> dict[str, str]:
    """What answers here: torch-tensorrt, and the builder."""
    return {wheel: metadata.version(wheel) for wheel in WHEELS[:2]}


@contextmanager
def asking(target: str) -> Iterator[None]:
    """Inside, torch-tensorrt can be asked what it would make for a declared target.

    It makes an example of each input as it goes; those are shapes only, for all weights are inputs.
    And what it leaves to torch it moves to the GPU; here, that is the processor.
    """
    load()
    from torch_tensorrt import Input
    from torch_tensorrt.dynamo import _compiler

    def shape_only(given: Any, mode: str | None = None) -> torch.Tensor:
        shape = given.shape[mode] if mode else given.shape
        kind = given.dtype.to(torch.dtype, use_default=True)
        return torch.empty(shape, dtype=kind, device="meta")

    with (
        declared(target),
        replaced(Input, "example_tensor", shape_only),
        replaced(_compiler, "to_torch_device", lambda *asked: torch.device("cpu")),
    ):
        yield


@contextmanager
def _without_runtime() -> Iterator[None]:
    """Inside, torch-tensorrt does not find its compiled runtime, which wants a torch for CUDA; it
    then says of itself that the runtime is off."""
    is_file = os.path.isfile

    def found(path: Any) -> bool:
        return is_file(path) and Path("torch_tensorrt", "lib") != Path(*Path(path).parts[-3:-1])

    with replaced(os.path, "isfile", found):
        yield


@dataclass(frozen=True, slots=True)
class _Plan:
    """Stands where torch-tensorrt expects an engine that it can serialise."""

    content: bytes

    def serialize(self) -> bytes:
        """The engine's bytes."""
        return self.content


def ended_offline(target: str) -> Callable[..., Any]:
    """What `TRTInterpreter.run` does here: the same, but that the engine is not read back."""

    def run(interpreter: Any, *strictness: Any) -> Any:
        from torch_tensorrt.dynamo.conversion._TRTInterpreter import TRTInterpreterResult

        interpreter._construct_trt_network_def()
        config = interpreter._populate_trt_builder_config(*strictness)
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(load().ComputeCapability, target.upper()), 0)
        plan = interpreter.builder.build_serialized_network(interpreter.ctx.net, config)
        if plan is None:
            raise RuntimeError(f"the builder made no engine for {target}")
        return TRTInterpreterResult(
            _Plan(bytes(plan)),
            interpreter._input_names,
            interpreter._output_names,
            interpreter.ctx.requires_output_allocator,
            interpreter.ctx.requires_native_multidevice,
            interpreter._aliased_io,
        )

    return run


@contextmanager
def replaced(owner: Any, name: str, value: Any) -> Iterator[None]:
    """Inside, `owner` has this value under the name."""
    nothing = object()
    before = getattr(owner, name, nothing)
    setattr(owner, name, value)
    try:
        yield
    finally:
        if before is nothing:
            delattr(owner, name)
        else:
            setattr(owner, name, before)

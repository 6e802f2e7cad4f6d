"""Runs TensorRT engines: weights, inputs and caches are bound by pointer, caches in place.

Written for the Python bindings of TensorRT 10 and later, and not executed yet: no GPU was at hand.
The tests that run it are marked `gpu`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .base import Executable, Limit, Method, Port
from .manifest import ArtefactError

UPDATED = "updated."
"""What the name of an updated cache begins with, as an output of an engine."""
MAGIC = b"triptych engine 1\n"
"""How the file of an engine begins."""


@dataclass(frozen=True, slots=True)
class Binding:
    """One input of an engine: its sizes, some of them named, and the least and greatest shape."""

    sizes: tuple[int | str, ...]
    dtype: str
    least: tuple[int, ...]
    most: tuple[int, ...]

    @classmethod
    def of(cls, port: Port, least: tuple[int, ...], most: tuple[int, ...]) -> Binding:
        """What is written of an input."""
        return cls(port.sizes, str(port.dtype).removeprefix("torch."), least, most)


@dataclass(frozen=True, slots=True)
class Engine:
    """A serialised engine with what must be known to bind it: TensorRT's own file says less.

    >>> engine = Engine(b"plan", "sm89", {}, ("logits",), {"updated.cache.0.k": "cache.0.k"})
    >>> Engine.parse(engine.content()) == engine
    True
    """

    plan: bytes
    target: str
    """The compute capability that it was built for, as `sm89`."""
    inputs: Mapping[str, Binding]
    outputs: tuple[str, ...]
    aliased: Mapping[str, str]
    """Output -> the input that it shares its memory with: a cache, updated in place."""

    def content(self) -> bytes:
        """What its file holds: a line of JSON, then the engine as TensorRT reads it."""
        head = {name: value for name, value in asdict(self).items() if name != "plan"}
        return b"".join((MAGIC, json.dumps(head).encode(), b"\n", self.plan))

    @classmethod
    def parse(cls, content: bytes) -> Engine:
        """The engine again; ArtefactError where the bytes are not what `content` made."""
        if not content.startswith(MAGIC):
            raise ArtefactError("this is no engine of this version of triptych: compile again")
        head, _, plan = content[len(MAGIC) :].partition(b"\n")
        try:
            found = json.loads(head)
            inputs = {
                name: Binding(**{key: _plain(value) for key, value in given.items()})
                for name, given in found["inputs"].items()
            }
            return cls(plan, found["target"], inputs, tuple(found["outputs"]), found["aliased"])
        except (ValueError, TypeError, KeyError) as problem:
            raise ArtefactError(f"an engine's head is damaged: {problem}") from problem


def _plain(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


class StaleCacheError(ArtefactError):
    """An engine would not update a cache that the method says it updates."""


def require_aliases(method: Method, aliased: Mapping[str, str]) -> None:
    """StaleCacheError unless every cache is updated in place; `aliased`: output -> input."""
    wanted = {f"{UPDATED}{name}": name for name in method.caches}
    stale = [name for output, name in wanted.items() if aliased.get(output) != name]
    if stale:
        raise StaleCacheError(
            f"the engine of {method.name} would not update {', '.join(stale)} in place: answers "
            "would be wrong from the second token on. Compile with torch-tensorrt 2.14 or newer"
        )


class EngineExecutable(Executable):
    """One engine and one execution context a method, all on one GPU."""

    def __init__(
        self,
        methods: Mapping[str, Method],
        limits: Mapping[str, Limit],
        engines: Mapping[str, bytes],
        weights: Mapping[str, Tensor],
    ) -> None:
        import tensorrt

        self.methods = methods
        self.limits = limits
        self.device = torch.device("cuda", torch.cuda.current_device())
        shared = {name: tensor.to(self.device) for name, tensor in weights.items()}
        self._kinds = {
            tensorrt.float32: torch.float32,
            tensorrt.float16: torch.float16,
            tensorrt.bfloat16: torch.bfloat16,
            tensorrt.int64: torch.int64,
        }
        runtime = tensorrt.Runtime(tensorrt.Logger(tensorrt.Logger.WARNING))
        self._engines: dict[str, Any] = {}
        self._contexts: dict[str, Any] = {}
        for name, method in methods.items():
            engine = runtime.deserialize_cuda_engine(Engine.parse(engines[name]).plan)
            if engine is None:
                raise ArtefactError(
                    f"TensorRT cannot read the engine of {name}: compile again here"
                )
            updated = [f"{UPDATED}{cache}" for cache in method.caches]
            require_aliases(method, {out: engine.get_aliased_input_tensor(out) for out in updated})
            context = engine.create_execution_context()
            for parameter in method.parameters:
                context.set_tensor_address(parameter, shared[parameter].data_ptr())
            self._engines[name], self._contexts[name] = engine, context
        self._weights = shared  # bound by address: kept alive as long as the contexts

    def _run(
        self, method: Method, inputs: dict[str, Tensor], sizes: Mapping[str, int]
    ) -> dict[str, Tensor]:
        engine, context = self._engines[method.name], self._contexts[method.name]
        for name, tensor in inputs.items():
            context.set_input_shape(name, tuple(tensor.shape))
            context.set_tensor_address(name, tensor.data_ptr())
        for name in method.caches:
            context.set_tensor_address(f"{UPDATED}{name}", inputs[name].data_ptr())
        outputs = {}
        for name in method.outputs:
            shape = tuple(context.get_tensor_shape(name))
            kind = self._kinds[engine.get_tensor_dtype(name)]
            outputs[name] = torch.empty(shape, dtype=kind, device=self.device)
            context.set_tensor_address(name, outputs[name].data_ptr())
        stream = torch.cuda.current_stream(self.device)
        if not context.execute_async_v3(stream.cuda_stream):
            raise RuntimeError(f"TensorRT failed to run {method.name}")
        # The inputs were made for this call: they must outlive the work that reads them.
        for tensor in inputs.values():
            tensor.record_stream(stream)
        return outputs

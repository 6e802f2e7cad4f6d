"""What torch-tensorrt is asked of a method's program: whether it would take it, and an engine.

On the GPU that will run the engine, or for a target that is declared (`offline`): the settings, the
converters and the calls are the same.

Traps that the settings avoid, each found by trying: torch-tensorrt takes any mask for a causal one
unless it is told otherwise; small modules stay in torch unless `min_block_size` is 1; a cache that
is written and not aliased silently keeps its old content; and a dry run may accept what cannot be
built.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch.export import ExportedProgram
from torch.fx import GraphModule

from .base import BackendError, Limit, Method, Port
from .engine_programs import Profile, binding_names, profile, program
from .engines import Binding, Engine, require_aliases
from .exporting import part_of
from .offline import asking, ended_offline, replaced
from .packing import Origin


def settings(dtype: torch.dtype, folder: Path) -> dict[str, Any]:
    """How torch-tensorrt is asked to build: each choice with its reason.

    Networks are strongly typed: the precision is that of the program.
    """
    return {
        # A mask is a mask: by default it would be replaced by a causal one.
        "attn_bias_is_causal": False,
        # The whole method in one engine, or an error that names the operator.
        "require_full_compilation": True,
        "min_block_size": 1,
        # Weights are inputs: there is nothing to refit, and what is left may be folded.
        "immutable_weights": True,
        # float16 overflows in sums over wide rows; bfloat16 and float32 do not.
        "use_fp32_acc": dtype == torch.float16,
        "disable_tf32": dtype == torch.float32,
        # The default folders are in a temporary place that other users write to as well.
        "engine_cache_dir": str(folder / "engines"),
        "timing_cache_path": str(folder / "timing.cache"),
        # There are no weights in the program that could be moved away.
        "offload_module_to_cpu": False,
    }


@dataclass(frozen=True, slots=True)
class Request:
    """A method's program, with the inputs that its engine takes and the ranges of their sizes."""

    method: Method
    program: ExportedProgram
    ports: Sequence[Port]
    limits: Mapping[str, Limit]
    dtype: torch.dtype

    @property
    def shapes(self) -> list[Profile]:
        """The profile of each input."""
        return [profile(port, self.limits) for port in self.ports]


def request(
    origin: Origin, name: str, limits: Mapping[str, Limit], folder: Path | None = None
) -> Request:
    """What is asked of a method; its portable program is written below a folder, if one is
    given."""
    method = origin.methods[name]
    ports = [*(origin.parameters[one] for one in method.parameters), *method.inputs.values()]
    made = program(origin.program(name, folder), method, ports, limits)
    return Request(method, made, ports, limits, origin.dtype)


@dataclass(frozen=True, slots=True)
class Acceptance:
    """What the dry run says of one part: how many operators, as the library sees them."""

    calls: int
    accepted: int
    refused: Mapping[str, int]
    """Operator -> how many calls of it."""


@dataclass(frozen=True, slots=True)
class DryRun:
    """What the library would do with a program, without doing it."""

    parts: Mapping[str, Acceptance]
    engines: int
    """How many engines the program would be cut into; one, if all of it is accepted."""


@dataclass(frozen=True, slots=True)
class Build:
    """An engine, and how long it took, in seconds."""

    engine: Engine
    seconds: float


def dry_run(request: Request, folder: Path, target: str) -> DryRun:
    """The library's own dry run, for a declared target; BackendError where it ends early."""
    with asking(target):
        from torch_tensorrt.dynamo import _compiler, compile

        register_converters()
        seen: list[tuple[str, str, bool]] = []
        reports: list[Any] = []

        def compiling(graph: GraphModule, *rest: Any, **options: Any) -> Any:
            seen.extend(_accepted(graph))
            return compile_module(graph, *rest, **options)

        compile_module = _compiler.compile_module
        options = settings(request.dtype, folder) | {"require_full_compilation": False}
        with (
            replaced(_compiler, "compile_module", compiling),
            replaced(
                _compiler, "dryrun_stats_display", lambda report, shown: reports.append(report)
            ),
        ):
            try:
                compile(request.program, arg_inputs=_inputs(request), dryrun=True, **options)
            except Exception as problem:  # whatever the library stumbles over is its answer
                raise BackendError(
                    f"the dry run of {request.method.name} ends: {problem}"
                ) from problem
    (report,) = reports
    counted = sum(accepted for *_, accepted in seen), len(seen)
    assert counted == (report.supported_ops_in_graph, report.total_ops_in_graph)
    return DryRun(_by_part(seen), report.tensorrt_graph_count)


def _accepted(graph: GraphModule) -> Iterator[tuple[str, str, bool]]:
    """The part of each operator, its name, and whether a converter takes this call of it."""
    from torch_tensorrt.dynamo.partitioning._global_partitioner import (
        TorchTensorRTOperatorSupport,
    )

    support = TorchTensorRTOperatorSupport()
    modules = dict(graph.named_modules())
    for node in graph.graph.nodes:
        if node.op == "call_function":
            yield part_of(node), str(node.target), support.is_node_supported(modules, node)


def _by_part(seen: Iterable[tuple[str, str, bool]]) -> dict[str, Acceptance]:
    parts: dict[str, list[tuple[str, bool]]] = {}
    for part, operator, accepted in seen:
        parts.setdefault(part, []).append((operator, accepted))
    return {
        part: Acceptance(
            len(calls),
            sum(accepted for _, accepted in calls),
            dict(Counter(operator for operator, accepted in calls if not accepted)),
        )
        for part, calls in parts.items()
    }


def build_engine(request: Request, folder: Path, target: str | None = None) -> Build:
    """The engine of a method: for a declared target, or for the GPU that is here.

    `folder` keeps what later builds can use. BackendError where the library gives up;
    StaleCacheError where the engine would not update a cache in place.
    """
    folder.mkdir(parents=True, exist_ok=True)
    started = time.perf_counter()
    with asking(target) if target else nullcontext():
        plan, aliased = _built(request, folder, target)
    seconds = time.perf_counter() - started
    require_aliases(request.method, aliased)
    inputs, outputs = binding_names(request.method)
    bindings = {
        name: Binding.of(port, shapes.least, shapes.most)
        for name, port, shapes in zip(inputs, request.ports, request.shapes, strict=True)
    }
    return Build(Engine(plan, target or _here(), bindings, outputs, aliased), seconds)


def _built(request: Request, folder: Path, target: str | None) -> tuple[bytes, dict[str, str]]:
    """The engine's bytes, and which output is which cache."""
    from torch_tensorrt.dynamo import convert_exported_program_to_serialized_trt_engine
    from torch_tensorrt.dynamo.conversion._TRTInterpreter import TRTInterpreter

    register_converters()
    inputs, outputs = binding_names(request.method)
    aliased: dict[str, str] = {}
    ending = ended_offline(target) if target else TRTInterpreter.run

    def run(interpreter: Any, *strictness: Any) -> Any:
        result = ending(interpreter, *strictness)
        aliased.update(_aliases(interpreter.ctx.net))
        return result

    try:
        with replaced(TRTInterpreter, "run", run):
            plan: bytes = convert_exported_program_to_serialized_trt_engine(
                request.program,
                arg_inputs=_inputs(request),
                arg_input_binding_names=inputs,
                output_binding_names=outputs,
                **settings(request.dtype, folder),
            )
    except Exception as problem:  # whatever the library stumbles over is its answer
        raise BackendError(f"TensorRT cannot build {request.method.name}: {problem}") from problem
    return plan, aliased


def _aliases(network: Any) -> Iterator[tuple[str, str]]:
    """Read off the network that was built: the output of each layer that writes into a cache, and
    the input that it writes into."""
    import tensorrt

    for index in range(network.num_layers):
        layer = network.get_layer(index)
        if layer.type == tensorrt.LayerType.KV_CACHE_UPDATE:
            cache, updated = layer.get_input(0), layer.get_output(0)
            if cache.is_network_input and updated.is_network_output:
                yield updated.name, cache.name


def _here() -> str:
    major, minor = torch.cuda.get_device_capability()
    return f"sm{major}{minor}"


def _inputs(request: Request) -> list[Any]:
    from torch_tensorrt import Input

    return [
        _input(Input, shapes, port.dtype)
        for port, shapes in zip(request.ports, request.shapes, strict=True)
    ]


def _input(kind: Callable[..., Any], shapes: Profile, dtype: torch.dtype) -> Any:
    if shapes.static:
        return kind(shape=shapes.least, dtype=dtype)
    return kind(min_shape=shapes.least, opt_shape=shapes.usual, max_shape=shapes.most, dtype=dtype)


@cache
def register_converters() -> None:
    """Tells torch-tensorrt how `kv_updated` becomes a layer that writes into the cache."""
    import tensorrt
    from torch_tensorrt.dynamo.conversion import ConversionContext, dynamo_tensorrt_converter
    from torch_tensorrt.dynamo.conversion.converter_utils import cast_trt_tensor
    from torch_tensorrt.dynamo.conversion.impl.slice_scatter import emit_kv_cache_update_layer

    def convert(
        ctx: ConversionContext, target: Any, args: tuple[Any, ...], kwargs: Any, name: str
    ) -> Any:
        cache, new, start = args
        index = cast_trt_tensor(ctx, start, tensorrt.int32, f"{name}_start")
        updated = emit_kv_cache_update_layer(ctx, name, cache, new, index)
        if updated is None:
            raise BackendError(f"{name} does not write into an input of the engine")
        return updated

    operator = torch.ops.triptych.kv_updated.default
    dynamo_tensorrt_converter(operator, supports_dynamic_shapes=True)(convert)

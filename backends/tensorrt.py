"""TensorRT: one engine a method, through torch-tensorrt's dynamo front end.

What is decided here without the library, and tested without a GPU: the program that is handed over,
the profiles, the settings, what is refused and why. Weights and caches are inputs of an engine, so
an engine is small, and one copy of the weights serves them all; a cache is updated in place, and an
engine that does not alias every cache is refused.

Traps that the choices below avoid, each found by trying: torch-tensorrt takes any mask for a causal
one unless it is told otherwise; small modules stay in torch unless `min_block_size` is 1; a cache
that is written and not aliased silently keeps its old content.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import metadata, util
from pathlib import Path
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node

from ..blocks.operators import lowering
from .artefact import ENGINES, Artefact, opened
from .base import BackendError, Executable, Limit, Method, Missing, Port
from .engines import UPDATED
from .exporting import examples, export, export_flat, parameter_ports
from .from_job import FromJob
from .job import Job
from .manifest import Target
from .packing import Progress, State, compared, finish, silent, writing
from .toolchain import cache_folder

NEEDED = (2, 14)
"""The first torch-tensorrt in which an engine updates its inputs in place."""


@torch.library.custom_op("triptych::kv_updated", mutates_args=())
def kv_updated(cache: Tensor, new: Tensor, start: Tensor) -> Tensor:
    """The cache with `new` in its slots from `start` on; TensorRT writes it into the cache."""
    slot_BT = start[:, None] + torch.arange(new.shape[2], device=start.device)
    return cache.scatter(2, slot_BT[:, None, :, None].expand_as(new), new)


@kv_updated.register_fake
def _(cache: Tensor, new: Tensor, start: Tensor) -> Tensor:
    return torch.empty_like(cache)


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes that an engine takes for one input: the least, the usual and the greatest."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]

    @property
    def static(self) -> bool:
        """Whether there is one shape only."""
        return self.least == self.most


def profile(port: Port, limits: Mapping[str, Limit]) -> Profile:
    """The profile of an input, from the limits of its named sizes."""
    return Profile(
        port.shape({name: limit.low for name, limit in limits.items()}),
        port.shape(examples(limits)),
        port.shape({name: limit.high for name, limit in limits.items()}),
    )


def engine_limits(
    limits: Mapping[str, Limit], spec: Mapping[str, Any], batch: int, slots: int | None
) -> dict[str, Limit]:
    """The limits that engines are built for: a cache of one size, so many sequences at a time.

    A call of a tower takes the largest picture or frame, with all its tiles: attention over packed
    rows is masked there, and the mask grows with their square. The session cuts what is more
    between pictures.
    """
    found = dict(limits)
    for name, size in (("batch", batch), ("slots", slots)):
        if name not in limits:
            continue
        size = size or limits[name].high
        if size not in limits[name]:
            raise BackendError(f"{name} {size} is outside what the mode allows: {limits[name]}")
        found[name] = Limit(size, size)
    for name, most in _largest(spec["inputs"]).items():
        if name in limits:
            limit = limits[name]
            found[name] = replace(limit, high=max(limit.low, min(limit.high, most)))
    if "features" in limits:
        found["features"] = replace(
            limits["features"], high=max(limits["features"].low, batch * limits["length"].high)
        )
    return found


def _largest(inputs: Mapping[str, Any]) -> dict[str, int]:
    """What the largest picture takes, by the names of sizes: of each input, and of all."""
    found: dict[str, int] = {}
    for medium, given in inputs.items():
        size = given["size"]
        for view, seen in given["views"].items():
            if seen["dense"]:
                tiles = size["high"] + size["thumbnail"] if size["call"] == "tiles" else 1
                found[f"{medium}.pictures"] = tiles
            else:
                side = size["multiple"] // seen["patch"]
                found[f"{view}.patches"] = size["most"] * side**2
    for kind in ("patches", "pictures"):
        own = [most for name, most in found.items() if name.endswith(f".{kind}")]
        found |= {kind: max(own)} if own else {}
    return found


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


def program(job: Job, name: str, limits: Mapping[str, Limit]) -> ExportedProgram:
    """What becomes an engine: tensors in, parameters first and then inputs; tensors out, updated
    caches last.

    Pictures are kept apart by a mask, and caches are values: `kv_updated` yields the new one.
    """
    method = job.methods[name]
    with lowering(segment_attention="masked"):
        exported = export(job.lowered.methods[name], method, limits)
    graph = copy.deepcopy(exported.graph)
    _return_caches(graph, method, len(method.parameters))
    return export_flat(GraphModule(torch.nn.Module(), graph), ports(job, name), limits)


def ports(job: Job, name: str) -> list[Port]:
    """What an engine takes: parameters, then inputs."""
    method = job.methods[name]
    parameters = parameter_ports(job.lowered.methods[name], method)
    return [*parameters.values(), *method.inputs.values()]


def _return_caches(graph: torch.fx.Graph, method: Method, parameters: int) -> None:
    """Writes become values; what reads a cache after its write reads the value, which is returned
    too."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    names = dict(zip(method.inputs, placeholders[parameters:], strict=True))
    writes = [node for node in graph.nodes if node.target is torch.ops.triptych.kv_update.default]
    newest: dict[Node, Node] = {}
    for write in writes:
        cache, new, start = write.args
        with graph.inserting_before(write):
            value = graph.call_function(
                torch.ops.triptych.kv_updated.default, (newest.get(cache, cache), new, start)
            )
        position = {node: index for index, node in enumerate(graph.nodes)}
        for user in list(cache.users):
            if position[user] > position[write]:
                user.replace_input_with(cache, value)
        newest[cache] = value
        graph.erase_node(write)
    unwritten = [name for name in method.caches if names[name] not in newest]
    assert not unwritten, f"{method.name} does not write {unwritten}"
    output = graph.output_node()
    (yielded,) = output.args
    assert isinstance(yielded, tuple | list)
    output.args = ((*yielded, *(newest[names[name]] for name in method.caches)),)
    graph.eliminate_dead_code()
    graph.lint()


def binding_names(method: Method) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of an engine's inputs and outputs, in the order of its program."""
    updated = tuple(f"{UPDATED}{name}" for name in method.caches)
    return (*method.parameters, *method.inputs), (*method.outputs, *updated)


def build_engine(
    job: Job, name: str, made: ExportedProgram, limits: Mapping[str, Limit], folder: Path
) -> bytes:
    """The serialised engine of a method's program; `folder` keeps what later builds can use."""
    from torch_tensorrt import Input
    from torch_tensorrt.dynamo import convert_exported_program_to_serialized_trt_engine

    register_converters()
    folder.mkdir(parents=True, exist_ok=True)
    inputs, outputs = binding_names(job.methods[name])
    try:
        engine: bytes = convert_exported_program_to_serialized_trt_engine(
            made,
            arg_inputs=[
                _input(Input, profile(port, limits), port.dtype) for port in ports(job, name)
            ],
            arg_input_binding_names=inputs,
            output_binding_names=outputs,
            **settings(job.dtype, folder),
        )
    except RuntimeError as problem:
        raise BackendError(f"TensorRT cannot build {name}: {problem}") from problem
    return engine


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
        if job.in_parts or job.quantized:
            what = "parts in precisions of their own" if job.in_parts else "8-bit weights"
            raise BackendError(f"{self.name} does not run {what}: choose eager, inductor or aot")
        limits = engine_limits(job.limits, job.spec, self.batch, self.slots)
        origin = FromJob(job, link)
        steps = len(job.methods) + 1
        with writing(folder) as beside:
            (beside / ENGINES).mkdir()
            code: dict[str, str] = {}
            for done, name in enumerate(job.methods):
                self.progress(f"build {name}", done, steps)
                origin.program(name, beside)
                made = program(job, name, limits)
                code[name] = f"{ENGINES}/{name}.engine"
                engine = build_engine(job, name, made, limits, cache_folder("tensorrt"))
                (beside / code[name]).write_bytes(engine)
            self.progress("compare with eager", steps - 1, steps)
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
    elif _numbers(metadata.version("torch-tensorrt")) < NEEDED:
        found = metadata.version("torch-tensorrt")
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

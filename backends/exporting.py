"""Methods as programs: torch.export, with parameters and caches as inputs, from fake weights.

A program holds no weights, so a recipe of any size is exported without its checkpoint, and one
copy of the weights serves every method.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal, TypeAlias, TypedDict

import torch
from torch import Tensor, nn
from torch._ops import OpOverload
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram
from torch.fx import GraphModule, Node
from torch.fx.traceback import annotate, preserve_node_meta

from ..blocks.operators import lowering
from .base import Limit, Method, Port

if TYPE_CHECKING:
    from ..compiler.lower import MethodModule
    from .job import Job

Arguments: TypeAlias = tuple[dict[str, Tensor], dict[str, Tensor]]
"""What a program takes: parameters and inputs, by their names."""

TYPICAL = {"batch": 2, "length": 256, "slots": 1024, "features": 256}
"""Sizes that a compiler sees as an example; patches and the rest: 1024. They decide no result, but
how loops are shared between threads, so they are those of an ordinary call and not the smallest."""

SIZES = "(sizes)"
"""Where a method computes with sizes, outside of every part."""


class Functional(nn.Module):
    """A method whose parameters come as its first argument: names -> tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # Not a submodule: its parameters must not become parameters of the program.
        object.__setattr__(self, "_method", module)

    def forward(self, parameters: dict[str, Tensor], inputs: dict[str, Tensor]) -> Any:
        """The method's outputs."""
        return torch.func.functional_call(self._method, parameters, (inputs,))  # type: ignore[arg-type]


def exported(job: Job, name: str) -> ExportedProgram:
    """The portable program of a method, which code for any target can be made from.

    What targets compute in ways of their own stays an operator of triptych's: writes to caches,
    attention to them and inside pictures, and the matrices that a single token meets. `in_form`
    says how. Each operator knows the part of the recipe that it is of (`part_of`).
    """
    with lowering(kv_update="operator", **compiled_forms(name)), preserve_node_meta():
        return export(_named(job.lowered.methods[name]), job.methods[name], job.limits)


def part_of(node: Node) -> str:
    """The part of the recipe that an operator is of."""
    return str((node.meta.get("custom") or {}).get("part", SIZES))


def _named(method: MethodModule) -> MethodModule:
    """The same method; what is traced of it carries the name of the part."""

    def naming(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def named(*values: Any) -> Any:
            with annotate({"part": name.partition("@")[0]}):
                return run(*values)

        return named

    made = copy.copy(method)
    made._steps = [replace(step, run=naming(step.name, step.run)) for step in method._steps]
    return made


def in_form(
    program: ExportedProgram, forms: Mapping[OpOverload, Callable[..., Any]]
) -> GraphModule:
    """The graph of a program with plain functions in the place of some of triptych's operators;
    whoever compiles it sees what these compute."""
    module = program.module(check_guards=False)
    assert isinstance(module, GraphModule)
    for node in module.graph.nodes:
        if node.op == "call_function":
            node.target = forms.get(node.target, node.target)
    module.recompile()
    return module


def export(module: nn.Module, method: Method, limits: Mapping[str, Limit]) -> ExportedProgram:
    """The program of a lowered method; torch refuses it if a size is not free within its limits."""
    given = arguments(parameter_ports(module, method), method, limits)
    return _export(Functional(module), given, _dynamic_shapes(method, limits))


def exported_again(
    program: ExportedProgram,
    parameters: Mapping[str, Port],
    method: Method,
    limits: Mapping[str, Limit],
) -> ExportedProgram:
    """A program that was read from a file, with an ordinary value for each size that is free.

    torch does not store those of sizes that come in steps, and cannot compile without them.
    """
    given = arguments(parameters, method, limits)
    return _export(program.module(check_guards=False), given, _dynamic_shapes(method, limits))


def arguments(
    parameters: Mapping[str, Port], method: Method, limits: Mapping[str, Limit]
) -> Arguments:
    """What a method could be called with: tensors of ordinary sizes that hold no numbers."""
    with FakeTensorMode():
        weights = {name: _empty(parameters[name], limits) for name in method.parameters}
        inputs = {name: _empty(port, limits) for name, port in method.inputs.items()}
    return weights, inputs


class CompiledForms(TypedDict):
    """How a compiled method computes what has operators of ours: as `lowering` says."""

    cache_attention: Literal["masked", "operator"]
    linear: Literal["torch", "operator"]
    few_bits: Literal["torch", "operator"]
    beside: Literal["apart", "fused"]


def compiled_forms(method: str) -> CompiledForms:
    """Of a cache, only what is seen is read. Layers are our own operators, which read matrices as
    streams for few rows, and multiply tiles for many; with these, activations, gates and
    residuals are computed as the sums are written out. Weights in few bits are streams only for
    `decode`, which takes one token a row, and mostly one row.
    """
    few = method == "decode"
    return {
        "cache_attention": "operator",
        "linear": "operator",
        "few_bits": "operator" if few else "torch",
        "beside": "apart" if few else "fused",
    }


def export_flat(
    function: nn.Module, ports: Iterable[Port], limits: Mapping[str, Limit]
) -> ExportedProgram:
    """The program of what takes tensors one after another."""
    ports = list(ports)
    with FakeTensorMode():
        inputs = tuple(_empty(port, limits) for port in ports)
    return _export(function, inputs, tuple(_free(port, limits) for port in ports))


def parameter_ports(module: nn.Module, *methods: Method) -> dict[str, Port]:
    """The parameters that methods use, in their order."""
    state = module.state_dict()
    used = dict.fromkeys(name for method in methods for name in method.parameters)
    return {name: Port(tuple(state[name].shape), state[name].dtype) for name in used}


def dynamic(limits: Mapping[str, Limit]) -> dict[str, Any]:
    """Each size that is free as a dimension of torch.export, with its range and its steps."""
    dims: dict[str, Any] = {}
    for name, limit in limits.items():
        if limit.low == limit.high:
            continue
        step = limit.multiple
        dim = Dim(name.replace(".", "_"), min=limit.low // step, max=limit.high // step)
        dims[name] = step * dim if step > 1 else dim
    return dims


def examples(limits: Mapping[str, Limit]) -> dict[str, int]:
    """An ordinary value of each named size."""
    found = {}
    for name, limit in limits.items():
        size = min(limit.high, max(limit.low, TYPICAL.get(name, 1024)))
        found[name] = size // limit.multiple * limit.multiple
    return found


def _empty(port: Port, limits: Mapping[str, Limit]) -> Tensor:
    return torch.empty(port.shape(examples(limits)), dtype=port.dtype)


def _free(port: Port, limits: Mapping[str, Limit]) -> dict[int, Any]:
    dims = dynamic(limits)
    return {dim: dims[str(size)] for dim, size in enumerate(port.sizes) if size in dims}


def _dynamic_shapes(method: Method, limits: Mapping[str, Limit]) -> Any:
    free = {name: _free(port, limits) for name, port in method.inputs.items()}
    return {name: {} for name in method.parameters}, free


def _export(function: nn.Module, arguments: tuple[Any, ...], free: Any) -> ExportedProgram:
    with torch.no_grad():
        return torch.export.export(function, arguments, dynamic_shapes=free, strict=False)

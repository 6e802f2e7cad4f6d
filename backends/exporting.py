"""Methods as programs: torch.export, with parameters and caches as inputs, from fake weights.

A program holds no weights, so a recipe of any size is exported without its checkpoint, and one
copy of the weights serves every method.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram

from .base import Limit, Method

TYPICAL = {"batch": 2, "length": 256, "slots": 1024, "features": 256}
"""Sizes that a compiler sees as an example; patches and the rest: 1024. They decide no result, but
how loops are shared between threads, so they are those of an ordinary call and not the smallest."""


class Functional(nn.Module):
    """A method whose parameters come as its first argument: names -> tensors."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        # Not a submodule: its parameters must not become parameters of the program.
        object.__setattr__(self, "_method", module)

    def forward(self, parameters: dict[str, Tensor], inputs: dict[str, Tensor]) -> Any:
        """The method's outputs."""
        return torch.func.functional_call(self._method, parameters, (inputs,))  # type: ignore[arg-type]


def export(module: nn.Module, method: Method, limits: Mapping[str, Limit]) -> ExportedProgram:
    """The program of a lowered method; torch refuses it if a size is not free within its limits."""
    return export_function(Functional(module), method, limits, parameters_of(module, method))


def export_function(
    function: nn.Module,
    method: Method,
    limits: Mapping[str, Limit],
    parameters: Mapping[str, tuple[torch.Size, torch.dtype]],
) -> ExportedProgram:
    """The program of what takes (parameters, inputs)."""
    with FakeTensorMode():
        weights = {
            name: torch.empty(shape, dtype=kind) for name, (shape, kind) in parameters.items()
        }
        inputs = {
            name: torch.empty(port.shape(examples(limits)), dtype=port.dtype)
            for name, port in method.inputs.items()
        }
    dims = dynamic(limits)
    free = {
        name: {dim: dims[size] for dim, size in enumerate(port.sizes) if isinstance(size, str)}
        for name, port in method.inputs.items()
    }
    shapes = (dict.fromkeys(weights), free)
    with torch.no_grad():
        return torch.export.export(function, (weights, inputs), dynamic_shapes=shapes, strict=False)


def parameters_of(module: nn.Module, method: Method) -> dict[str, tuple[torch.Size, torch.dtype]]:
    """Shape and dtype of what a method uses, in its order."""
    state = module.state_dict()
    return {name: (state[name].shape, state[name].dtype) for name in method.parameters}


def dynamic(limits: Mapping[str, Limit]) -> dict[str, Any]:
    """Each named size as a dimension of torch.export, with its range and its steps."""
    dims: dict[str, Any] = {}
    for name, limit in limits.items():
        step = limit.multiple
        dim = Dim(name.replace(".", "_"), min=limit.low // step, max=limit.high // step)
        dims[name] = step * dim if step > 1 else dim
    return dims


def examples(limits: Mapping[str, Limit]) -> dict[str, int]:
    """An ordinary value of each named size."""
    return {
        name: min(limit.high, max(limit.low, TYPICAL.get(name, 1024)))
        // limit.multiple
        * limit.multiple
        for name, limit in limits.items()
    }

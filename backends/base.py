"""What every backend is, and what it makes: methods that take tensors by name.

An artefact runs on this file too, so it knows nothing of recipes and of the compiler.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Protocol, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from .job import Job

Tensors: TypeAlias = Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class Missing:
    """What a backend needs and this machine lacks, and how to get it."""

    backend: str
    lacks: tuple[str, ...]
    remedy: str

    def __str__(self) -> str:
        lacks = "\n".join(f"  - {line}" for line in self.lacks)
        return f"the backend {self.backend} cannot work on this machine:\n{lacks}\n{self.remedy}"


class BackendError(Exception):
    """A backend cannot do what it was asked; the message says why and what to do."""


class MissingError(BackendError):
    """This machine lacks what a backend needs."""

    exit_code = 2


class InputError(ValueError):
    """A method was given tensors that it does not take."""


@dataclass(frozen=True, slots=True)
class Port:
    """One tensor that a method takes: its sizes, some of them named, and its dtype.

    >>> str(Port(("batch", "length"), torch.int64))
    'int64 [batch, length]'
    """

    sizes: tuple[int | str, ...]
    dtype: torch.dtype

    def __str__(self) -> str:
        sizes = ", ".join(map(str, self.sizes))
        return f"{str(self.dtype).removeprefix('torch.')} [{sizes}]"

    def shape(self, sizes: Mapping[str, int]) -> tuple[int, ...]:
        """The shape for given values of the named sizes."""
        return tuple(sizes[size] if isinstance(size, str) else size for size in self.sizes)


@dataclass(frozen=True, slots=True)
class Limit:
    """How large a named size may be: from `low` to `high`, and a multiple of `multiple`."""

    low: int
    high: int
    multiple: int = 1

    def __contains__(self, size: int) -> bool:
        return self.low <= size <= self.high and size % self.multiple == 0

    def __str__(self) -> str:
        step = f" in steps of {self.multiple}" if self.multiple > 1 else ""
        return f"{self.low} to {self.high}{step}"


@dataclass(frozen=True, slots=True)
class Method:
    """The outside of a method: what it takes and yields, and the parameters that it uses.

    An input whose name starts with `cache.` is updated in place.
    """

    name: str
    inputs: Mapping[str, Port]
    outputs: tuple[str, ...]
    parameters: tuple[str, ...]

    @property
    def caches(self) -> dict[str, Port]:
        """The inputs that are updated in place."""
        return {name: port for name, port in self.inputs.items() if name.startswith("cache.")}

    def sizes(self, inputs: Tensors, limits: Mapping[str, Limit]) -> dict[str, int]:
        """The values of the named sizes; InputError where the tensors do not fit."""
        found: dict[str, int] = {}
        for name, port in self.inputs.items():
            if name not in inputs:
                raise InputError(f"{self.name}: no {name}; it takes {', '.join(self.inputs)}")
            tensor = inputs[name]
            if tensor.dtype != port.dtype or tensor.dim() != len(port.sizes):
                raise InputError(f"{self.name}: {name} is {_shown(tensor)}; it takes {port}")
            for size, given in zip(port.sizes, tensor.shape, strict=True):
                if (
                    found.setdefault(size, given) != given
                    if isinstance(size, str)
                    else size != given
                ):
                    known = {key: value for key, value in found.items() if key in port.sizes}
                    here = f" (here {known})" if known else ""
                    raise InputError(
                        f"{self.name}: {name} is {_shown(tensor)}; it takes {port}{here}"
                    )
        for size, given in found.items():
            if given not in limits[size]:
                raise InputError(
                    f"{self.name}: {size} is {given}; the executable takes {limits[size]}. "
                    "Compile again with wider limits in the recipe's mode, or give it less."
                )
        return found


def _dense(tensor: Tensor) -> Tensor:
    """The tensor with the strides that its shape gives: compiled code takes no others.

    Dimensions of size 1 count too, unlike in `is_contiguous`: torch.compile guards their strides.
    """
    stride, strides = 1, []
    for size in reversed(tensor.shape):
        strides.append(stride)
        stride *= max(size, 1)
    if tensor.stride() == tuple(reversed(strides)):
        return tensor
    return tensor.clone(memory_format=torch.contiguous_format)


def _shown(tensor: Tensor) -> str:
    return str(Port(tuple(tensor.shape), tensor.dtype))


class Executable(ABC):
    """Methods that can be run; parameters are bound, caches come with the inputs.

    `limits` holds for each named size of the methods' inputs; `device` is where inputs must be.
    """

    methods: Mapping[str, Method]
    limits: Mapping[str, Limit]
    device: torch.device

    def run(self, method: str, inputs: Tensors) -> dict[str, Tensor]:
        """The outputs of a method, by name; of `inputs`, only what the method takes is looked at.

        InputError when something is missing, of another type, or outside the limits.
        """
        chosen = self.methods[method]
        sizes = chosen.sizes(inputs, self.limits)
        taken = {name: _dense(inputs[name]) for name in chosen.inputs}
        for name in chosen.caches:
            if taken[name] is not inputs[name]:
                raise InputError(f"{method}: {name} is a view, and must be updated in place")
        # Not inference mode: its tensors are of another kind, which compiled graphs are guarded on.
        with torch.no_grad():
            return self._run(chosen, taken, sizes)

    def fed(self, method: str, inputs: Tensors) -> dict[str, Tensor]:
        """The same, with inputs brought to where and what the method takes; others may be there."""
        wanted = self.methods[method].inputs
        return self.run(
            method,
            {
                name: tensor.to(self.device, wanted[name].dtype)
                for name, tensor in inputs.items()
                if name in wanted
            },
        )

    @abstractmethod
    def _run(
        self, method: Method, inputs: dict[str, Tensor], sizes: Mapping[str, int]
    ) -> dict[str, Tensor]:
        """The outputs for inputs that fit; `sizes` are the values of the named sizes."""

    def caches(self, batch: int, slots: int) -> dict[str, Tensor]:
        """Empty caches for so many sequences of so many tokens."""
        sizes = {"batch": batch, "slots": slots}
        return {
            name: torch.zeros(port.shape(sizes), dtype=port.dtype, device=self.device)
            for name, port in self.methods["decode"].caches.items()
        }


class Backend(Protocol):
    """One row of the table of backends: says what it lacks, then compiles."""

    name: ClassVar[str]

    def missing(self) -> Missing | None:
        """What this machine lacks to use the backend; None when it can."""
        ...

    def compile(self, job: Job) -> Executable:
        """The methods of a job, ready to run."""
        ...

"""What every operation is, and what the layers inside of one own."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from ..types import Size, TensorType


class MisfitError(Exception):
    """An input that an operation cannot take; `port` counts the inputs from 0."""

    def __init__(self, port: int, wanted: str, got: object) -> None:
        super().__init__(f"input {port} must be {wanted}, not {got}")
        self.port = port
        self.wanted = wanted
        self.got = str(got)


@dataclass(frozen=True, slots=True)
class Init:
    """How a new parameter starts.

    `fan_in` draws from a normal distribution whose deviation is 1 / sqrt(numbers that one output is
    a sum of). At the widths of published models that is near the usual 0.02 (0.017 at 3584), and a
    narrow one starts with signals as strong as theirs. `sines` tells the cells of a `grid` of rows
    and columns apart.

    >>> str(Init("normal", 0.02)), str(Init("fan_in"))
    ('normal(0.02)', 'fan_in')
    """

    kind: Literal["fan_in", "normal", "constant", "ones", "zeros", "sines"]
    scale: float = 0.0
    grid: tuple[int, int] | None = None

    def __str__(self) -> str:
        scaled = self.kind in ("normal", "constant")
        return f"{self.kind}({self.scale!r})" if scaled else self.kind


FAN_IN = Init("fan_in")
TABLE = Init("normal", 0.02)
ONES = Init("ones")
ZEROS = Init("zeros")


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter: its shape, and how it starts when no checkpoint gives it.

    A `fixed` one stays as it starts: checkpoints hold it, and no stage trains it.
    """

    shape: tuple[int, ...]
    init: Init = FAN_IN
    fixed: bool = False

    @property
    def count(self) -> int:
        """How many numbers it holds."""
        product = 1
        for size in self.shape:
            product *= size
        return product


Parameters = dict[str, Param]
NormKind = Literal["layernorm", "rmsnorm"]
Activation = Literal["quick_gelu", "gelu", "gelu_tanh", "silu", "relu"]


class Operation(Protocol):
    """What every row of `OPERATIONS` is."""

    name: ClassVar[str]

    def result(self, *inputs: TensorType) -> TensorType:
        """The type of what the operation yields; MisfitError when an input does not fit."""
        ...

    def parameters(self) -> Parameters:
        """What the operation owns: name relative to its node -> parameter."""
        ...


class Plain:
    """An operation that owns no parameters."""

    __slots__ = ()

    def parameters(self) -> Parameters:
        """None."""
        return {}


def linear(name: str, out: int, into: int, *, bias: bool) -> Parameters:
    """The parameters of one linear layer."""
    weight = {f"{name}.weight": Param((out, into))}
    return weight | ({f"{name}.bias": Param((out,), ZEROS)} if bias else {})


def norm(name: str, kind: NormKind, width: int) -> Parameters:
    """The parameters of one norm: a scale, and a shift where the kind has one."""
    scale = {f"{name}.weight": Param((width,), ONES)}
    return scale | ({f"{name}.bias": Param((width,), ZEROS)} if kind == "layernorm" else {})


def attention(name: str, width: int, into: int | None = None) -> Parameters:
    """The parameters of an attention with a matrix for each of q, k, v and o, all with a bias."""
    sizes = {"q": width, "k": into or width, "v": into or width, "o": width}
    made = Parameters()
    for which, size in sizes.items():
        made |= linear(f"{name}.{which}", width, size, bias=True)
    return made


def numbered(blocks: Iterable[int], block: Parameters) -> Parameters:
    """The parameters of equal blocks, each name led by the number of its block."""
    return {f"{i}.{name}": param for i in blocks for name, param in block.items()}


def wants(port: int, inputs: tuple[TensorType, ...], *sizes: Size | str | None) -> None:
    """MisfitError unless the input has these sizes; None stands for any size."""
    given = inputs[port].sizes
    wanted = TensorType(tuple("_" if size is None else size for size in sizes)).sizes
    same = len(given) == len(wanted) and all(
        size is None or want == have for size, want, have in zip(sizes, wanted, given, strict=True)
    )
    if not same:
        shown = ", ".join("any" if size is None else str(size) for size in sizes)
        raise MisfitError(port, f"[{shown}]", f"[{', '.join(map(str, given))}]")


def widened(inputs: tuple[TensorType, ...], width: int, out: int) -> TensorType:
    """The input with `out` in place of its innermost size; MisfitError unless that is `width`."""
    if inputs[0].width != width:
        raise MisfitError(0, f"{width} wide", inputs[0].width)
    return TensorType((*inputs[0].sizes[:-1], out))

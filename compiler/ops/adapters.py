"""What brings features to the language model."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..types import TensorType, add, divide, multiply
from .base import (
    ZEROS,
    Activation,
    Init,
    MisfitError,
    NormKind,
    Param,
    Parameters,
    Plain,
    linear,
    norm,
    numbered,
    wants,
    widened,
)


@dataclass(frozen=True, slots=True)
class MergeMLP:
    """Norms each patch, joins `area` neighbours that follow one another, then two linear layers."""

    name: ClassVar[str] = "merge_mlp"
    area: int
    width: int
    hidden: int
    out: int
    act: Activation
    norm: NormKind
    eps: float

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [..., N, width]) -> [..., N // area, out]."""
        if inputs[0].width != self.width:
            raise MisfitError(0, f"{self.width} wide", inputs[0].width)
        *before, rows, _ = inputs[0].sizes
        return TensorType((*before, divide(rows, self.area), self.out))

    def parameters(self) -> Parameters:
        """The norm and both layers."""
        return (
            norm("norm", self.norm, self.width)
            | linear("fc1", self.hidden, self.area * self.width, bias=True)
            | linear("fc2", self.out, self.hidden, bias=True)
        )


@dataclass(frozen=True, slots=True)
class SamNeck:
    """Maps, each through a neck of its own, brought to one grid and through strided convolutions.

    The first map counts in full, each other by a factor of `gate`, which starts at `start`.
    """

    name: ClassVar[str] = "sam_neck"
    maps: int
    into: int
    from_grid: tuple[int, int]
    width: int
    norm: NormKind
    eps: float
    grid: tuple[int, int]
    strided: tuple[int, ...]
    start: float

    @property
    def out_grid(self) -> tuple[int, int]:
        """Rows and columns of the tokens: each convolution halves the sides, rounded up."""
        rows, columns = self.grid
        for _ in self.strided:
            rows, columns = -(-rows // 2), -(-columns // 2)
        return rows, columns

    def result(self, *inputs: TensorType) -> TensorType:
        """(maps [M, P, into], ...) -> [M, tokens, the last of strided]."""
        for port in range(self.maps):
            wants(
                port, inputs, inputs[0].sizes[0], self.from_grid[0] * self.from_grid[1], self.into
            )
        rows, columns = self.out_grid
        return TensorType((inputs[0].sizes[0], rows * columns, self.strided[-1]))

    def parameters(self) -> Parameters:
        """Of each neck two convolutions and their norms, then the strided ones, and the gate."""
        neck = (
            {"conv1.weight": Param((self.width, self.into, 1, 1))}
            | norm("norm1", self.norm, self.width)
            | {"conv2.weight": Param((self.width, self.width, 3, 3))}
            | norm("norm2", self.norm, self.width)
        )
        own = {f"necks.{name}": param for name, param in numbered(range(self.maps), neck).items()}
        for index, (out, into) in enumerate(
            zip(self.strided, (self.width, *self.strided), strict=False)
        ):
            own[f"strided.{index}.weight"] = Param((out, into, 3, 3))
        gate = Param((self.maps - 1,), Init("constant", self.start))
        return own | ({"gate": gate} if self.maps > 1 else {})


@dataclass(frozen=True, slots=True)
class PixelShuffle(Plain):
    """Joins each square of `factor` by `factor` patches of a `grid` into one token, row by row."""

    name: ClassVar[str] = "pixel_shuffle"
    grid: tuple[int, int]
    factor: int

    def result(self, *inputs: TensorType) -> TensorType:
        """([M, P, W]) -> [M, P / factor**2, factor**2 * W]."""
        patches, area = self.grid[0] * self.grid[1], self.factor**2
        wants(0, inputs, None, patches, None)
        pictures, _, width = inputs[0].sizes
        return TensorType((pictures, patches // area, multiply(area, width)))


@dataclass(frozen=True, slots=True)
class Linear:
    """One linear layer over the innermost size."""

    name: ClassVar[str] = "linear"
    width: int
    out: int
    bias: bool

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [..., width]) -> [..., out]."""
        return widened(inputs, self.width, self.out)

    def parameters(self) -> Parameters:
        """The matrix, and the bias if there is one."""
        bias = {"bias": Param((self.out,), ZEROS)} if self.bias else {}
        return {"weight": Param((self.out, self.width))} | bias


@dataclass(frozen=True, slots=True)
class MLP:
    """Two linear layers round an activation over the innermost size, perhaps behind a norm."""

    name: ClassVar[str] = "mlp"
    width: int
    hidden: int
    out: int
    act: Activation
    norm: NormKind | None = None
    eps: float = 0.0

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [..., width]) -> [..., out]."""
        return widened(inputs, self.width, self.out)

    def parameters(self) -> Parameters:
        """The norm, if there is one, and both layers."""
        return (
            (norm("norm", self.norm, self.width) if self.norm else {})
            | linear("fc1", self.hidden, self.width, bias=True)
            | linear("fc2", self.out, self.hidden, bias=True)
        )


@dataclass(frozen=True, slots=True)
class SplitMLP:
    """Joins several sources row by row: a linear layer each, then an activation and one for all."""

    name: ClassVar[str] = "split_mlp"
    widths: tuple[int, ...]
    each: int
    out: int
    act: Activation

    def result(self, *inputs: TensorType) -> TensorType:
        """([..., W1], [..., W2], ...) -> [..., out]."""
        for port, width in enumerate(self.widths):
            wants(port, inputs, *inputs[0].sizes[:-1], width)
        return widened(inputs, self.widths[0], self.out)

    def parameters(self) -> Parameters:
        """A layer for each source, and the one for all."""
        own = Parameters()
        for index, width in enumerate(self.widths):
            own |= linear(f"up.{index}", self.each, width, bias=True)
        return own | linear("fc2", self.out, self.each * len(self.widths), bias=True)


@dataclass(frozen=True, slots=True)
class Concat(Plain):
    """Rows of several tensors, one after another."""

    name: ClassVar[str] = "concat"

    def result(self, *inputs: TensorType) -> TensorType:
        """([N1, width], [N2, width], ...) -> [N1 + N2 + ..., width]."""
        for port in range(len(inputs)):
            wants(port, inputs, None, inputs[0].width)
        return TensorType((add(*(type.sizes[0] for type in inputs)), inputs[0].width))

"""Vectors that are compared, and what a stage minimises."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar, Literal

from ..types import TensorType, multiply
from .base import Init, Param, Parameters, Plain, wants


@dataclass(frozen=True, slots=True)
class Scale:
    """A learned factor, as its logarithm: similarities are multiplied by exp of it."""

    name: ClassVar[str] = "scale"
    temperature: float

    def result(self, *inputs: TensorType) -> TensorType:
        """() -> []."""
        return TensorType(())

    def parameters(self) -> Parameters:
        """One number, which starts at the logarithm of 1 / temperature."""
        return {"weight": Param((), Init("constant", -math.log(self.temperature)))}


@dataclass(frozen=True, slots=True)
class UnitSum(Plain):
    """The sum of several vectors, each brought to length 1 first."""

    name: ClassVar[str] = "unit_sum"

    def result(self, *inputs: TensorType) -> TensorType:
        """([M, W], [M, W], ...) -> [M, W]."""
        for port in range(len(inputs)):
            wants(port, inputs, *inputs[0].sizes)
        return inputs[0]


@dataclass(frozen=True, slots=True)
class Mean(Plain):
    """The mean over the tokens of each sequence."""

    name: ClassVar[str] = "mean"

    def result(self, *inputs: TensorType) -> TensorType:
        """([M, T, W]) -> [M, W]."""
        wants(0, inputs, None, None, None)
        return TensorType((inputs[0].sizes[0], inputs[0].width))


@dataclass(frozen=True, slots=True)
class Pick(Plain):
    """The members that an index names, along the outermost size."""

    name: ClassVar[str] = "pick"

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [N, ...], index [R]) -> [R, ...]."""
        wants(1, inputs, None)
        return TensorType((*inputs[1].sizes, *inputs[0].sizes[1:]), inputs[0].dtype)


@dataclass(frozen=True, slots=True)
class Similarities(Plain):
    """The cosines of each picture's vector with each text's, times exp(scale), in float32."""

    name: ClassVar[str] = "similarities"

    def result(self, *inputs: TensorType) -> TensorType:
        """(image [M, W], text [N, W], scale [] or nothing) -> [M, N]."""
        wants(0, inputs, None, None)
        wants(1, inputs, None, inputs[0].width)
        if len(inputs) > 2:
            wants(2, inputs)
        return TensorType((inputs[0].sizes[0], inputs[1].sizes[0]), "f32")


@dataclass(frozen=True, slots=True)
class Contrast(Plain):
    """The weighted sum over pairs of the symmetric cross entropy of their similarities, in float32.

    Pairs of one group are right answers to one another; with several processes, all their pairs
    are answers.
    """

    name: ClassVar[str] = "contrast"
    smoothing: float

    def result(self, *inputs: TensorType) -> TensorType:
        """(image [B, W], text [B, W], scale [], group [B], weight [B]) -> []."""
        wants(0, inputs, None, None)
        pairs = inputs[0].sizes[0]
        wants(1, inputs, pairs, inputs[0].width)
        wants(2, inputs)
        wants(3, inputs, pairs)
        wants(4, inputs, pairs)
        return TensorType((), "f32")


@dataclass(frozen=True, slots=True)
class HardNegatives(Plain):
    """What each pair is matched with, as an index: itself, itself, and another one like it.

    For `texts` the other is drawn in the last third, for `images` in the second; the more similar
    the likelier.
    """

    name: ClassVar[str] = "hard_negatives"
    of: Literal["images", "texts"]

    def result(self, *inputs: TensorType) -> TensorType:
        """(image [B, W], text [B, W], scale [], group [B]) -> [3 B]."""
        wants(0, inputs, None, None)
        pairs = inputs[0].sizes[0]
        wants(1, inputs, pairs, inputs[0].width)
        wants(2, inputs)
        wants(3, inputs, pairs)
        return TensorType((multiply(3, pairs),), "i64")


@dataclass(frozen=True, slots=True)
class CrossEntropy(Plain):
    """The weighted sum over targets of the negative log-likelihood, in float32."""

    name: ClassVar[str] = "cross_entropy"

    def result(self, *inputs: TensorType) -> TensorType:
        """(logits [K, V], targets [K], weight [K]) -> []."""
        wants(0, inputs, None, None)
        rows = inputs[0].sizes[0]
        wants(1, inputs, rows)
        wants(2, inputs, rows)
        return TensorType((), "f32")


@dataclass(frozen=True, slots=True)
class RegionWords(Plain):
    """Contrasts the mean feature of each region with the mean embedding of each label.

    The weighted sum over regions of the cross entropy of
    normalize(pool @ features) @ normalize(mean of words)^T / temperature, in float32.
    """

    name: ClassVar[str] = "region_words"
    temperature: float

    def result(self, *inputs: TensorType) -> TensorType:
        """(features [M, W], pool [R, M], words [C, L, W], mask [C, L], target [R], weight [R])
        -> []."""
        rows, width = inputs[0].sizes
        wants(1, inputs, None, rows)
        wants(2, inputs, None, None, width)
        wants(3, inputs, *inputs[2].sizes[:2])
        for port in (4, 5):
            wants(port, inputs, inputs[1].sizes[0])
        return TensorType((), "f32")


@dataclass(frozen=True, slots=True)
class Add(Plain):
    """The sum of several tensors of one type."""

    name: ClassVar[str] = "add"

    def result(self, *inputs: TensorType) -> TensorType:
        """([...], [...], ...) -> [...]."""
        for port in range(len(inputs)):
            wants(port, inputs, *inputs[0].sizes)
        return inputs[0]

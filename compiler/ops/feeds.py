"""What comes from outside of a graph, and a change of its precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..types import DType, TensorType
from .base import Plain


@dataclass(frozen=True, slots=True)
class Input(Plain):
    """What the host feeds under the node's name.

    `medium` is the input of the recipe whose patches these are; `still`: patches of pictures, so
    all frames of a row are the same.
    """

    name: ClassVar[str] = "input"
    type: TensorType
    still: bool = False
    medium: str = ""

    def result(self, *inputs: TensorType) -> TensorType:
        """As declared."""
        return self.type


@dataclass(frozen=True, slots=True)
class Cache(Plain):
    """Keys and values of earlier tokens, kept between calls and updated in place.

    The host feeds it as two tensors a layer, `NODE.{layer}.k` and `NODE.{layer}.v`, each
    [batch, kv_heads, slots, head_dim]; in the graph it is one value.
    """

    name: ClassVar[str] = "cache"
    layers: int
    kv_heads: int
    head_dim: int

    def result(self, *inputs: TensorType) -> TensorType:
        """One pair of caches a layer."""
        return TensorType((self.layers, 2, "batch", self.kv_heads, "slots", self.head_dim))


@dataclass(frozen=True, slots=True)
class Cast(Plain):
    """The same numbers in another precision, between parts that differ in it."""

    name: ClassVar[str] = "cast"
    to: DType

    def result(self, *inputs: TensorType) -> TensorType:
        """(x) -> as x, in that precision."""
        return TensorType(inputs[0].sizes, self.to)

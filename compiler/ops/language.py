"""The language model: from tokens to logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..types import TensorType
from .base import (
    TABLE,
    Activation,
    MisfitError,
    NormKind,
    Param,
    Parameters,
    Plain,
    linear,
    norm,
    numbered,
    wants,
)


@dataclass(frozen=True, slots=True)
class Embed:
    """A row of a table for each id."""

    name: ClassVar[str] = "embed"
    vocab: int
    width: int

    def result(self, *inputs: TensorType) -> TensorType:
        """(ids [...]) -> [..., width]."""
        return TensorType((*inputs[0].sizes, self.width))

    def parameters(self) -> Parameters:
        """The table."""
        return {"weight": Param((self.vocab, self.width), TABLE)}


@dataclass(frozen=True, slots=True)
class Splice(Plain):
    """Lays feature rows into the places that a sequence reserves for them."""

    name: ClassVar[str] = "splice"

    def result(self, *inputs: TensorType) -> TensorType:
        """(text [B, T, W], features [F, W], index [B, T]: -1 or a row) -> [B, T, W]."""
        batch, length, width = inputs[0].sizes
        wants(1, inputs, None, width)
        wants(2, inputs, batch, length)
        return inputs[0]


@dataclass(frozen=True, slots=True)
class DecoderBlocks:
    """Causal transformer blocks with grouped-query attention and a gated feed-forward.

    Not `cached`: a query sees what stands before it in its own segment (0 is padding). `cached`:
    new keys and values go into their slots, and a query sees the slots from `first` to its own.
    There `scaled_queries` are multiplied by a number for each place.
    """

    name: ClassVar[str] = "decoder_blocks"
    depth: int
    width: int
    heads: int
    kv_heads: int
    head_dim: int
    ffn: int
    act: Activation
    norm: NormKind
    eps: float
    qkv_bias: bool
    cached: bool = False
    scaled_queries: bool = False

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [B, T, width], cos, sin [B, T, head_dim], and then
        not cached: segment_id [B, T]; cached: slot [B, T], first [B], cache,
        and where they are scaled: query_scale [B, T]) -> as x."""
        wants(0, inputs, None, None, self.width)
        batch, length, _ = inputs[0].sizes
        for port in (1, 2):
            wants(port, inputs, batch, length, self.head_dim)
        wants(3, inputs, batch, length)
        if self.cached:
            wants(4, inputs, batch)
            wants(5, inputs, self.depth, 2, batch, self.kv_heads, None, self.head_dim)
            if self.scaled_queries:
                wants(6, inputs, batch, length)
        return inputs[0]

    def parameters(self) -> Parameters:
        """Both norms, the four projections of attention, and the three of the feed-forward."""
        inner, shared = self.heads * self.head_dim, self.kv_heads * self.head_dim
        return numbered(
            range(self.depth),
            norm("norm1", self.norm, self.width)
            | linear("attn.q", inner, self.width, bias=self.qkv_bias)
            | linear("attn.k", shared, self.width, bias=self.qkv_bias)
            | linear("attn.v", shared, self.width, bias=self.qkv_bias)
            | linear("attn.o", self.width, inner, bias=False)
            | norm("norm2", self.norm, self.width)
            | linear("mlp.gate", self.ffn, self.width, bias=False)
            | linear("mlp.up", self.ffn, self.width, bias=False)
            | linear("mlp.down", self.width, self.ffn, bias=False),
        )


@dataclass(frozen=True, slots=True)
class Norm:
    """A norm over the innermost size."""

    name: ClassVar[str] = "norm"
    kind: NormKind
    width: int
    eps: float

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [..., width]) -> as x."""
        if inputs[0].width != self.width:
            raise MisfitError(0, f"{self.width} wide", inputs[0].width)
        return inputs[0]

    def parameters(self) -> Parameters:
        """A scale, and a shift where the kind has one."""
        full = norm("", self.kind, self.width)
        return {name.removeprefix("."): param for name, param in full.items()}


@dataclass(frozen=True, slots=True)
class TakeRows(Plain):
    """The rows of a batch of sequences that a flat index b * T + t names."""

    name: ClassVar[str] = "take_rows"

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [B, T, W], index [K]) -> [K, W]."""
        wants(0, inputs, None, None, None)
        wants(1, inputs, None)
        return TensorType((inputs[1].sizes[0], inputs[0].width))


@dataclass(frozen=True, slots=True)
class TakeLast(Plain):
    """The last row of each sequence, whose position in T is given where sequences are padded."""

    name: ClassVar[str] = "take_last"

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [B, T, W], position [B] or nothing: T - 1) -> [B, W]."""
        batch, _, width = inputs[0].sizes
        if len(inputs) > 1:
            wants(1, inputs, batch)
        return TensorType((batch, width))


@dataclass(frozen=True, slots=True)
class Head:
    """A score for each entry of the vocabulary.

    A tied head owns nothing: it takes the table of the node that `weights` names.
    """

    name: ClassVar[str] = "head"
    vocab: int
    width: int
    tied: bool

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [..., width]) -> [..., vocab]."""
        if inputs[0].width != self.width:
            raise MisfitError(0, f"{self.width} wide", inputs[0].width)
        return TensorType((*inputs[0].sizes[:-1], self.vocab))

    def parameters(self) -> Parameters:
        """The matrix, unless it is tied."""
        return {} if self.tied else {"weight": Param((self.vocab, self.width))}

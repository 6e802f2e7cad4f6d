"""What reads pictures by queries of its own, or by text."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, Literal

from ..types import TensorType
from .base import (
    TABLE,
    ZEROS,
    Activation,
    Init,
    NormKind,
    Param,
    Parameters,
    attention,
    linear,
    norm,
    wants,
)


@dataclass(frozen=True, slots=True)
class QFormer:
    """Learned queries, a norm over them, and post-norm blocks in which they look at a picture.

    The first of every `cross_every` blocks looks.
    """

    name: ClassVar[str] = "qformer"
    queries: int
    depth: int
    width: int
    into: int
    heads: int
    ffn: int
    act: Activation
    norm: NormKind
    eps: float
    cross_every: int

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [M, T, into]) -> [M, queries, width]."""
        wants(0, inputs, None, None, self.into)
        return TensorType((inputs[0].sizes[0], self.queries, self.width))

    def parameters(self) -> Parameters:
        """The queries and their norm, then of each block its branches, each with its norm."""
        own = {"query": Param((1, self.queries, self.width), TABLE)}
        own |= norm("norm", self.norm, self.width)
        for index in range(self.depth):
            block = attention("attn", self.width) | norm("norm1", self.norm, self.width)
            if index % self.cross_every == 0:
                block |= attention("cross", self.width, self.into)
                block |= norm("cross_norm", self.norm, self.width)
            block |= linear("mlp.fc1", self.ffn, self.width, bias=True)
            block |= linear("mlp.fc2", self.width, self.ffn, bias=True)
            block |= norm("norm2", self.norm, self.width)
            own |= {f"blocks.{index}.{name}": param for name, param in block.items()}
        return own


@dataclass(frozen=True, slots=True)
class Resampler:
    """Learned queries attend once to the patches of a picture, between norms; then a linear layer.

    `queries` and `grid` are the rows and columns that the queries and the patches stand in. A table
    of sines tells the queries where they are, and resized to the grid, the patches.
    """

    name: ClassVar[str] = "resampler"
    queries: tuple[int, int]
    grid: tuple[int, int]
    into: int
    width: int
    heads: int
    out: int
    norm: NormKind
    eps: float

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [M, P, into]) -> [M, Q, out]."""
        wants(0, inputs, None, self.grid[0] * self.grid[1], self.into)
        return TensorType((inputs[0].sizes[0], self.queries[0] * self.queries[1], self.out))

    def parameters(self) -> Parameters:
        """The queries, their places, the norms, the attention and the layers round it."""
        shape = (1, self.queries[0] * self.queries[1], self.width)
        return (
            {"query": Param(shape, TABLE)}
            | {"table": Param(shape, Init("sines", grid=self.queries), fixed=True)}
            | linear("kv", self.width, self.into, bias=False)
            | norm("norm_q", self.norm, self.width)
            | norm("norm_kv", self.norm, self.width)
            | attention("attn", self.width)
            | norm("norm", self.norm, self.width)
            | linear("proj", self.out, self.width, bias=False)
        )


@dataclass(frozen=True, slots=True)
class AttentionPool:
    """One vector of each picture: the mean of its tokens attends to them, without a residual."""

    name: ClassVar[str] = "attention_pool"
    width: int
    heads: int
    out: int
    norm: NormKind
    eps: float

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [M, T, width]) -> [M, out]."""
        wants(0, inputs, None, None, self.width)
        return TensorType((inputs[0].sizes[0], self.out))

    def parameters(self) -> Parameters:
        """A norm for each of query, key and value, their matrices and biases apart, and the last
        layer."""
        found = Parameters()
        for which in "qkv":
            found |= norm(f"norm_{which}", self.norm, self.width)
        for which in "qkv":
            found |= linear(f"attn.{which}", self.width, self.width, bias=False)
            found |= {f"attn.{which}_bias": Param((self.width,), ZEROS)}
        return found | linear("attn.proj", self.out, self.width, bias=True)


@dataclass(frozen=True, slots=True)
class Queries:
    """Learned vectors that look at pictures."""

    name: ClassVar[str] = "queries"
    number: int
    width: int

    def result(self, *inputs: TensorType) -> TensorType:
        """() -> [1, number, width]."""
        return TensorType((1, self.number, self.width))

    def parameters(self) -> Parameters:
        """The vectors."""
        return {"weight": Param((1, self.number, self.width), TABLE)}


Use = Literal["text", "queries", "joint", "caption", "begin", "go_on"]


@dataclass(frozen=True, slots=True)
class QueryBlocks:
    """Blocks of a decoder in which queries, placed before the text, look at pictures.

    `use` says what there is and what sees what: `text` alone, each token what stands before it;
    `queries` alone, all of them each other; in `joint`, queries and text all see one another, and
    the queries come out; in `caption` queries see queries, text sees them and what stands before
    it, and the text comes out. `begin` and `go_on` are `caption` with a cache, over sequences that
    reserve the first places for the queries.
    """

    name: ClassVar[str] = "query_blocks"
    use: Use
    depth: int
    width: int
    into: int
    heads: int
    ffn: int
    act: Activation
    norm: NormKind
    eps: float
    cross_every: int
    theta: float

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.width // self.heads

    def result(self, *inputs: TensorType) -> TensorType:
        """text: (x [N, L, width]) -> as x;
        queries: (query [1, Q, width], seen [M, T, into]) -> [M, Q, width];
        joint: (query, seen, x [N, L, width], picture [N], last [N]) -> [N, Q, width];
        caption: (query, seen, x [N, L, width], picture [N]) -> as x;
        begin: (query, seen, and then as go_on) -> as x;
        go_on: (x [B, L, width], cos, sin [B, L, head_dim], slot [B, L], first [B], cache) -> as x.
        """
        if self.use == "text":
            wants(0, inputs, None, None, self.width)
            return inputs[0]
        if self.use == "go_on":
            return self._cached(0, inputs)
        wants(0, inputs, 1, None, self.width)
        wants(1, inputs, None, None, self.into)
        queries = inputs[0].sizes[1]
        if self.use == "queries":
            return TensorType((inputs[1].sizes[0], queries, self.width))
        if self.use == "begin":
            return self._cached(2, inputs)
        wants(2, inputs, None, None, self.width)
        texts = inputs[2].sizes[0]
        for port in (3, 4) if self.use == "joint" else (3,):
            wants(port, inputs, texts)
        return TensorType((texts, queries, self.width)) if self.use == "joint" else inputs[2]

    def _cached(self, port: int, inputs: tuple[TensorType, ...]) -> TensorType:
        wants(port, inputs, None, None, self.width)
        batch, length, _ = inputs[port].sizes
        for table in (port + 1, port + 2):
            wants(table, inputs, batch, length, self.head_dim)
        wants(port + 3, inputs, batch, length)
        wants(port + 4, inputs, batch)
        wants(port + 5, inputs, self.depth, 2, batch, self.heads, None, self.head_dim)
        return inputs[port]

    def parameters(self) -> Parameters:
        """Those of a decoder's blocks, and the cross-attention of the first of every few."""
        found = Parameters()
        for index in range(self.depth):
            block = norm("norm1", self.norm, self.width)
            for which in "qkvo":
                block |= linear(f"attn.{which}", self.width, self.width, bias=False)
            block |= norm("norm2", self.norm, self.width)
            block |= linear("mlp.gate", self.ffn, self.width, bias=False)
            block |= linear("mlp.up", self.ffn, self.width, bias=False)
            block |= linear("mlp.down", self.width, self.ffn, bias=False)
            if index % self.cross_every == 0:
                block |= norm("cross.norm_q", self.norm, self.width)
                block |= norm("cross.norm_kv", self.norm, self.into)
                block |= linear("cross.q", self.width, self.width, bias=False)
                block |= linear("cross.k", self.width, self.into, bias=False)
                block |= linear("cross.v", self.width, self.into, bias=False)
                block |= linear("cross.o", self.width, self.width, bias=False)
            found |= {f"{index}.{name}": param for name, param in block.items()}
        return found

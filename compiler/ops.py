"""The vocabulary of the graph: what each operation needs, owns and yields.

An operation is a frozen dataclass of its facts. `result` takes the types of its inputs in order and
gives the type of its output, or raises `MisfitError`; `parameters` names what the operation owns,
relative to the node that stands for it. To add one: write it here, add its row to `OPERATIONS`,
then its module in `blocks/` and its row in `compiler/lower.py`.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

from .types import DType, Size, TensorType, add, divide, multiply


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


def _wants(port: int, inputs: tuple[TensorType, ...], *sizes: Size | str | None) -> None:
    """MisfitError unless the input has these sizes; None stands for any size."""
    given = inputs[port].sizes
    wanted = TensorType(tuple("_" if size is None else size for size in sizes)).sizes
    same = len(given) == len(wanted) and all(
        size is None or want == have for size, want, have in zip(sizes, wanted, given, strict=True)
    )
    if not same:
        shown = ", ".join("any" if size is None else str(size) for size in sizes)
        raise MisfitError(port, f"[{shown}]", f"[{', '.join(map(str, given))}]")


def _widened(inputs: tuple[TensorType, ...], width: int, out: int) -> TensorType:
    """The input with `out` in place of its innermost size; MisfitError unless that is `width`."""
    if inputs[0].width != width:
        raise MisfitError(0, f"{width} wide", inputs[0].width)
    return TensorType((*inputs[0].sizes[:-1], out))


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


@dataclass(frozen=True, slots=True)
class PatchEmbed:
    """Embeds flattened patches: a convolution whose kernel equals its stride.

    A row holds channel, frame, patch row, patch column, outermost first. Where `folded`, the rows
    hold one frame that stands for all of them, and the kernel is summed over its frames.
    """

    name: ClassVar[str] = "patch_embed"
    width: int
    channels: int
    frames: int
    patch: int
    bias: bool
    folded: bool = False

    @property
    def row(self) -> int:
        """How many numbers a patch has in the input."""
        return self.channels * (1 if self.folded else self.frames) * self.patch**2

    def result(self, *inputs: TensorType) -> TensorType:
        """(rows [..., row]) -> [..., width]."""
        if inputs[0].width != self.row:
            raise MisfitError(0, f"{self.row} wide", inputs[0].width)
        return TensorType((*inputs[0].sizes[:-1], self.width))

    def parameters(self) -> Parameters:
        """The kernel, with its frames (folded or not) where there are several."""
        frames = (self.frames,) if self.frames > 1 else ()
        weight = Param((self.width, self.channels, *frames, self.patch, self.patch))
        bias = {"bias": Param((self.width,), ZEROS)} if self.bias else {}
        return {"weight": weight} | bias


@dataclass(frozen=True, slots=True)
class Positions:
    """Adds a learned row to each patch of a picture, behind a learned class token if there is one.

    The table has a row for each cell of `table` (rows, columns); where the `grid` of the picture is
    another, it is resized.
    """

    name: ClassVar[str] = "positions"
    width: int
    table: tuple[int, int]
    grid: tuple[int, int]
    class_token: bool

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [M, P, width]) -> [M, P, width], or [M, 1 + P, width] with the class token."""
        patches = self.grid[0] * self.grid[1]
        _wants(0, inputs, None, patches, self.width)
        return TensorType((inputs[0].sizes[0], patches + self.class_token, self.width))

    def parameters(self) -> Parameters:
        """The table, the class token's row first, and the class token."""
        rows = self.table[0] * self.table[1] + self.class_token
        table = {"table": Param((1, rows, self.width), TABLE)}
        token = {"class_token": Param((1, 1, self.width), TABLE)} if self.class_token else {}
        return table | token


@dataclass(frozen=True, slots=True)
class VisionBlocks:
    """Transformer blocks over patches: attention inside equal segment ids, or inside a picture.

    `taps` counts the blocks from 0: the value is what each of these yields, one after another,
    which `Tap` takes apart. Without taps, it is what the last block yields.
    """

    name: ClassVar[str] = "vision_blocks"
    depth: int
    width: int
    heads: int
    ffn: int
    act: Activation
    norm: NormKind
    eps: float
    qkv_bias: bool
    rotary: bool
    packed: bool = True
    k_bias: bool = True
    qk_norm: NormKind | None = None
    qk_eps: float = 0.0
    layer_scale: float | None = None
    taps: tuple[int, ...] = ()
    drop_path: tuple[float, ...] = ()
    """The chance of each block to be left out, where one more input says what is."""
    span: tuple[int, ...] = ()
    """The first block that runs, and the one behind the last; without it, all run."""

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.width // self.heads

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [N, width], segment_id [N], and if rotary: cos, sin [N, head_dim]) -> as x;
        not packed: (x [M, T, width]) -> as x. With drop path, at the end [depth, 2, N or M]."""
        if self.drop_path:
            _wants(len(inputs) - 1, inputs, self.depth, 2, inputs[0].sizes[0])
        if not self.packed:
            _wants(0, inputs, None, None, self.width)
        else:
            _wants(0, inputs, None, self.width)
            rows = inputs[0].sizes[0]
            _wants(1, inputs, rows)
            for port in (2, 3) if self.rotary else ():
                _wants(port, inputs, rows, self.head_dim)
        if not self.taps:
            return inputs[0]
        return TensorType((len(self.taps), *inputs[0].sizes))

    def parameters(self) -> Parameters:
        """Both norms, attention with q, k, v in one matrix, and the feed-forward."""
        block = norm("norm1", self.norm, self.width)
        block |= linear("attn.qkv", 3 * self.width, self.width, bias=self.qkv_bias and self.k_bias)
        if self.qkv_bias and not self.k_bias:
            block |= {f"attn.{which}_bias": Param((self.width,), ZEROS) for which in "qv"}
        if self.qk_norm:
            for which in "qk":
                block |= norm(f"attn.{which}_norm", self.qk_norm, self.width)
        block |= linear("attn.proj", self.width, self.width, bias=True)
        block |= norm("norm2", self.norm, self.width)
        block |= linear("mlp.fc1", self.ffn, self.width, bias=True)
        block |= linear("mlp.fc2", self.width, self.ffn, bias=True)
        if self.layer_scale is not None:
            start = Init("constant", self.layer_scale)
            block |= {name: Param((self.width,), start) for name in ("ls1", "ls2")}
        return numbered(range(*(self.span or (self.depth,))), block)


@dataclass(frozen=True, slots=True)
class MapPositions:
    """Adds a learned vector to each cell of a map of patches."""

    name: ClassVar[str] = "map_positions"
    width: int
    grid: tuple[int, int]

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [M, P, width]) -> as x."""
        _wants(0, inputs, None, self.grid[0] * self.grid[1], self.width)
        return inputs[0]

    def parameters(self) -> Parameters:
        """The vectors, by row and column."""
        return {"table": Param((1, *self.grid, self.width), TABLE)}


@dataclass(frozen=True, slots=True)
class SamBlocks:
    """Transformer blocks over maps of patches: inside windows, or (`attend_all`) all of a map.

    How far off a key is, in rows and in columns, counts in each score. `taps` are as for
    `VisionBlocks`.
    """

    name: ClassVar[str] = "sam_blocks"
    depth: int
    width: int
    heads: int
    ffn: int
    act: Activation
    norm: NormKind
    eps: float
    qkv_bias: bool
    grid: tuple[int, int]
    window: int
    attend_all: tuple[int, ...]
    taps: tuple[int, ...] = ()
    span: tuple[int, ...] = ()
    """As for `VisionBlocks`."""

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [M, P, width]) -> as x, or [taps, M, P, width]."""
        _wants(0, inputs, None, self.grid[0] * self.grid[1], self.width)
        return TensorType((len(self.taps), *inputs[0].sizes)) if self.taps else inputs[0]

    def parameters(self) -> Parameters:
        """As `VisionBlocks`, and a row for each distance in height and in width."""
        block = (
            norm("norm1", self.norm, self.width)
            | linear("attn.qkv", 3 * self.width, self.width, bias=self.qkv_bias)
            | linear("attn.proj", self.width, self.width, bias=True)
            | norm("norm2", self.norm, self.width)
            | linear("mlp.fc1", self.ffn, self.width, bias=True)
            | linear("mlp.fc2", self.width, self.ffn, bias=True)
        )
        blocks = range(*(self.span or (self.depth,)))
        found = numbered(blocks, block)
        for index in blocks:
            sides = self.grid if index in self.attend_all else (self.window, self.window)
            for which, side in zip("hw", sides, strict=True):
                table = Param((2 * side - 1, self.width // self.heads), TABLE)
                found[f"{index}.attn.rel_pos_{which}"] = table
        return found


@dataclass(frozen=True, slots=True)
class Tap(Plain):
    """One of the values that blocks with taps yield."""

    name: ClassVar[str] = "tap"
    index: int

    def result(self, *inputs: TensorType) -> TensorType:
        """([taps, ...]) -> [...]."""
        return TensorType(inputs[0].sizes[1:], inputs[0].dtype)


@dataclass(frozen=True, slots=True)
class DropClassToken(Plain):
    """The patches of each picture, without the class token before them."""

    name: ClassVar[str] = "drop_class_token"

    def result(self, *inputs: TensorType) -> TensorType:
        """([M, 1 + P, W]) -> [M, P, W]."""
        pictures, tokens, width = inputs[0].sizes
        assert isinstance(tokens, int)
        return TensorType((pictures, tokens - 1, width))


@dataclass(frozen=True, slots=True)
class TakeTokens(Plain):
    """Some of the tokens of each picture: `kept` of them, the first `always` among these."""

    name: ClassVar[str] = "take_tokens"
    tokens: int
    kept: int
    always: int

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [M, tokens, W], index [M, kept]) -> [M, kept, W]."""
        _wants(0, inputs, None, self.tokens, None)
        pictures, _, width = inputs[0].sizes
        _wants(1, inputs, pictures, self.kept)
        return TensorType((pictures, self.kept, width))


@dataclass(frozen=True, slots=True)
class Rows(Plain):
    """The tokens of all pictures as rows, one picture after another."""

    name: ClassVar[str] = "rows"

    def result(self, *inputs: TensorType) -> TensorType:
        """([M, T, W]) -> [M * T, W]."""
        pictures, tokens, width = inputs[0].sizes
        return TensorType((multiply(pictures, tokens), width))


@dataclass(frozen=True, slots=True)
class Pictures(Plain):
    """Rows as the tokens of pictures, so many of each."""

    name: ClassVar[str] = "pictures"
    tokens: int

    def result(self, *inputs: TensorType) -> TensorType:
        """([M * tokens, W]) -> [M, tokens, W]."""
        _wants(0, inputs, None, None)
        rows, width = inputs[0].sizes
        return TensorType((divide(rows, self.tokens), self.tokens, width))


@dataclass(frozen=True, slots=True)
class Windows(Plain):
    """The patches of whole pictures, those of a window one after another."""

    name: ClassVar[str] = "windows"
    grid: tuple[int, int]
    window: tuple[int, int]

    def result(self, *inputs: TensorType) -> TensorType:
        """([M, P, W]) -> as given."""
        _wants(0, inputs, None, self.grid[0] * self.grid[1], None)
        return inputs[0]


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
        _wants(0, inputs, None, None, self.into)
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
        _wants(0, inputs, None, self.grid[0] * self.grid[1], self.into)
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
        _wants(0, inputs, None, None, self.width)
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
            _wants(0, inputs, None, None, self.width)
            return inputs[0]
        if self.use == "go_on":
            return self._cached(0, inputs)
        _wants(0, inputs, 1, None, self.width)
        _wants(1, inputs, None, None, self.into)
        queries = inputs[0].sizes[1]
        if self.use == "queries":
            return TensorType((inputs[1].sizes[0], queries, self.width))
        if self.use == "begin":
            return self._cached(2, inputs)
        _wants(2, inputs, None, None, self.width)
        texts = inputs[2].sizes[0]
        for port in (3, 4) if self.use == "joint" else (3,):
            _wants(port, inputs, texts)
        return TensorType((texts, queries, self.width)) if self.use == "joint" else inputs[2]

    def _cached(self, port: int, inputs: tuple[TensorType, ...]) -> TensorType:
        _wants(port, inputs, None, None, self.width)
        batch, length, _ = inputs[port].sizes
        for table in (port + 1, port + 2):
            _wants(table, inputs, batch, length, self.head_dim)
        _wants(port + 3, inputs, batch, length)
        _wants(port + 4, inputs, batch)
        _wants(port + 5, inputs, self.depth, 2, batch, self.heads, None, self.head_dim)
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
            _wants(port, inputs, *inputs[0].sizes)
        return inputs[0]


@dataclass(frozen=True, slots=True)
class Mean(Plain):
    """The mean over the tokens of each sequence."""

    name: ClassVar[str] = "mean"

    def result(self, *inputs: TensorType) -> TensorType:
        """([M, T, W]) -> [M, W]."""
        _wants(0, inputs, None, None, None)
        return TensorType((inputs[0].sizes[0], inputs[0].width))


@dataclass(frozen=True, slots=True)
class Pick(Plain):
    """The members that an index names, along the outermost size."""

    name: ClassVar[str] = "pick"

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [N, ...], index [R]) -> [R, ...]."""
        _wants(1, inputs, None)
        return TensorType((*inputs[1].sizes, *inputs[0].sizes[1:]), inputs[0].dtype)


@dataclass(frozen=True, slots=True)
class Similarities(Plain):
    """The cosines of each picture's vector with each text's, times exp(scale), in float32."""

    name: ClassVar[str] = "similarities"

    def result(self, *inputs: TensorType) -> TensorType:
        """(image [M, W], text [N, W], scale [] or nothing) -> [M, N]."""
        _wants(0, inputs, None, None)
        _wants(1, inputs, None, inputs[0].width)
        if len(inputs) > 2:
            _wants(2, inputs)
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
        _wants(0, inputs, None, None)
        pairs = inputs[0].sizes[0]
        _wants(1, inputs, pairs, inputs[0].width)
        _wants(2, inputs)
        _wants(3, inputs, pairs)
        _wants(4, inputs, pairs)
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
        _wants(0, inputs, None, None)
        pairs = inputs[0].sizes[0]
        _wants(1, inputs, pairs, inputs[0].width)
        _wants(2, inputs)
        _wants(3, inputs, pairs)
        return TensorType((multiply(3, pairs),), "i64")


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
            _wants(
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
        _wants(0, inputs, None, patches, None)
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
        return _widened(inputs, self.width, self.out)

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
        return _widened(inputs, self.width, self.out)

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
            _wants(port, inputs, *inputs[0].sizes[:-1], width)
        return _widened(inputs, self.widths[0], self.out)

    def parameters(self) -> Parameters:
        """A layer for each source, and the one for all."""
        own = Parameters()
        for index, width in enumerate(self.widths):
            own |= linear(f"up.{index}", self.each, width, bias=True)
        return own | linear("fc2", self.out, self.each * len(self.widths), bias=True)


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
class Concat(Plain):
    """Rows of several tensors, one after another."""

    name: ClassVar[str] = "concat"

    def result(self, *inputs: TensorType) -> TensorType:
        """([N1, width], [N2, width], ...) -> [N1 + N2 + ..., width]."""
        for port in range(len(inputs)):
            _wants(port, inputs, None, inputs[0].width)
        return TensorType((add(*(type.sizes[0] for type in inputs)), inputs[0].width))


@dataclass(frozen=True, slots=True)
class Splice(Plain):
    """Lays feature rows into the places that a sequence reserves for them."""

    name: ClassVar[str] = "splice"

    def result(self, *inputs: TensorType) -> TensorType:
        """(text [B, T, W], features [F, W], index [B, T]: -1 or a row) -> [B, T, W]."""
        batch, length, width = inputs[0].sizes
        _wants(1, inputs, None, width)
        _wants(2, inputs, batch, length)
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
        _wants(0, inputs, None, None, self.width)
        batch, length, _ = inputs[0].sizes
        for port in (1, 2):
            _wants(port, inputs, batch, length, self.head_dim)
        _wants(3, inputs, batch, length)
        if self.cached:
            _wants(4, inputs, batch)
            _wants(5, inputs, self.depth, 2, batch, self.kv_heads, None, self.head_dim)
            if self.scaled_queries:
                _wants(6, inputs, batch, length)
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
        _wants(0, inputs, None, None, None)
        _wants(1, inputs, None)
        return TensorType((inputs[1].sizes[0], inputs[0].width))


@dataclass(frozen=True, slots=True)
class TakeLast(Plain):
    """The last row of each sequence, whose position in T is given where sequences are padded."""

    name: ClassVar[str] = "take_last"

    def result(self, *inputs: TensorType) -> TensorType:
        """(x [B, T, W], position [B] or nothing: T - 1) -> [B, W]."""
        batch, _, width = inputs[0].sizes
        if len(inputs) > 1:
            _wants(1, inputs, batch)
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


@dataclass(frozen=True, slots=True)
class CrossEntropy(Plain):
    """The weighted sum over targets of the negative log-likelihood, in float32."""

    name: ClassVar[str] = "cross_entropy"

    def result(self, *inputs: TensorType) -> TensorType:
        """(logits [K, V], targets [K], weight [K]) -> []."""
        _wants(0, inputs, None, None)
        rows = inputs[0].sizes[0]
        _wants(1, inputs, rows)
        _wants(2, inputs, rows)
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
        _wants(1, inputs, None, rows)
        _wants(2, inputs, None, None, width)
        _wants(3, inputs, *inputs[2].sizes[:2])
        for port in (4, 5):
            _wants(port, inputs, inputs[1].sizes[0])
        return TensorType((), "f32")


@dataclass(frozen=True, slots=True)
class Add(Plain):
    """The sum of several tensors of one type."""

    name: ClassVar[str] = "add"

    def result(self, *inputs: TensorType) -> TensorType:
        """([...], [...], ...) -> [...]."""
        for port in range(len(inputs)):
            _wants(port, inputs, *inputs[0].sizes)
        return inputs[0]


OPERATIONS: Mapping[str, type[Operation]] = {
    operation.name: operation
    for operation in (
        Input,
        Cache,
        Cast,
        PatchEmbed,
        Positions,
        MapPositions,
        VisionBlocks,
        SamBlocks,
        Tap,
        DropClassToken,
        TakeTokens,
        Rows,
        Pictures,
        Windows,
        MergeMLP,
        QFormer,
        Resampler,
        AttentionPool,
        Queries,
        QueryBlocks,
        Scale,
        UnitSum,
        Mean,
        Pick,
        Similarities,
        Contrast,
        HardNegatives,
        SamNeck,
        PixelShuffle,
        Linear,
        MLP,
        SplitMLP,
        Embed,
        Concat,
        Splice,
        DecoderBlocks,
        Norm,
        TakeRows,
        TakeLast,
        Head,
        CrossEntropy,
        RegionWords,
        Add,
    )
}
"""Every operation, by the name that the text of a graph uses."""

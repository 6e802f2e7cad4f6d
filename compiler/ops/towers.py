"""Vision towers, and what is taken of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from ..types import TensorType, divide, multiply
from .base import (
    TABLE,
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
)


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
        wants(0, inputs, None, patches, self.width)
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
            wants(len(inputs) - 1, inputs, self.depth, 2, inputs[0].sizes[0])
        if not self.packed:
            wants(0, inputs, None, None, self.width)
        else:
            wants(0, inputs, None, self.width)
            rows = inputs[0].sizes[0]
            wants(1, inputs, rows)
            for port in (2, 3) if self.rotary else ():
                wants(port, inputs, rows, self.head_dim)
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
        wants(0, inputs, None, self.grid[0] * self.grid[1], self.width)
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
        wants(0, inputs, None, self.grid[0] * self.grid[1], self.width)
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
        wants(0, inputs, None, self.tokens, None)
        pictures, _, width = inputs[0].sizes
        wants(1, inputs, pictures, self.kept)
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
        wants(0, inputs, None, None)
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
        wants(0, inputs, None, self.grid[0] * self.grid[1], None)
        return inputs[0]

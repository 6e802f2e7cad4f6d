"""What a recipe may say of its parts: encoders, adapters, and the language model."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from .inputs import Clip, Half, Imagenet, MeanStd
from .kinds import (
    CallModel,
    Count,
    Depth,
    Flag,
    Grid,
    Name,
    Number,
    PartModel,
    Positive,
    Px,
    Quoted,
    Selected,
    Selector,
    Tok,
    Whole,
)
from .reading import Calls, Choice, Default, Members, Named, OneOrMore, Problem, Sides, complain
from .texts import HfJson, SentencePiece, Tiktoken

UNEVEN_HEADS = "the heads do not divide the width"

Act = Annotated[Literal["gelu", "gelu_tanh", "quick_gelu", "relu", "silu"], Choice()]


class LayerNorm(CallModel):
    """Layer norm with weight and bias."""

    call: Literal["layernorm"] = "layernorm"
    eps: Positive


class RmsNorm(CallModel):
    """Root-mean-square norm with a weight."""

    call: Literal["rmsnorm"] = "rmsnorm"
    eps: Positive


Norm = Annotated[LayerNorm | RmsNorm, Calls()]


class Rope2d(CallModel):
    """Rotary positions by row and column of the patch: no table, so every grid is legal."""

    call: Literal["rope2d"] = "rope2d"
    theta: Positive


class Dynamic(CallModel):
    """Slower turns once a sequence is longer than `from`, the slower the longer it is.

    The base grows by (factor * length / from - factor + 1) ^ (d / (d - 2)) in a head of width d.
    """

    call: Literal["dynamic"] = "dynamic"
    factor: Positive
    from_: Tok = Field(alias="from", gt=1)


class Ntk(CallModel):
    """Slower turns for prompts longer than `from`, kept for all of the answer; never in training.

    The base grows by alpha ^ (d / (d - 2)), where alpha is 2 ^ ceil(log2(length / from) + 1) - 1.
    """

    call: Literal["ntk"] = "ntk"
    from_: Tok = Field(alias="from", gt=1)


class Su(CallModel):
    """Each frequency is divided by its own factor, of `long` in sequences longer than `from`.

    Cosines and sines are scaled by sqrt(1 + ln(to / from) / ln(from)), as in Phi-3.
    """

    call: Literal["su"] = "su"
    short: Annotated[tuple[Positive, ...], Members()]
    long: Annotated[tuple[Positive, ...], Members()]
    from_: Tok = Field(alias="from", gt=1)
    to: Tok


class Rope(CallModel):
    """Rotary positions along the text."""

    call: Literal["rope"] = "rope"
    theta: Positive
    scaling: Annotated[Dynamic | Ntk | Su | None, Calls()] = None
    """What becomes of the frequencies where sequences are longer than those of pre-training."""


class LogN(CallModel):
    """A query behind the first `from` tokens is multiplied by ln(place) / ln(from)."""

    call: Literal["logn"] = "logn"
    from_: Tok = Field(alias="from", gt=1)


class Mrope(CallModel):
    """Rotary positions in three streams: time, row and column share the frequencies of a head."""

    call: Literal["mrope"] = "mrope"
    positional: ClassVar[tuple[str, ...]] = ("sections",)
    sections: Annotated[tuple[Count, Count, Count], Members()]
    theta: Positive


class Learned(CallModel):
    """A learned row for each patch, and one for the class token where there is one.

    A picture whose grid is not the table's takes a bicubic resize of it, if `interpolate` says so.
    """

    call: Literal["learned"] = "learned"
    positional: ClassVar[tuple[str, ...]] = ("grid",)
    grid: Annotated[Grid, Sides()]
    interpolate: Flag = False


class Resized(CallModel):
    """The pictures of an input at another size: bilinear, antialiased, before normalisation."""

    call: Literal["resize"] = "resize"
    positional: ClassVar[tuple[str, ...]] = ("source", "side")
    source: Selected
    side: Px

    @property
    def part(self) -> str:
        """The input."""
        return self.source.part

    def __str__(self) -> str:
        return f"resize({self.source}, {self.side}px)"


Shown = Annotated[Selector | Resized, Calls()]
"""What an encoder sees: an input, perhaps at a size of its own."""
Taken = Annotated[Selector, Named()]
"""What a part takes of another: `vit`, `vit.patches` without the class token, `vit.blocks[44]`."""


class Hf(CallModel):
    """A repository of published weights."""

    call: Literal["hf"] = "hf"
    positional: ClassVar[tuple[str, ...]] = ("repository",)
    repository: Quoted
    under: Quoted = ""
    """What the map writes before the names of this repository, where there are several."""


class ViT(PartModel):
    """A vision transformer; its output keeps one row a patch.

    With `rope2d` pictures of any size stand side by side in packed rows. With `learned` positions
    all pictures have one size, and each is a sequence of its own, the class token first.
    """

    outputs: ClassVar[tuple[str, ...]] = ("patches", "blocks")
    type: Literal["ViT"] = "ViT"
    in_: Annotated[tuple[Shown, ...], OneOrMore()] = Field(alias="in", min_length=1)
    patch: Px
    frames_per_patch: Count = 1
    depth: Depth
    width: Count
    heads: Count
    ffn: Count
    act: Act
    norm: Norm
    pos: Annotated[Rope2d | Learned, Calls()]
    class_token: Flag = False
    pre_norm: Annotated[LayerNorm | RmsNorm | None, Calls()] = None
    """Before the first block."""
    final_norm: Annotated[LayerNorm | RmsNorm | None, Calls()] = None
    """Behind the last block."""
    patch_bias: Flag = True
    qkv_bias: Flag = True
    k_bias: Flag = True
    """Whether keys have a bias where queries and values do."""
    qk_norm: Annotated[LayerNorm | RmsNorm | None, Calls()] = None
    """Over the full width of queries and keys, before they are cut into heads."""
    layer_scale: Positive | None = None
    """What the learned factor of each branch starts from; without it there is none."""
    normalize: Annotated[Clip | Half | Imagenet | MeanStd | None, Calls()] = None
    """In place of the input's own."""
    start: Annotated[Hf | None, Calls()] = None
    """The published weights that the first stage starts from, for the reader and the plan."""

    @property
    def is_packed(self) -> bool:
        """Whether pictures of any size stand side by side in packed rows."""
        return isinstance(self.pos, Rope2d)

    @model_validator(mode="after")
    def _heads(self) -> "ViT":
        head = self.width // self.heads
        if self.width % self.heads:
            complain(uneven_heads("heads", self.width, self.heads))
        if self.is_packed and head % 4:
            complain(
                Problem(
                    "S403",
                    "the head is too odd for positions by row and column",
                    (("heads", f"a head is {head} wide"), ("pos", "takes a multiple of 4")),
                    reason="half of a head turns with the row and half with the column, in pairs",
                    fix="choose `heads` so that a head is a multiple of 4 wide",
                )
            )
        return self


class SamViT(PartModel):
    """SAM's image encoder without its neck: most blocks attend inside windows of a map of patches.

    A learned vector goes with each cell of the map, and attention learns rows for how far off a key
    is, in height and in width; so the pictures have one size.
    """

    outputs: ClassVar[tuple[str, ...]] = ("blocks",)
    frames_per_patch: ClassVar[int] = 1
    type: Literal["SamViT"] = "SamViT"
    in_: Annotated[tuple[Shown, ...], OneOrMore()] = Field(alias="in", min_length=1)
    patch: Px
    depth: Depth
    width: Count
    heads: Count
    ffn: Count
    act: Act
    norm: Norm
    window: Count
    """The side of a window, in patches; a map that windows do not tile is filled up with zeros."""
    global_: Annotated[tuple[Whole, ...], Members()] = Field(alias="global", default=())
    """The blocks, from 0, that attend to the whole map."""
    patch_bias: Flag = True
    qkv_bias: Flag = True
    normalize: Annotated[Clip | Half | Imagenet | MeanStd | None, Calls()] = None
    """In place of the input's own."""
    start: Annotated[Hf | None, Calls()] = None

    @model_validator(mode="after")
    def _heads(self) -> "SamViT":
        if self.width % self.heads:
            complain(uneven_heads("heads", self.width, self.heads))
        beyond = [block for block in self.global_ if block >= self.depth]
        if beyond:
            complain(
                Problem(
                    "V305",
                    f"`global` names the block {beyond[0]}, and there is none",
                    (("global", "blocks are counted from 0"), ("depth", f"{self.depth} of them")),
                    fix=f"name blocks up to {self.depth - 1}",
                )
            )
        return self


class MergeMLP(PartModel):
    """Joins the tokens of a window and carries them to the language model by two layers."""

    type: Literal["MergeMLP"] = "MergeMLP"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1, max_length=1)
    window: Annotated[Grid, Sides()]
    norm: Norm
    hidden: Count
    out: Count
    act: Act
    start: Annotated[Hf | None, Calls()] = None


class QFormer(PartModel):
    """Learned queries, and blocks in which they look at a picture: BLIP-2's, without its text side.

    Each branch has its norm behind it, as in BERT; a first norm goes over the queries.
    """

    type: Literal["QFormer"] = "QFormer"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1, max_length=1)
    queries: Count
    depth: Depth
    width: Count
    heads: Count
    ffn: Count
    act: Act
    norm: Norm
    cross_every: Count = 1
    """The first of every so many blocks looks at the picture."""
    start: Annotated[Hf | None, Calls()] = None

    @model_validator(mode="after")
    def _heads(self) -> "QFormer":
        if self.width % self.heads:
            complain(uneven_heads("heads", self.width, self.heads))
        return self


class Resampler(PartModel):
    """Learned queries look at a picture once, and yield as many tokens as they are (Qwen-VL).

    The queries stand on a grid that is laid over the picture: sines of row and column tell them,
    and the patches, where they are.
    """

    type: Literal["Resampler"] = "Resampler"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1, max_length=1)
    queries: Annotated[Grid, Sides()]
    width: Count
    heads: Count
    norm: Norm
    out: Count
    start: Annotated[Hf | None, Calls()] = None

    @model_validator(mode="after")
    def _heads(self) -> "Resampler":
        if self.width % self.heads:
            complain(uneven_heads("heads", self.width, self.heads))
        if self.width % 4:
            complain(
                Problem(
                    "S403",
                    "the width is too odd for positions by row and column",
                    (("width", f"{self.width} is not a multiple of 4"),),
                    reason="half of it tells the column and half the row, in sines and cosines",
                    fix="take a `width` that is a multiple of 4",
                )
            )
        return self


class AttentionPool(PartModel):
    """One vector of each picture: the mean of its tokens attends to all of them (InternVL)."""

    type: Literal["AttentionPool"] = "AttentionPool"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1, max_length=1)
    heads: Count
    norm: Norm
    out: Count
    start: Annotated[Hf | None, Calls()] = None


class QueryDecoder(PartModel):
    """A language model with learned queries before its text, which look at a picture (QLLaMA).

    It yields what the queries become of a picture. Others may take what `text` becomes alone, what
    the queries become together with a text (`joint`), or what a text becomes that goes on behind
    the queries (`caption`).
    """

    outputs: ClassVar[tuple[str, ...]] = ("text", "joint", "caption")
    type: Literal["QueryDecoder"] = "QueryDecoder"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1, max_length=1)
    queries: Count
    depth: Depth
    width: Count
    heads: Count
    ffn: Count
    vocab: Count
    act: Act
    norm: Norm
    pos: Annotated[Rope, Calls()]
    cross_every: Count = 1
    """The first of every so many blocks looks at the picture."""
    tied: Flag = False
    context: Tok
    tokenizer: Annotated[Tiktoken | HfJson | SentencePiece | None, Calls()] = None
    """That of its text, where it is not the recipe's."""
    layout: Name | None = None
    """How the questions of a dialogue are written for it, where it reads them: `joint`."""
    start: Annotated[Hf | None, Calls()] = None

    @property
    def head_dim(self) -> int:
        """The width of one head."""
        return self.width // self.heads

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.heads

    @model_validator(mode="after")
    def _heads(self) -> "QueryDecoder":
        if self.width % self.heads:
            complain(uneven_heads("heads", self.width, self.heads))
        if self.head_dim % 2:
            complain(
                Problem(
                    "S403",
                    "rotary positions need an even head",
                    (("heads", f"a head is {self.head_dim} wide"), ("pos", "turns pairs")),
                    fix="choose `heads` so that a head has an even width",
                )
            )
        return self


class LastToken(PartModel):
    """One vector of each text: what its last token becomes, times a matrix."""

    type: Literal["LastToken"] = "LastToken"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1, max_length=1)
    out: Count
    start: Annotated[Hf | None, Calls()] = None


class MeanScores(PartModel):
    """Scores of each sequence: a linear layer over its tokens, and their mean."""

    type: Literal["MeanScores"] = "MeanScores"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1, max_length=1)
    out: Count
    start: Annotated[Hf | None, Calls()] = None


class UnitSum(PartModel):
    """The sum of the vectors of several parts, each brought to length 1 first."""

    type: Literal["UnitSum"] = "UnitSum"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1)


class Scale(PartModel):
    """A learned factor of similarities, which starts at 1 / temperature."""

    type: Literal["Scale"] = "Scale"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", default=(), max_length=0)
    temperature: Positive


class SamNeck(PartModel):
    """Maps of a SAM tower, brought to fewer and wider tokens by strided convolutions (DeepSeek-VL).

    Each map has a neck of its own, then all go to the `grid` and through the same convolutions,
    each of which halves its sides. The first map counts in full, each other by a learned factor.
    """

    type: Literal["SamNeck"] = "SamNeck"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1)
    width: Count
    """Channels of the necks."""
    norm: Norm
    grid: Annotated[Grid, Sides()]
    strided: Annotated[tuple[Count, ...], Members()] = Field(min_length=1)
    """Channels behind each of the strided convolutions; the last are the width of the tokens."""
    gate: Number = 0.0
    """What the factor of each further map starts from."""
    start: Annotated[Hf | None, Calls()] = None


class PixelShuffle(PartModel):
    """Joins each square of `factor` by `factor` patches into one token, as wide as all of them."""

    type: Literal["PixelShuffle"] = "PixelShuffle"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1, max_length=1)
    factor: Count


class Projection(PartModel):
    """One linear layer for each token."""

    type: Literal["Linear"] = "Linear"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1, max_length=1)
    out: Count
    bias: Flag = True
    start: Annotated[Hf | None, Calls()] = None


class MLP(PartModel):
    """Two linear layers for each token, behind a norm if there is one."""

    type: Literal["MLP"] = "MLP"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=1, max_length=1)
    norm: Annotated[LayerNorm | RmsNorm | None, Calls()] = None
    hidden: Count
    out: Count
    act: Act
    start: Annotated[Hf | None, Calls()] = None


class SplitMLP(PartModel):
    """Joins the tokens of several parts place by place: a linear layer each, then one for all."""

    type: Literal["SplitMLP"] = "SplitMLP"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", min_length=2)
    each: Count
    """The width that each source is brought to, before they are joined in the order of `in`."""
    out: Count
    act: Act
    start: Annotated[Hf | None, Calls()] = None


class Decoder(PartModel):
    """A language model of pre-norm blocks with grouped-query attention and a gated MLP."""

    type: Literal["Decoder"] = "Decoder"
    in_: Annotated[tuple[Taken, ...], OneOrMore()] = Field(alias="in", default=())
    """The parts whose features take the places that the layout reserves, in this order."""
    depth: Depth
    width: Count
    heads: Count
    kv_heads: Annotated[Count, Default("this.heads")]
    head_dim: Annotated[Count, Default("this.width / this.heads", "S401", UNEVEN_HEADS)]
    ffn: Count
    vocab: Count
    act: Act
    norm: Norm
    pos: Annotated[Mrope | Rope, Calls()]
    query_scale: Annotated[LogN | None, Calls()] = None
    """What queries are multiplied by, place by place; never in training."""
    qkv_bias: Flag = False
    tied: Flag = False
    context: Tok
    start: Annotated[Hf | None, Calls()] = None

    @model_validator(mode="after")
    def _heads(self) -> "Decoder":
        if self.heads % self.kv_heads:
            complain(
                Problem(
                    "S402",
                    "the key-value heads cannot be shared evenly",
                    (("kv_heads", f"{self.kv_heads} key-value heads"), ("heads", "for this many")),
                    reason=f"{self.heads} is not a multiple of {self.kv_heads}",
                    fix=f"take a divisor of {self.heads}",
                )
            )
        if self.head_dim % 2:
            complain(
                Problem(
                    "S403",
                    "rotary positions need an even head",
                    (("head_dim", f"a head is {self.head_dim} wide"), ("pos", "turns pairs")),
                    fix="choose `heads` so that a head has an even width",
                )
            )
        if isinstance(self.pos, Mrope) and sum(self.pos.sections) * 2 != self.head_dim:
            total, half = sum(self.pos.sections), self.head_dim // 2
            scaled = _in_proportion(self.pos.sections, half)
            complain(
                Problem(
                    "S403",
                    "the rotary sections do not fill half a head",
                    (("pos.sections", f"{total} in all"), ("head_dim", f"half of this is {half}")),
                    reason=f"each of the {half} frequencies of a head belongs to one section",
                    fix=f"make the sections add up to {half}" + (f": `{scaled}`" if scaled else ""),
                    replacement=scaled,
                    safe=False,
                )
            )
        if isinstance(self.pos, Rope) and isinstance(self.pos.scaling, Su):
            self._factors(self.pos.scaling)
        return self

    def _factors(self, scaling: Su) -> None:
        half = self.head_dim // 2
        for name, factors in (("short", scaling.short), ("long", scaling.long)):
            if len(factors) == half:
                continue
            complain(
                Problem(
                    "S403",
                    "the factors are not those of half a head",
                    (
                        (f"pos.scaling.{name}", f"{len(factors)} factors"),
                        ("head_dim", f"half of this is {half}"),
                    ),
                    reason=f"each of the {half} frequencies of a head has its own factor",
                    fix=f"give {half} of them",
                )
            )


def _in_proportion(sections: tuple[int, ...], total: int) -> str | None:
    """Sections of the same shares that add up to a total, as written; None where none do.

    >>> _in_proportion((16, 24, 24), 48)
    '[12, 18, 18]'
    """
    shares = [section * total for section in sections]
    if not total or any(share % sum(sections) for share in shares):
        return None
    return f"[{', '.join(str(share // sum(sections)) for share in shares)}]"


def uneven_heads(label: str, width: int, heads: int) -> Problem:
    """The complaint that heads do not divide a width."""
    return Problem(
        "S401",
        UNEVEN_HEADS,
        ((label, f"{heads} heads"), ("width", f"of {width}")),
        reason=f"{width} / {heads} is not whole",
        fix=f"take a divisor of {width}",
    )


Encoder = ViT | SamViT
Adapter = (
    MergeMLP
    | QFormer
    | Resampler
    | SamNeck
    | PixelShuffle
    | Projection
    | MLP
    | SplitMLP
    | AttentionPool
    | QueryDecoder
    | LastToken
    | MeanScores
    | UnitSum
    | Scale
)

ENCODERS: Mapping[str, type[Encoder]] = {"ViT": ViT, "SamViT": SamViT}
ADAPTERS: Mapping[str, type[Adapter]] = {
    "MergeMLP": MergeMLP,
    "QFormer": QFormer,
    "Resampler": Resampler,
    "SamNeck": SamNeck,
    "PixelShuffle": PixelShuffle,
    "Linear": Projection,
    "MLP": MLP,
    "SplitMLP": SplitMLP,
    "AttentionPool": AttentionPool,
    "QueryDecoder": QueryDecoder,
    "LastToken": LastToken,
    "MeanScores": MeanScores,
    "UnitSum": UnitSum,
    "Scale": Scale,
}
LANGUAGE_MODELS: Mapping[str, type[Decoder]] = {"Decoder": Decoder}

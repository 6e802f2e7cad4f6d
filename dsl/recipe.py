"""What a recipe may say: frozen models, one a block or call, whose fields are the settings.

A setting's unit stands in its type (`Px`, `Tok`, `Steps`), and the model holds a plain number in
that unit. A call such as `rope2d(theta: 1e4)` is a model too, told apart by its field `call`.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from .diagnostics import listing
from .reading import (
    Amounts,
    Calls,
    Choice,
    Default,
    Measure,
    Members,
    MembersOr,
    Named,
    OneOrMore,
    OrCall,
    Plain,
    Problem,
    Ranged,
    Sides,
    TextsOrNames,
    complain,
)
from .source import Span
from .syntax import Comparison
from .units import Quantity


class Model(BaseModel):
    """What every block and call has: frozen, and closed to settings it does not know."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", populate_by_name=True, arbitrary_types_allowed=True
    )


class PartModel(Model):
    """A part of the model; `outputs` are what others may take of it beside the whole: `vit.patches`.

    An output that is numbered, as in `vit.blocks[44]`, ends at the part's depth.
    """

    outputs: ClassVar[tuple[str, ...]] = ()


class CallModel(Model):
    """A call with arguments; `positional` names those that may come without a name."""

    positional: ClassVar[tuple[str, ...]] = ()
    open_arguments: ClassVar[str | None] = None
    """The field that takes arguments of any name, for calls such as `mix(text: 7, image: 3)`."""

    def __str__(self) -> str:
        given = {
            name: value
            for name, value in self
            if name != "call" and value not in (None, type(self).model_fields[name].default)
        }
        if self.open_arguments:
            given = given[self.open_arguments]
        arguments = [
            written(value) if name in self.positional else f"{name.strip('_')}: {written(value)}"
            for name, value in given.items()
        ]
        return f"{type(self).model_fields['call'].default}({', '.join(arguments)})"


def written(value: object) -> str:
    """A value as a recipe writes it, but for its unit."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case tuple():
            return written(value[0]) if len(value) == 1 else f"[{', '.join(map(written, value))}]"
    return str(value)


# Kinds of values ---------------------------------------------------------------------------------

Count = Annotated[int, Measure(), Field(gt=0)]
Number = Annotated[float, Measure()]
Positive = Annotated[float, Measure(), Field(gt=0)]
Share = Annotated[float, Measure(), Field(ge=0, le=1)]
Whole = Annotated[int, Measure(), Field(ge=0)]
Px = Annotated[int, Measure("px"), Field(gt=0)]
Tok = Annotated[int, Measure("tok"), Field(gt=0)]
Fps = Annotated[float, Measure("fps"), Field(gt=0)]
Steps = Annotated[int, Measure("steps"), Field(ge=0)]
Seq = Annotated[int, Measure("seq"), Field(gt=0)]
Flag = Annotated[bool, Plain()]
Byte = Annotated[int, Measure(), Field(ge=0, le=255)]
Quoted = Annotated[str, Plain()]


class Range(Model):
    """Whole numbers from `low` to `high`, both included, in steps; `low` is None in `..high`.

    What a missing low end means is the setting's to say; `at_least` reads it as its smallest.
    """

    low: int | None = None
    high: int
    step: int = 1

    def __str__(self) -> str:
        ends = f"{'' if self.low is None else self.low}..{self.high}"
        return ends if self.step == 1 else f"{ends} by {self.step}"

    def __contains__(self, number: int) -> bool:
        return (self.low is None or self.low <= number) and number <= self.high

    def at_least(self, smallest: int) -> int:
        """The low end, or `smallest` where none was written."""
        return smallest if self.low is None else self.low


CountRange = Annotated[Range, Ranged()]
TokRange = Annotated[Range, Ranged("tok")]


class Amount(Model):
    """A number with the unit that was chosen among several: `600Gtok`, `2ksteps`, `3epochs`."""

    value: int
    unit: Literal["steps", "seq", "tok", "epochs"]

    def __str__(self) -> str:
        return f"{self.value}{self.unit}"


class Grid(Model):
    """Rows and columns of a window.

    >>> str(Grid(rows=2, columns=3))
    '2x3'
    """

    rows: int = Field(gt=0)
    columns: int = Field(gt=0)

    def __str__(self) -> str:
        return f"{self.rows}x{self.columns}"

    @property
    def area(self) -> int:
        """How many cells the window holds."""
        return self.rows * self.columns


class SelectorStep(Model):
    """One name of a selector, with the range of indices behind it, both ends included."""

    name: str
    first: int | None = None
    last: int | None = None


class Selector(Model):
    """Names the parameters below a path: `vit`, `vit.blocks[24..31]`, `lm.blocks.attn`.

    A name without indices stands for all of its numbered members.

    >>> parts = (SelectorStep(name="vit"), SelectorStep(name="blocks", first=2, last=3))
    >>> chosen = Selector(text="vit.blocks[2..3]", parts=parts)
    >>> [chosen.matches(f"vit.blocks.{i}.norm1.weight") for i in (1, 2, 3, 4)]
    [False, True, True, False]
    >>> every = Selector(text="vit.blocks.attn", parts=tuple(
    ...     SelectorStep(name=name) for name in ("vit", "blocks", "attn")))
    >>> every.matches("vit.blocks.7.attn.qkv.weight"), every.matches("vit.blocks.7.norm1.weight")
    (True, False)
    """

    text: str
    parts: tuple[SelectorStep, ...]

    def matches(self, parameter: str) -> bool:
        """Whether the parameter of this name is at or below the selector's path."""
        names = parameter.split(".")
        for step in self.parts:
            if names and names[0].isdigit():
                del names[0]
            if not names or names.pop(0) != step.name:
                return False
            if step.first is None or step.last is None:
                continue
            if not names or not names[0].isdigit():
                return False
            if not step.first <= int(names.pop(0)) <= step.last:
                return False
        return True

    def __str__(self) -> str:
        return self.text

    @classmethod
    def of(cls, name: str) -> "Selector":
        """The selector of everything below one name."""
        return cls(text=name, parts=(SelectorStep(name=name),))

    @property
    def part(self) -> str:
        """The block that the path starts at."""
        return self.parts[0].name


Selected = Annotated[Selector, Named()]
Name = Annotated[str, Named()]
"""A path kept as text: a part, a layout, a stage, a node of the graph."""

# Input -------------------------------------------------------------------------------------------


class Native(CallModel):
    """Keeps the shape: sides become multiples of `multiple`, the area stays within `budget`.

    The rule is Qwen2-VL's smart resize. `budget` counts merged tokens of `multiple` x `multiple`
    pixels for an image, or for one frame of a clip; `clip` caps a whole clip, but never below
    `slack` times the low end of the budget for each pair of frames.
    """

    call: Literal["native"] = "native"
    multiple: Px
    budget: TokRange
    clip: Tok | None = None
    slack: Positive = 1.0


Colour = Annotated[tuple[Byte, Byte, Byte] | None, MembersOr("mean")]
"""Red, green and blue, from 0 to 255; None, written `mean`, is the mean of the input."""


class Square(CallModel):
    """Resizes to a square of `side`, whatever the shape was."""

    call: Literal["square"] = "square"
    positional: ClassVar[tuple[str, ...]] = ("side",)
    side: Px


class Letterbox(CallModel):
    """Shrinks or grows until the longer side is `side`, and centres the picture on a square.

    Sides are cut off to whole pixels, and the shorter is never below `least`, as in DeepSeek-VL.
    """

    call: Literal["letterbox"] = "letterbox"
    positional: ClassVar[tuple[str, ...]] = ("side",)
    side: Px
    pad: Colour = None
    """What stands around the picture."""
    least: Px = 1

    @model_validator(mode="after")
    def _fits(self) -> "Letterbox":
        if self.least > self.side:
            complain(
                Problem(
                    "V305",
                    "the shorter side is longer than the longer one",
                    (("least", f"at least {self.least} px"), ("side", f"of {self.side} px")),
                    fix=f"write at most `{self.side}px`",
                )
            )
        return self


class Crop(CallModel):
    """Resizes the shorter side to `side`, and keeps the square in the middle."""

    call: Literal["crop"] = "crop"
    positional: ClassVar[tuple[str, ...]] = ("side",)
    side: Px


class Padded(CallModel):
    """Centres the picture on a square as large as its longer side, and resizes that to `side`."""

    call: Literal["padded"] = "padded"
    positional: ClassVar[tuple[str, ...]] = ("side",)
    side: Px
    pad: Colour = None
    """What stands around the picture."""


class Tiles(CallModel):
    """Cuts the picture into square tiles of `side`, each a picture to the tower.

    The grid with `count` tiles whose shape comes nearest is taken; `thumbnail` adds the whole
    picture as one more tile, after the others, where there are several. InternVL 1.5 does so.
    """

    call: Literal["tiles"] = "tiles"
    positional: ClassVar[tuple[str, ...]] = ("side", "count")
    side: Px
    count: CountRange
    thumbnail: Flag = True

    @model_validator(mode="after")
    def _some(self) -> "Tiles":
        if not self.count.high:
            complain(Problem("V309", "a picture has at least one tile", (("count", "none"),)))
        return self


Resizing = Annotated[Native | Square | Letterbox | Crop | Padded | Tiles, Calls()]


class Clip(CallModel):
    """The mean and deviation of CLIP's training images."""

    call: Literal["clip"] = "clip"


class Half(CallModel):
    """Mean and deviation of one half: from -1 to 1."""

    call: Literal["half"] = "half"


class Imagenet(CallModel):
    """The mean and deviation of ImageNet."""

    call: Literal["imagenet"] = "imagenet"


class MeanStd(CallModel):
    """A mean and a deviation for red, green and blue, on the scale from 0 to 1."""

    call: Literal["mean_std"] = "mean_std"
    positional: ClassVar[tuple[str, ...]] = ("mean", "std")
    mean: Annotated[tuple[Number, Number, Number], Members()]
    std: Annotated[tuple[Positive, Positive, Positive], Members()]


Normalize = Annotated[Clip | Half | Imagenet | MeanStd, Calls()]


class ImageInput(Model):
    """Still pictures: which are let in, and how they are resized and scaled."""

    kind: Literal["image"] = "image"
    aspect: Annotated[Range | None, Ranged()] = None
    """How many times longer one side may be than the other."""
    resize: Resizing
    alpha: Annotated[Literal["drop", "white"], Choice()] = "drop"
    """What becomes of transparency: left out, or blended onto white."""
    normalize: Annotated[Clip | Half | Imagenet | MeanStd | None, Calls()] = None
    """How pixels are scaled for the encoders that do not say so themselves."""


class VideoInput(Model):
    """Clips: how many frames are taken, and how these are resized and scaled."""

    kind: Literal["video"] = "video"
    aspect: Annotated[Range | None, Ranged()] = None
    """How many times longer one side of a frame may be than the other."""
    rate: Fps
    """Frames taken from a second of the clip."""
    frames: CountRange
    resize: Annotated[Native, Calls()]
    normalize: Normalize


Input = ImageInput | VideoInput

INPUTS: Mapping[str, type[Input]] = {"image": ImageInput, "video": VideoInput}

# Tokenizers ---------------------------------------------------------------------------------------


class Tiktoken(CallModel):
    """A vocabulary of byte-pair ranks: one that ships, by name, or a file."""

    call: Literal["tiktoken"] = "tiktoken"
    positional: ClassVar[tuple[str, ...]] = ("name",)
    name: Quoted


class HfJson(CallModel):
    """A `tokenizer.json` of the tokenizers library, beside the recipe, the data or the weights."""

    call: Literal["hf_json"] = "hf_json"
    positional: ClassVar[tuple[str, ...]] = ("path",)
    path: Quoted


class SentencePiece(CallModel):
    """A SentencePiece model, beside the recipe, the data or the weights."""

    call: Literal["sentencepiece"] = "sentencepiece"
    positional: ClassVar[tuple[str, ...]] = ("path",)
    path: Quoted
    legacy: Flag = True
    """Whether a text begins, with a space that nobody wrote, behind every special token."""
    strip: Flag = False
    """Whether white space beside special tokens is dropped."""


Tokenizer = Annotated[Tiktoken | HfJson | SentencePiece, Calls()]

# Parts -------------------------------------------------------------------------------------------

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
    depth: Count
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
                )
            )
        return self


class SamViT(PartModel):
    """SAM's image encoder without its neck: most blocks attend inside windows of a map of patches.

    A learned vector goes with each cell of the map, and attention learns rows for how far off a key
    is, in height and in width; so the pictures have one size.
    """

    outputs: ClassVar[tuple[str, ...]] = ("blocks",)
    type: Literal["SamViT"] = "SamViT"
    in_: Annotated[tuple[Shown, ...], OneOrMore()] = Field(alias="in", min_length=1)
    patch: Px
    depth: Count
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
    depth: Count
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
    depth: Count
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
    depth: Count
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
                )
            )
        if isinstance(self.pos, Mrope) and sum(self.pos.sections) * 2 != self.head_dim:
            total, half = sum(self.pos.sections), self.head_dim // 2
            complain(
                Problem(
                    "S403",
                    "the rotary sections do not fill half a head",
                    (("pos.sections", f"{total} in all"), ("head_dim", f"half of this is {half}")),
                    reason=f"each of the {half} frequencies of a head belongs to one section",
                    fix=f"make the sections add up to {half}",
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
                )
            )


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

# Tokens and layouts ------------------------------------------------------------------------------


class SpecialToken(Model):
    """A token that text can never spell: what it is written as, and its row of the vocabulary."""

    text: str = Field(min_length=1)
    id: Whole


class Tokens(Model):
    """The tokenizer, and the special tokens by the names that layouts use."""

    tokenizer: Tokenizer
    specials: dict[str, SpecialToken] = {}
    pad: Name
    """The special token that fills up a batch."""


class TextItem(Model):
    """Fixed text."""

    item: Literal["text"] = "text"
    text: str


class SpecialItem(Model):
    """A special token, by name."""

    item: Literal["special"] = "special"
    special: str


class SlotItem(Model):
    """What the parameter holds, as plain text."""

    item: Literal["slot"] = "slot"
    parameter: str


class RepeatItem(Model):
    """A special token once for each token of the parameter: the places of features."""

    item: Literal["repeat"] = "repeat"
    special: str
    count: str
    """The parameter whose `.tokens` are counted."""
    part: str | None = None
    """The part whose features take the places, where the language model takes those of several."""


class IndexItem(Model):
    """The number of the parameter among those of its kind in the dialogue, from 1."""

    item: Literal["index"] = "index"
    parameter: str


class RuleItem(Model):
    """Another rule of the layout."""

    item: Literal["rule"] = "rule"
    rule: str
    arguments: tuple[str, ...]


class CornersItem(Model):
    """The coordinates of the box or quadrilateral that the parameter holds."""

    item: Literal["corners"] = "corners"
    parameter: str


class LossItem(Model):
    """What is supervised; what stands behind the content inside ends an answer."""

    item: Literal["loss"] = "loss"
    items: tuple["LayoutItem", ...]


class ApartItem(Model):
    """What is tokenised on its own, whatever text stands beside it."""

    item: Literal["apart"] = "apart"
    items: tuple["LayoutItem", ...]


class ChoiceItem(Model):
    """One of several lines, the same for a whole batch."""

    item: Literal["choice"] = "choice"
    lines: tuple[tuple["LayoutItem", ...], ...]


LayoutItem = Annotated[
    TextItem
    | SpecialItem
    | SlotItem
    | RepeatItem
    | IndexItem
    | CornersItem
    | RuleItem
    | LossItem
    | ApartItem
    | ChoiceItem,
    Field(discriminator="item"),
]


def has_content(loss: LossItem) -> bool:
    """Whether a loss holds what a parameter does, and not fixed text alone."""
    return any(isinstance(item, SlotItem | RuleItem) for item in items_within(loss.items))


def end_of(loss: LossItem) -> TextItem | SpecialItem | None:
    """What ends an answer: the first special token behind the content of a loss, else its text."""
    behind: list[TextItem | SpecialItem] = []
    for item in items_within(loss.items):
        match item:
            case SlotItem() | RuleItem():
                behind = []
            case TextItem() | SpecialItem():
                behind.append(item)
    specials = [item for item in behind if isinstance(item, SpecialItem)]
    return next(iter(specials or behind), None)


def items_within(items: Iterable[LayoutItem]) -> Iterator[LayoutItem]:
    """The items, and all that stand inside them; rules that they use are not opened."""
    for item in items:
        yield item
        match item:
            case LossItem(items=inner) | ApartItem(items=inner):
                yield from items_within(inner)
            case ChoiceItem(lines=lines):
                for line in lines:
                    yield from items_within(line)


class Rule(Model):
    """How one kind of content, a turn or a whole sample is written."""

    name: str
    parameters: tuple[str, ...]
    items: tuple[LayoutItem, ...]


class Caption(CallModel):
    """Cleans a caption of the web as BLIP does: small letters, little punctuation, few words."""

    call: Literal["caption"] = "caption"
    words: Count = 50


class Thousandths(CallModel):
    """Whole thousandths of a picture's sides, from 0 to 999."""

    call: Literal["thousandths"] = "thousandths"
    back: Count = 1000
    """What a thousandth is divided by on the way back to pixels."""
    rounding: Annotated[Literal["down", "nearest"], Choice()] = "down"


class Layout(Model):
    """The text around content, the places of features, and what is supervised, in one."""

    system: Quoted | None = None
    """Placed as a system message when a dialogue does not open with one."""
    strip: Flag = False
    """Whether white space at the ends of messages and answers is dropped."""
    gap: Quoted | None = None
    """Placed between a picture and what follows it in a message, unless white space does."""
    answer: Annotated[Range | None, Ranged("tok")] = None
    """How long an answer is learnt, its end included; the rest is cut off."""
    clean: Annotated[Caption | None, Calls()] = None
    """How what is learnt is cleaned."""
    stop: Annotated[tuple[TextItem | SpecialItem, ...], TextsOrNames()] = ()
    """What ends an answer besides what the loss ends in."""
    coordinates: Annotated[Thousandths | None, Calls()] = None
    """How boxes and quadrilaterals are written."""
    rules: dict[str, Rule]


# Weights -----------------------------------------------------------------------------------------


class Renamed(Model):
    """The published tensor is ours under another name: a target that is a text alone."""

    target: str

    @property
    def targets(self) -> tuple[str, ...]:
        """The patterns of our names, in the order in which the published tensor holds them."""
        return (self.target,)


class Transposed(CallModel):
    """The published matrix is ours with rows for columns."""

    call: Literal["transposed"] = "transposed"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Quoted

    @property
    def targets(self) -> tuple[str, ...]:
        """As for a text."""
        return (self.target,)


class Squeezed(CallModel):
    """The published tensor is ours without its leading sizes of one."""

    call: Literal["squeezed"] = "squeezed"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Quoted

    @property
    def targets(self) -> tuple[str, ...]:
        """As for a text."""
        return (self.target,)


class Joined(CallModel):
    """The published tensor holds several of ours, one below another.

    With `groups`, its rows stand in so many groups, each of an equal share of every one of ours.
    """

    call: Literal["joined"] = "joined"
    positional: ClassVar[tuple[str, ...]] = ("targets",)
    targets: Annotated[tuple[Quoted, ...], Members()] = Field(min_length=2)
    groups: Count = 1


class Interleaved(CallModel):
    """Ours has `parts` of equal size one below another; the published rows stand in groups.

    Each group holds an equal share of every part: queries, keys and values head by head, say.
    """

    call: Literal["interleaved"] = "interleaved"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Quoted
    parts: Count
    groups: Count

    @property
    def targets(self) -> tuple[str, ...]:
        """As for a text."""
        return (self.target,)


Form = Renamed | Transposed | Squeezed | Joined | Interleaved
"""How a published tensor holds ours."""


class MapRule(Model):
    """Published name to ours; each `*` captures any text, left to right, on both sides."""

    source: str
    target: Annotated[Form, Calls()]


class IgnoreRule(Model):
    """Published tensors that have no place in the model, and why."""

    pattern: str
    reason: str = Field(min_length=1)


class Weights(Model):
    """Where published weights stand, and how their names map to ours; usable both ways."""

    from_: Annotated[tuple[Annotated[Hf, Calls()], ...], OneOrMore()] = Field(
        alias="from", min_length=1
    )
    rules: tuple[MapRule, ...] = ()
    ignored: tuple[IgnoreRule, ...] = ()

    @property
    def repositories(self) -> str:
        """Where they are published, for a sentence."""
        return ", ".join(source.repository for source in self.from_)


# Objectives, stages, modes -----------------------------------------------------------------------


class RegionWords(Model):
    """Matches pooled features of a region with the embedding of its words, against the batch's."""

    type: Literal["RegionWords"] = "RegionWords"
    regions: Name
    """The part whose rows are pooled inside each box."""
    words: Name
    """The embedding whose rows are averaged over the words."""
    temperature: Positive


class Contrastive(Model):
    """Tells the pictures and texts of a batch apart by one another (Radford et al., 2021).

    With several `image` parts, the losses of each are summed. Texts without content are answers
    that others may give, and are not scored.
    """

    type: Literal["Contrastive"] = "Contrastive"
    image: Annotated[tuple[Taken, ...], OneOrMore()] = Field(min_length=1)
    """The parts that make one vector of each picture."""
    text: Taken
    """The part that makes one vector of each text."""
    scale: Name
    """The part that is the factor of the similarities."""
    layout: Name
    """How a text is written."""
    smoothing: Share = 0.0
    """The share of the target that is spread over all answers."""
    right: Annotated[Literal["own", "picture"], Choice()] = "own"
    """Which texts are right for a picture: its own, or those of any sample with that picture."""
    weight: Positive = 1.0


class Uniform(CallModel):
    """The text of any other picture of the batch, for half of the pictures or for `all` of them.

    For `half`, the others are shown with their own text; for all, each is shown with both.
    """

    call: Literal["uniform"] = "uniform"
    positional: ClassVar[tuple[str, ...]] = ("share",)
    share: Annotated[Literal["half", "all"], Choice()] = "all"


class Hard(CallModel):
    """Another text for each picture and another picture for each text, the likelier the more alike.

    They are as alike as the contrastive objective `by` finds them; each is shown with its own too.
    """

    call: Literal["hard"] = "hard"
    positional: ClassVar[tuple[str, ...]] = ("by",)
    by: Name


class Matching(Model):
    """Asks whether a picture and a text belong together: yes is 1, no is 0."""

    type: Literal["Matching"] = "Matching"
    scores: Taken
    """The part that makes two scores of each picture with a text."""
    layout: Name
    """How a text is written."""
    negatives: Annotated[Uniform | Hard, Calls()] = Uniform()
    weight: Positive = 1.0


class Captioning(Model):
    """The next token of texts that go on behind the queries of a `QueryDecoder`."""

    type: Literal["Captioning"] = "Captioning"
    text: Taken
    """The text of a decoder with queries: `qllama.caption`."""
    layout: Name
    """How a text is written, and what of it is scored."""
    weight: Positive = 1.0


Objective = RegionWords | Contrastive | Matching | Captioning

OBJECTIVES: Mapping[str, type[Objective]] = {
    "RegionWords": RegionWords,
    "Contrastive": Contrastive,
    "Matching": Matching,
    "Captioning": Captioning,
}


class Lora(CallModel):
    """Trains a low-rank change of the linear layers that the target selects.

    The change is scaled by `alpha / rank`, which is 1 when `alpha` is not written.
    """

    call: Literal["lora"] = "lora"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Selected
    rank: Count
    alpha: Positive | None = None

    @property
    def scale(self) -> float:
        """What the low-rank change is multiplied by."""
        return 1.0 if self.alpha is None else self.alpha / self.rank


class Lr(CallModel):
    """Trains the target at a multiple of the stage's learning rate."""

    call: Literal["lr"] = "lr"
    positional: ClassVar[tuple[str, ...]] = ("target", "factor")
    target: Selected
    factor: Positive


class LayerDecay(CallModel):
    """Trains the layers of the target at rates that fall from its top (Clark et al., 2020).

    The last block learns at `rate` times what stands above the blocks, each block below at `rate`
    times the one above it, and what stands below the blocks as one more layer. `lr` multiplies all.
    """

    call: Literal["decay"] = "decay"
    positional: ClassVar[tuple[str, ...]] = ("target", "rate")
    target: Selected
    rate: Annotated[float, Measure(), Field(gt=0, le=1)]
    lr: Positive = 1.0


Trained = Annotated[Selector | Lora | Lr | LayerDecay, Calls()]


class DropPath(CallModel):
    """Leaves out branches of the target's blocks, picture by picture (Huang et al., 2016).

    The chance is `rate` in the last block, and falls to 0 in the first, or is `uniform`. A block
    whose parameters are frozen is left out as well.
    """

    call: Literal["drop_path"] = "drop_path"
    positional: ClassVar[tuple[str, ...]] = ("target", "rate")
    target: Selected
    rate: Annotated[float, Measure(), Field(gt=0, lt=1)]
    over: Annotated[Literal["ramp", "uniform"], Choice()] = "ramp"


class DropTokens(CallModel):
    """Leaves out a share of each picture's tokens before the target's blocks (FLIP, 2022).

    Which ones is drawn anew each time; the class token stays.
    """

    call: Literal["drop_tokens"] = "drop_tokens"
    positional: ClassVar[tuple[str, ...]] = ("target", "rate")
    target: Selected
    rate: Annotated[float, Measure(), Field(gt=0, lt=1)]


class Ramp(CallModel):
    """A share that goes from one value to another in a straight line over the first steps."""

    call: Literal["ramp"] = "ramp"
    positional: ClassVar[tuple[str, ...]] = ("start", "end")
    start: Annotated[float, Measure(), Field(ge=0)]
    end: Positive
    over: Annotated[int, Measure("steps"), Field(gt=0)]


Weight = Annotated[Positive | Ramp, OrCall(Measure())]


class Mix(CallModel):
    """Kinds of data, and how often each is drawn in proportion to the others."""

    call: Literal["mix"] = "mix"
    open_arguments: ClassVar[str | None] = "shares"
    shares: dict[str, Weight] = Field(min_length=1)

    @model_validator(mode="after")
    def _never_nothing(self) -> "Mix":
        if all(isinstance(share, Ramp) and share.start == 0 for share in self.shares.values()):
            complain(
                Problem(
                    "V305",
                    "nothing is drawn at first",
                    reason="every share of the mixture starts at 0",
                    fix="let one of them start above 0",
                )
            )
        return self


class By(CallModel):
    """The layouts of each kind of data, by the names of the mixture."""

    call: Literal["by"] = "by"
    open_arguments: ClassVar[str | None] = "layouts"
    layouts: dict[str, Annotated[tuple[Name, ...], OneOrMore()]] = Field(min_length=1)


class RandomCrop(CallModel):
    """A random part of each picture: its share of the area, and its width over its height.

    With the input's resize behind it, it is the random resized crop of the field.
    """

    call: Literal["random_crop"] = "random_crop"
    scale: Annotated[tuple[Share, Share], Members()]
    ratio: Annotated[tuple[Positive, Positive], Members()] = (3 / 4, 4 / 3)


class Jpeg(CallModel):
    """Each picture as JPEG has it at a random quality out of a range."""

    call: Literal["jpeg"] = "jpeg"
    quality: CountRange


Augment = Annotated[RandomCrop | Jpeg, Calls()]


class AdamW(CallModel):
    """Adam with decoupled weight decay; `clip` bounds the norm of all gradients together."""

    call: Literal["adamw"] = "adamw"
    lr: Positive
    betas: Annotated[tuple[Share, Share], Members()] = (0.9, 0.999)
    weight_decay: Annotated[float, Measure(), Field(ge=0)] = 0.0
    decay: Annotated[Literal["matrices", "ndim", "all"], Choice()] = "matrices"
    """What the weight decay is for: tensors with two sizes above 1, with two or more of any size
    (a class token [1, 1, width] too), or all."""
    no_decay: Annotated[tuple[Selected, ...], OneOrMore()] = ()
    """What it is not for all the same."""
    eps: Positive = 1e-8
    clip: Positive | None = None


class WarmUp(CallModel):
    """How a rate begins: it rises in a straight line, over steps or over a share of the stage."""

    warmup: Steps = 0
    warmup_ratio: Annotated[float, Measure(), Field(gt=0, lt=1)] | None = None
    warmup_from: Annotated[float, Measure(), Field(ge=0)] | None = None
    """The rate of the first step; without it, it is one part of the rise."""

    @model_validator(mode="after")
    def _once(self) -> "WarmUp":
        if self.warmup and self.warmup_ratio:
            complain(
                Problem(
                    "F610",
                    "the warm-up has two lengths",
                    (("warmup_ratio", "a share of the stage"), ("warmup", "and steps")),
                    fix="leave one of them out",
                )
            )
        return self


class Falling(WarmUp):
    """A rate that falls to `min`, a learning rate, at the end of the stage.

    `over` says when the fall begins: with the `rest` of the stage, after the warm-up, or with the
    `stage`, so that the rate drops to where it would be by then as the warm-up ends (LAVIS).
    """

    min: Annotated[float, Measure(), Field(ge=0)] = 0.0
    over: Annotated[Literal["rest", "stage"], Choice()] = "rest"


class Constant(WarmUp):
    """The same rate throughout, after the warm-up."""

    call: Literal["constant"] = "constant"


class Linear(Falling):
    """Falls in a straight line."""

    call: Literal["linear"] = "linear"


class Cosine(Falling):
    """Falls along half a cosine."""

    call: Literal["cosine"] = "cosine"


class Stairs(WarmUp):
    """Falls in steps: from each share `at` of the stage on, the rate is its factor of the peak."""

    call: Literal["step"] = "step"
    at: Annotated[tuple[Annotated[float, Measure(), Field(gt=0, lt=1)], ...], Members()]
    factors: Annotated[tuple[Positive, ...], Members()]

    @model_validator(mode="after")
    def _agree(self) -> "Stairs":
        if len(self.at) != len(self.factors) or list(self.at) != sorted(set(self.at)):
            complain(
                Problem(
                    "F610",
                    "the steps of the rate do not fit together",
                    (("at", f"{len(self.at)} places"), ("factors", f"{len(self.factors)} factors")),
                    reason="each place has one factor, and places rise",
                )
            )
        return self


class Stage(Model):
    """What is trained, on what, for how long; every parameter is trained or frozen by name."""

    after: Name | None = None
    train: Annotated[tuple[Trained, ...], OneOrMore()] = Field(min_length=1)
    freeze: Annotated[tuple[Selected, ...], OneOrMore()] = ()
    layout: Annotated[Annotated[tuple[Name, ...], Field(min_length=1)] | By, OrCall(OneOrMore())]
    """The layouts of its samples; the first that has the rules that a sample needs is used."""
    data: Annotated[Mix, Calls()]
    apart: Annotated[tuple[Name, ...], OneOrMore()] = ()
    """Kinds of data with steps of their own; all others share theirs."""
    group_by_length: Steps = 0
    """Out of the samples of so many steps, those of like length share one."""
    stop: Annotated[Amount, Amounts(("steps", "seq", "tok", "epochs"))]
    batch: Seq
    """Samples of one optimizer step."""
    accumulate: Count = 1
    """Into how many parts the batch is cut, one after another."""
    optim: Annotated[AdamW, Calls()]
    schedule: Annotated[Constant | Linear | Cosine | Stairs, Calls()] = Constant()
    loss: Annotated[tuple[Name, ...], OneOrMore()] = ("lm",)
    """What is summed: `lm`, the next token where the layout says loss, or named objectives."""
    resize: Resizing | None = None
    """The resize of still pictures, in place of that of their inputs."""
    augment: Annotated[tuple[Augment, ...], OneOrMore()] = ()
    """What happens to still pictures by chance, in this order, before they are resized."""
    drop_path: Annotated[tuple[Annotated[DropPath, Calls()], ...], OneOrMore()] = ()
    drop_tokens: Annotated[tuple[Annotated[DropTokens, Calls()], ...], OneOrMore()] = ()
    precision: Annotated[Literal["bf16", "f32"], Choice()] = "bf16"
    checkpoint: Annotated[tuple[Selected, ...], OneOrMore()] = ()
    """Whose activations are computed again in the backward pass instead of being kept."""
    pack: Tok | None = None
    """Samples are joined up to this length; each attends to itself only."""
    pack_by_kind: Flag = False
    """Whether only samples of one kind of data are joined."""
    seed: Whole = 0

    @property
    def layouts(self) -> tuple[str, ...]:
        """All layouts of its samples, each once."""
        if isinstance(self.layout, By):
            every = (name for names in self.layout.layouts.values() for name in names)
            return tuple(dict.fromkeys(every))
        return self.layout

    @model_validator(mode="after")
    def _kinds(self) -> "Stage":
        said = {"layout": self.layout.layouts} if isinstance(self.layout, By) else {}
        for setting, names in ({"apart": self.apart} | said).items():
            for name in names:
                if name not in self.data.shares:
                    place = f"layout.{name}" if setting == "layout" else setting
                    complain(
                        Problem(
                            "F611",
                            f"the stage draws no `{name}`",
                            ((place, f"`{name}` is named here"), ("data", "not in the mixture")),
                            fix=f"name {listing(self.data.shares, last='or')}",
                        )
                    )
        left = [name for name in self.data.shares if said and name not in said["layout"]]
        if left:
            complain(
                Problem(
                    "F611",
                    f"the stage has no layout for {listing(left)}",
                    (("layout", "none here"), (f"data.{left[0]}", "drawn here")),
                    fix=f"add `{left[0]}: LAYOUT`",
                )
            )
        return self


class Greedy(CallModel):
    """The likeliest token each time."""

    call: Literal["greedy"] = "greedy"
    repetition_penalty: Positive = 1.0


class Sample(CallModel):
    """Draws the next token."""

    call: Literal["sample"] = "sample"
    temperature: Positive = 1.0
    top_p: Annotated[float, Measure(), Field(gt=0, le=1)] = 1.0
    top_k: Count | None = None
    repetition_penalty: Positive = 1.0


class Eager(CallModel):
    """Runs the module as it is."""

    call: Literal["eager"] = "eager"
    precision: Annotated[Literal["bf16", "f16", "f32"], Choice()] = "f32"


class Inductor(CallModel):
    """torch.compile."""

    call: Literal["inductor"] = "inductor"
    precision: Annotated[Literal["bf16", "f16", "f32"], Choice()] = "f32"


class Aot(CallModel):
    """A package of torch.export and AOTInductor."""

    call: Literal["aot"] = "aot"
    precision: Annotated[Literal["bf16", "f16", "f32"], Choice()] = "f32"


class TensorRt(CallModel):
    """TensorRT engines."""

    call: Literal["tensorrt"] = "tensorrt"
    precision: Annotated[Literal["bf16", "f16", "f32"], Choice()] = "bf16"


class Mode(Model):
    """How the trained model answers: its limits, and what it is compiled for."""

    type: Literal["Chat"] = "Chat"
    from_: Taken | None = Field(alias="from", default=None)
    """What writes the answer, where it is not the language model: `qllama.caption`."""
    layout: Name
    batch: CountRange
    prompt: TokRange
    """Tokens of a prompt, features included."""
    new: Tok
    """The most tokens that an answer takes."""
    resize: Resizing | None = None
    """The resize of still pictures, in place of that of their inputs."""
    sampling: Annotated[Greedy | Sample, Calls()] = Greedy()
    target: Annotated[Eager | Inductor | Aot | TensorRt, Calls()] = Eager()


class Retrieval(Model):
    """Pictures and texts as vectors, and how well each goes with each: cosines, times the scale."""

    type: Literal["Retrieval"] = "Retrieval"
    image: Taken
    """The part that makes one vector of each picture."""
    text: Taken
    """The part that makes one vector of each text."""
    scale: Name | None = None
    """The part that is the factor of the similarities."""
    layout: Name
    """How a text is written."""
    batch: CountRange
    """Pictures, and texts, at once."""
    prompt: TokRange
    """Tokens of a text."""
    resize: Resizing | None = None
    """The resize of still pictures, in place of that of their inputs."""
    target: Annotated[Eager | Inductor | Aot | TensorRt, Calls()] = Eager()


class Features(Model):
    """What a part makes of pictures, as it is."""

    type: Literal["Features"] = "Features"
    of: Taken
    """The part."""
    batch: CountRange
    """Pictures at once."""
    resize: Resizing | None = None
    """The resize of still pictures, in place of that of their inputs."""
    target: Annotated[Eager | Inductor | Aot | TensorRt, Calls()] = Eager()


AnyMode = Mode | Retrieval | Features

MODES: Mapping[str, type[AnyMode]] = {"Chat": Mode, "Retrieval": Retrieval, "Features": Features}


def _calls(above: type[CallModel]) -> dict[str, type[CallModel]]:
    found = {above.model_fields["call"].default: above} if "call" in above.model_fields else {}
    for below in above.__subclasses__():
        found |= _calls(below)
    return found


CALLS: Mapping[str, type[CallModel]] = _calls(CallModel)
"""Every call that a recipe may make, by name."""

# The recipe --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; `replaced` is what stood there in a base.

    `recipe` names the recipe whose text holds the value; `span` is None for a default.
    """

    kind: Literal["given", "derived", "inherited", "assumed", "default"]
    span: Span | None
    recipe: str
    replaced: "Origin | None" = None


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """Where each value of a recipe stands, by path; never what tells two recipes apart.

    All blocks share one set of names, so a path starts at the block: `lm` is where it is declared,
    `lm.width` a setting, `sft.optim.lr` an argument, `sft.train[0]` a member of a list,
    `tokens.im_end` a special token, `chatml.user` a rule, `weights.rules[3]` and
    `weights.ignored[0]` statements of the weights, `asserts[0]` an assert.
    """

    spans: Mapping[str, Span] = field(default_factory=lambda: MappingProxyType({}))
    origins: Mapping[str, Origin] = field(default_factory=lambda: MappingProxyType({}))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Facts)

    def __hash__(self) -> int:
        return hash(Facts)


@dataclass(frozen=True, slots=True)
class Assertion:
    """A comparison that must hold, as written; the compiler supplies what it speaks of."""

    text: str
    comparison: Comparison = field(compare=False)


class Recipe(Model):
    """A whole recipe: what goes in, the parts, the weights, the layouts, how it is trained and run.

    Dicts are in the order of the text, stages in an order that respects `after`. Two recipes are
    equal when they mean the same, however they are written.
    """

    name: str
    language: int
    tokens: Tokens | None = None
    inputs: dict[str, Input] = {}
    encoders: dict[str, Encoder] = {}
    adapters: dict[str, Adapter] = {}
    lm: Decoder | QueryDecoder | None = None
    weights: Weights | None = None
    layouts: dict[str, Layout] = {}
    objectives: dict[str, Objective] = {}
    stages: dict[str, Stage] = {}
    modes: dict[str, AnyMode] = {}
    asserts: tuple[Assertion, ...] = ()
    facts: Facts = Field(default_factory=Facts, exclude=True, repr=False)

    def span(self, path: str) -> Span | None:
        """Where the value at a path stands: of itself, or of the nearest thing that holds it."""
        while path:
            if path in self.facts.spans:
                return self.facts.spans[path]
            path = path.rpartition("[" if path.endswith("]") else ".")[0]
        return self.facts.spans.get("")

    @property
    def chats(self) -> dict[str, Mode]:
        """The modes that write answers."""
        return {name: mode for name, mode in self.modes.items() if isinstance(mode, Mode)}

    @property
    def speaker(self) -> "Decoder | QueryDecoder | None":
        """What reads and writes text: the language model, else a decoder with queries."""
        decoders = (part for part in self.adapters.values() if isinstance(part, QueryDecoder))
        return self.lm or next(decoders, None)

    def block(self, name: str) -> Model | None:
        """The block of this name; None when there is none."""
        singles: dict[str, Model | None] = {
            "tokens": self.tokens,
            "lm": self.lm,
            "weights": self.weights,
        }
        if name in singles:
            return singles[name]
        named: tuple[Mapping[str, Model], ...] = (
            self.inputs,
            self.encoders,
            self.adapters,
            self.layouts,
            self.objectives,
            self.stages,
            self.modes,
        )
        return next((blocks[name] for blocks in named if name in blocks), None)

    def quantity(self, path: str) -> Quantity | None:
        """The number at a path such as `lm.context`, with its unit; None when there is no number.

        Ranges, words and lists have no quantity; neither has a setting that was left out.
        """
        block, *names = path.split(".")
        value: object = self.block(block)
        unit = ""
        for name in names:
            if not isinstance(value, Model):
                return None
            field = next(
                (
                    key
                    for key, info in type(value).model_fields.items()
                    if name in (key, info.alias)
                ),
                None,
            )
            if field is None:
                return None
            markers = type(value).model_fields[field].metadata
            unit = next((marker.unit for marker in markers if isinstance(marker, Measure)), "")
            value = getattr(value, field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return Quantity(value, unit)

    def origin(self, path: str) -> Origin | None:
        """Where the value at a path came from; None when there is no such value."""
        return self.facts.origins.get(path)

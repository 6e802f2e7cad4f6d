"""What a recipe may say of how its model is used."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .inputs import Resizing
from .kinds import CallModel, Count, CountRange, Model, Name, Number, Positive, Tok, TokRange
from .parts import Taken
from .precision import Precision, Quantized, Word
from .reading import Calls, Choice, Measure

Least = Annotated[int, Measure("tok"), Field(ge=0)]
"""Tokens of an answer before one may end it."""


class Greedy(CallModel):
    """The likeliest token each time; none ends an answer before `min_new` are said."""

    call: Literal["greedy"] = "greedy"
    repetition_penalty: Positive = 1.0
    min_new: Least = 0


class Sample(CallModel):
    """Draws the next token."""

    call: Literal["sample"] = "sample"
    temperature: Positive = 1.0
    top_p: Annotated[float, Measure(), Field(gt=0, le=1)] = 1.0
    top_k: Count | None = None
    repetition_penalty: Positive = 1.0
    min_new: Least = 0


class Beams(CallModel):
    """Searches for the answer that is likeliest as a whole: so many beginnings of it go on.

    The logarithm of how likely it is, is divided by its number of tokens to the power of
    `length_penalty`: above 0, longer answers are preferred.
    """

    call: Literal["beams"] = "beams"
    positional: ClassVar[tuple[str, ...]] = ("count",)
    count: Annotated[int, Measure(), Field(ge=2)]
    length_penalty: Number = 1.0
    repetition_penalty: Positive = 1.0
    min_new: Least = 0


class Eager(CallModel):
    """Runs the module as it is."""

    call: Literal["eager"] = "eager"
    precision: Precision = "f32"


class Inductor(CallModel):
    """torch.compile."""

    call: Literal["inductor"] = "inductor"
    precision: Precision = "f32"


class Aot(CallModel):
    """A package of torch.export and AOTInductor."""

    call: Literal["aot"] = "aot"
    precision: Precision = "f32"


class TensorRt(CallModel):
    """TensorRT engines."""

    call: Literal["tensorrt"] = "tensorrt"
    precision: Annotated[Word, Choice()] = "bf16"


class Mode(Model):
    """How the trained model answers: its limits, and what it is compiled for."""

    type: Literal["Chat"] = "Chat"
    from_: Taken | None = Field(alias="from", default=None)
    """What writes the answer, where it is not the language model: `qllama.caption`."""
    after: Name | None = None
    """The stage whose weights it answers with; None: the last one."""
    layout: Name
    batch: CountRange
    prompt: TokRange
    """Tokens of a prompt, features included."""
    history: TokRange | None = None
    """Tokens of what stands before the last question; the oldest turns are left out, whole, until
    it and the prompt are within their limits. None: a prompt that is too long is refused."""
    new: Tok
    """The most tokens that an answer takes."""
    resize: Resizing | None = None
    """The resize of still pictures, in place of that of their inputs."""
    sampling: Annotated[Greedy | Sample | Beams, Calls()] = Greedy()
    quantize: Quantized = ()
    """Linear layers that are kept in 8 or 4 bits."""
    target: Annotated[Eager | Inductor | Aot | TensorRt, Calls()] = Eager()

    @property
    def beams(self) -> int:
        """How many beginnings of an answer go on at once."""
        return self.sampling.count if isinstance(self.sampling, Beams) else 1


class Retrieval(Model):
    """Pictures and texts as vectors, and how well each goes with each: cosines, times the scale."""

    type: Literal["Retrieval"] = "Retrieval"
    image: Taken
    """The part that makes one vector of each picture."""
    text: Taken
    """The part that makes one vector of each text."""
    scale: Name | None = None
    """The part that is the factor of the similarities."""
    after: Name | None = None
    """The stage whose weights it compares with; None: the last one."""
    layout: Name
    """How a text is written."""
    batch: CountRange
    """Pictures, and texts, at once."""
    prompt: TokRange
    """Tokens of a text."""
    resize: Resizing | None = None
    """The resize of still pictures, in place of that of their inputs."""
    quantize: Quantized = ()
    """Linear layers that are kept in 8 or 4 bits."""
    target: Annotated[Eager | Inductor | Aot | TensorRt, Calls()] = Eager()


class Features(Model):
    """What a part makes of pictures, as it is."""

    type: Literal["Features"] = "Features"
    of: Taken
    """The part."""
    after: Name | None = None
    """The stage whose weights it looks with; None: the last one."""
    batch: CountRange
    """Pictures at once."""
    resize: Resizing | None = None
    """The resize of still pictures, in place of that of their inputs."""
    quantize: Quantized = ()
    """Linear layers that are kept in 8 or 4 bits."""
    target: Annotated[Eager | Inductor | Aot | TensorRt, Calls()] = Eager()


AnyMode = Mode | Retrieval | Features

MODES: Mapping[str, type[AnyMode]] = {"Chat": Mode, "Retrieval": Retrieval, "Features": Features}

"""What a recipe may say of the numbers that its parts compute with."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from .kinds import CallModel, Selected
from .reading import Calls, Measure, OneOrMore, Problem, WordOr, complain

Word = Literal["bf16", "f16", "f32"]


class Bf16(CallModel):
    """Computes a part in bfloat16."""

    call: Literal["bf16"] = "bf16"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Selected


class F16(CallModel):
    """Computes a part in float16."""

    call: Literal["f16"] = "f16"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Selected


class F32(CallModel):
    """Computes a part in float32."""

    call: Literal["f32"] = "f32"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Selected


class Int8(CallModel):
    """Keeps the linear layers that the target selects in 8 bits, with a factor for each output."""

    call: Literal["int8"] = "int8"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Selected


class Int4(CallModel):
    """Keeps the linear layers that the target selects in 4 bits.

    Each output has a factor and a zero for every `group` of its inputs.
    """

    call: Literal["int4"] = "int4"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Selected
    group: Annotated[int, Measure(), Field(ge=16)] = 64
    """Smaller ones would be as large as 8 bits, with their factors."""

    @model_validator(mode="after")
    def _check(self) -> "Int4":
        if self.group % 2:
            complain(
                Problem(
                    "V305",
                    "{it} has groups of an odd size",
                    (("group", f"{self.group} weights"),),
                    "two weights of a group are kept in one byte",
                    f"write `group: {self.group + 1}`",
                )
            )
        return self


Fewer = Int8 | Int4

Quantized = Annotated[tuple[Annotated[Int8 | Int4, Calls()], ...], OneOrMore()]
"""Linear layers that are kept in fewer bits than they compute with."""

InPart = Bf16 | F16 | F32

Precision = Annotated[
    Word | Annotated[tuple[Annotated[Bf16 | F16 | F32, Calls()], ...], Field(min_length=1)],
    WordOr(OneOrMore()),
]
"""One word for the whole model, or what each part computes in."""

TrainedPrecision = Annotated[
    Literal["bf16", "f32"]
    | Annotated[tuple[Annotated[Bf16 | F32, Calls()], ...], Field(min_length=1)],
    WordOr(OneOrMore()),
]
"""The same for training."""

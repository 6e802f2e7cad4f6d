"""What every block and call of a recipe is made of: the base models, and the kinds of values.

A setting's unit stands in its type (`Px`, `Tok`, `Steps`), and the model holds a plain number in
that unit.
"""

from typing import Annotated, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from .limits import MOST_LAYERS
from .reading import Measure, Named, Plain, Ranged


class Model(BaseModel):
    """What every block and call has: frozen, and closed to settings it does not know."""

    # A recipe uses a third of all models: each is made ready when it is first asked for.
    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        populate_by_name=True,
        arbitrary_types_allowed=True,
        defer_build=True,
    )


class PartModel(Model):
    """A part of the model; `outputs` are what others may take beside the whole: `vit.patches`.

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


Count = Annotated[int, Measure(), Field(gt=0)]
Depth = Annotated[int, Measure(), Field(gt=0, le=MOST_LAYERS)]
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
        if not parameter.startswith(self.parts[0].name):
            return False  # as most are, of other parts
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

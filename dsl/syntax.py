"""The syntax tree: what was written, and where; nothing here is checked or resolved yet."""

from collections.abc import Iterator
from dataclasses import dataclass, replace

from .source import Source, Span
from .units import Quantity

# Values ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Number:
    """`28px`, `1e-6`, `600Gtok`."""

    quantity: Quantity
    span: Span


@dataclass(frozen=True, slots=True)
class Text:
    """A string; `value` has its escapes resolved."""

    value: str
    span: Span


@dataclass(frozen=True, slots=True)
class Truth:
    """`true` or `false`."""

    value: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Grid:
    """`2x2`: whole numbers joined by x."""

    sides: tuple[int, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Step:
    """One name of a path, with the indices behind it: `blocks`, `blocks[2]`, `blocks[24..31]`."""

    name: str
    span: Span
    first: int | None = None
    last: int | None = None

    def __str__(self) -> str:
        if self.first is None:
            return self.name
        if self.first == self.last:
            return f"{self.name}[{self.first}]"
        return f"{self.name}[{self.first}..{self.last}]"


@dataclass(frozen=True, slots=True)
class Path:
    """Names joined by dots: a choice (`silu`), a part (`vit`), a value (`lm.width`), a selector."""

    steps: tuple[Step, ...]
    span: Span

    def __str__(self) -> str:
        return ".".join(str(step) for step in self.steps)


@dataclass(frozen=True, slots=True)
class Argument:
    """A value handed to a call, with its name if it has one."""

    name: str | None
    value: "Value"
    name_span: Span | None
    span: Span


@dataclass(frozen=True, slots=True)
class Call:
    """`native(multiple: 28px)`, `assumed(600Gtok)`, `chatml.worst(images: 1)`."""

    target: Path
    arguments: tuple[Argument, ...]
    span: Span

    @property
    def name(self) -> str:
        """What is called."""
        return str(self.target)


@dataclass(frozen=True, slots=True)
class Range:
    """`..200`, `4tok..16384tok`, `4..768 by 2`."""

    low: "Value | None"
    high: "Value"
    step: "Value | None"
    span: Span


@dataclass(frozen=True, slots=True)
class Items:
    """`[image, video]`."""

    items: tuple["Value", ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Negative:
    """`-x`."""

    operand: "Value"
    span: Span


@dataclass(frozen=True, slots=True)
class Binary:
    """Two values joined by `+`, `-`, `*` or `/`."""

    operator: str
    left: "Value"
    right: "Value"
    span: Span


Value = Number | Text | Truth | Grid | Path | Call | Range | Items | Negative | Binary


def inside(value: Value) -> tuple[Value, ...]:
    """The values directly inside a value."""
    match value:
        case Call():
            return tuple(argument.value for argument in value.arguments)
        case Range():
            return tuple(end for end in (value.low, value.high, value.step) if end is not None)
        case Items():
            return value.items
        case Negative():
            return (value.operand,)
        case Binary():
            return (value.left, value.right)
    return ()


def walk(value: Value) -> Iterator[Value]:
    """The value and all values inside it."""
    yield value
    for part in inside(value):
        yield from walk(part)


_BINDING = {"+": 1, "-": 1, "*": 2, "/": 2}


def written(value: Value, binding: int = 0) -> str:
    """The canonical text of a value, on one line; in parentheses if what is around binds tighter.

    >>> place = Span(Source("", "a"), 0, 1)
    >>> a = Path((Step("a", place),), place)
    >>> written(Binary("*", Binary("+", a, a, place), a, place))
    '(a + a) * a'
    """
    match value:
        case Path():
            return str(value)
        case Items():
            return f"[{', '.join(written(item) for item in value.items)}]"
        case Call():
            return f"{value.name}({', '.join(map(_argument, value.arguments))})"
        case Range():
            low = "" if value.low is None else written(value.low)
            step = "" if value.step is None else f" by {written(value.step)}"
            return f"{low}..{written(value.high)}{step}"
        case Negative():
            return f"-{written(value.operand, 3)}"
        case Binary():
            own = _BINDING[value.operator]
            # What stands to the right of an operator must bind more tightly: a - (b - c).
            text = f"{written(value.left, own)} {value.operator} {written(value.right, own + 1)}"
            return f"({text})" if own < binding else text
    return value.span.text


def _argument(argument: Argument) -> str:
    value = written(argument.value)
    return f"{argument.name}: {value}" if argument.name else value


# Layout items ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Word:
    """A name alone in a layout rule: a special token or a parameter."""

    name: str
    span: Span


@dataclass(frozen=True, slots=True)
class Repeat:
    """`image_pad * x.tokens`."""

    name: str
    name_span: Span
    parameter: str
    field: str
    count_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Field:
    """`x.index`."""

    parameter: str
    field: str
    span: Span


@dataclass(frozen=True, slots=True)
class Use:
    """`image(x)`: another rule of the layout."""

    rule: str
    arguments: tuple[Word, ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Loss:
    """`loss(b im_end)`: what is supervised."""

    items: tuple["Item", ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Apart:
    """`apart(b "###")`: what is tokenised on its own."""

    items: tuple["Item", ...]
    span: Span


@dataclass(frozen=True, slots=True)
class Choice:
    """`choice("Describe it.", "What is it?")`: one of several lines."""

    lines: tuple[tuple["Item", ...], ...]
    span: Span


Item = Text | Word | Repeat | Field | Use | Loss | Apart | Choice


def inner(item: Item) -> tuple[Item, ...]:
    """The items directly inside an item."""
    match item:
        case Loss() | Apart():
            return item.items
        case Choice():
            return tuple(one for line in item.lines for one in line)
    return ()


# Statements --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Setting:
    """`name = value`."""

    name: str
    value: Value
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Special:
    """`special im_end = "<|im_end|>" @ 151645`."""

    name: str
    text: Text
    id: Value
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Map:
    """`map "visual.blocks.*" -> "vit.blocks.*"`, `map "proj" -> transposed("resampler.proj")`."""

    source: Text
    target: Text | Call
    span: Span


@dataclass(frozen=True, slots=True)
class Fresh:
    """`fresh "merger.*" : normal(0.02)`; without a call, each tensor starts as its part says."""

    pattern: Text
    init: Call | None
    span: Span


@dataclass(frozen=True, slots=True)
class Ignore:
    """`ignore "*.inv_freq" : "a buffer"`."""

    pattern: Text
    reason: Text
    span: Span


@dataclass(frozen=True, slots=True)
class Rule:
    """`user(b) -> im_start "user\\n" b im_end "\\n"`."""

    name: str
    parameters: tuple[Word, ...]
    items: tuple[Item, ...]
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Drop:
    """`drop stage vision`, `drop special quad_end`, `drop map "lm_head.*"`, `drop clip`."""

    kind: str
    name: str
    kind_span: Span
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Comparison:
    """`left <= right`, as an assert states it; operators: `==` `!=` `<` `<=` `>` `>=`."""

    operator: str
    left: Value
    right: Value
    span: Span

    def __str__(self) -> str:
        return f"{written(self.left)} {self.operator} {written(self.right)}"


@dataclass(frozen=True, slots=True)
class Assert:
    """`assert chatml.worst(images: 1) <= lm.context`."""

    comparison: Comparison
    span: Span


@dataclass(frozen=True, slots=True)
class DropAssert:
    """`drop assert chatml.worst(images: 1) <= lm.context`."""

    comparison: Comparison
    span: Span


@dataclass(frozen=True, slots=True)
class Verbed:
    """A statement of a variant's block under its verb: `add special ...`, `replace`, `amend`."""

    verb: str
    statement: "Statement"
    verb_span: Span
    span: Span


Statement = Setting | Special | Map | Fresh | Ignore | Rule | Drop | Verbed


@dataclass(frozen=True, slots=True)
class Block:
    """`encoder vit : ViT { ... }`; a block without a name (`tokens`) is named by its kind.

    `header` is the span from the kind to the type; `verb` is how a variant treats the block.
    """

    verb: str | None
    kind: str
    name: str
    type: str | None
    body: tuple[Statement, ...]
    verb_span: Span | None
    kind_span: Span
    name_span: Span
    type_span: Span | None
    header: Span
    span: Span


def under_verb(block: Block, verb: str, verb_span: Span, span: Span) -> Block:
    """The block as a variant treats it; `span` begins at the verb."""
    return replace(block, verb=verb, verb_span=verb_span, span=span)


@dataclass(frozen=True, slots=True)
class Base:
    """What a recipe extends or imports from: a recipe's name, or a file."""

    name: str
    is_file: bool
    span: Span


@dataclass(frozen=True, slots=True)
class Imported:
    """One block of an import: its name in the other recipe, and its name in this one."""

    there: str
    here: str
    there_span: Span
    here_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Import:
    """`import vit as tower, merger from qwen2_vl_7b`."""

    blocks: tuple[Imported, ...]
    base: Base
    span: Span


@dataclass(frozen=True, slots=True)
class RecipeNode:
    """`recipe qwen2_vl_2b extends qwen2_vl_7b { ... }`."""

    name: str
    base: Base | None
    body: tuple[Block | Setting | Import | Drop | Assert | DropAssert, ...]
    name_span: Span
    span: Span


@dataclass(frozen=True, slots=True)
class Comment:
    """`# ...` to the end of its line."""

    text: str
    span: Span


@dataclass(frozen=True, slots=True)
class File:
    """One source: its recipes, and its comments in the order of the text."""

    recipes: tuple[RecipeNode, ...]
    comments: tuple[Comment, ...]
    source: Source

"""What a recipe may say of text: the tokenizer, the special tokens, and the layouts."""

from collections.abc import Iterable, Iterator
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .kinds import CallModel, Count, Flag, Model, Name, Quoted, Range, Whole
from .reading import Calls, Choice, OneOrMore, Ranged, TextsOrNames


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


class SpecialToken(Model):
    """A token that text can never spell: what it is written as, and its row of the vocabulary."""

    text: str = Field(min_length=1)
    id: Whole


class Tokens(Model):
    """The tokenizer, and the special tokens by the names that layouts use."""

    tokenizer: Tokenizer
    specials: dict[str, SpecialToken] = Field(default_factory=dict)
    pad: Name
    """The special token that fills up a batch."""
    new: Annotated[tuple[Name, ...], OneOrMore()] = ()
    """The special tokens that the weights which training starts from do not know."""


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

"""A recipe with its bases laid under it: blocks of entries, each with the recipe that wrote it."""

from dataclasses import dataclass, field
from typing import Literal

from . import syntax
from .source import Span

EntryKind = Literal["setting", "special", "map", "fresh", "ignore", "rule"]
Key = tuple[EntryKind, str]
Stated = syntax.Setting | syntax.Special | syntax.Map | syntax.Fresh | syntax.Ignore | syntax.Rule

SINGLE_BLOCKS = ("tokens", "lm", "weights")
"""Blocks of which a recipe has one, named by their kind."""
NAMED_BLOCKS = ("input", "encoder", "adapter", "layout", "objective", "stage", "mode")
TYPED_BLOCKS = ("encoder", "adapter", "lm", "objective", "mode")
DEFAULT_TYPES = {"mode": "Chat"}
"""What a block is that does not say its type."""
ENTRY_HOMES: dict[EntryKind, str] = {
    "special": "tokens",
    "map": "weights",
    "fresh": "weights",
    "ignore": "weights",
    "rule": "layout",
}
"""Statements other than settings, and the kind of block that takes them."""
WEIGHT_STATEMENTS: dict[str, EntryKind] = {"rules": "map", "fresh": "fresh", "ignored": "ignore"}
"""The lists of a `weights` block, and the statements that fill them."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One statement of a block as it stands after all layers."""

    statement: Stated
    recipe: str
    inherited: bool
    amended: bool = False
    replaced: "Entry | None" = None
    imported: bool = False


@dataclass(slots=True)
class Part:
    """One block after all layers so far; `header` is where it was declared."""

    kind: str
    name: str
    type: str | None
    header: Span
    type_span: Span | None
    recipe: str
    entries: dict[Key, Entry] = field(default_factory=dict)
    former: dict[Key, Entry] = field(default_factory=dict)
    """What the block said that this one replaces."""
    imported: Span | None = None
    """Where an import names it; None when it was declared in this recipe or a base."""

    @property
    def stated(self) -> Span:
        """Where the recipe says that it has the block."""
        return self.imported or self.header

    def setting(self, name: str) -> Entry | None:
        """The entry of a setting; None when it is not written."""
        return self.entries.get(("setting", name))

    def of_kind(self, kind: EntryKind) -> list[Entry]:
        """The entries of one kind, in the order of the text."""
        return [entry for (its_kind, _), entry in self.entries.items() if its_kind == kind]


@dataclass(slots=True)
class Whole:
    """A recipe with its bases laid under it."""

    name: str
    name_span: Span
    settings: dict[str, Entry] = field(default_factory=dict)
    parts: dict[str, Part] = field(default_factory=dict)
    asserts: dict[str, syntax.Assert] = field(default_factory=dict)
    dropped: dict[str, Span] = field(default_factory=dict)


def key_of(statement: Stated) -> Key:
    """What tells a statement from the others of its block."""
    match statement:
        case syntax.Setting():
            return "setting", statement.name
        case syntax.Special():
            return "special", statement.name
        case syntax.Map():
            return "map", statement.source.value
        case syntax.Fresh():
            return "fresh", statement.pattern.value
        case syntax.Ignore():
            return "ignore", statement.pattern.value
        case syntax.Rule():
            return "rule", statement.name


def name_span(statement: Stated) -> Span:
    """Where the name of a statement stands."""
    match statement:
        case syntax.Map():
            return statement.source.span
        case syntax.Fresh() | syntax.Ignore():
            return statement.pattern.span
        case _:
            return statement.name_span


def article(kind: str) -> str:
    """The kind of a block with its article.

    >>> article("encoder"), article("stage"), article("lm")
    ('an encoder', 'a stage', 'the language model')
    """
    if kind == "lm":
        return "the language model"
    if kind in SINGLE_BLOCKS:
        return f"`{kind}`"
    return f"an {kind}" if kind[0] in "aeio" else f"a {kind}"

"""Statements that may be begun, with all that they need and places to fill in."""

from __future__ import annotations

from collections.abc import Iterator

from lsprotocol.types import CompletionItemKind as Kind

from ...dsl.described import description
from ...dsl.evaluate import settings_of
from ...dsl.kinds import Model
from .proposals import Proposal, placeholder
from .slots import field_of, slot_of


def new_block(label: str, header: str, model: type[Model]) -> Proposal:
    """A new block, with a line for each setting that it needs."""
    lines = list[str]()
    for name in settings_of(model):
        slot = slot_of(model, name)
        if slot and field_of(slot).is_required():
            lines.append(f"  {name} = {placeholder(slot, len(lines) + 2)}")
    body = "\n".join([*lines, "  $0"])
    return Proposal(
        label, Kind.Struct, "a block", description(model), f"{header} {{\n{body}\n}}", rank=4
    )


def entries(kind: str) -> Iterator[Proposal]:
    """The statements of a block that are no settings."""
    if kind == "tokens":
        shown = 'special ${1:name} = "${2:<|text|>}" @ ${3:id}'
        yield Proposal("special", Kind.Keyword, "a special token", snippet=shown)
    if kind == "weights":
        shown = 'map "${1:published}" -> "${2:ours}"'
        yield Proposal("map", Kind.Keyword, "a published name to ours", snippet=shown)
        shown = 'fresh "${1:ours}"'
        yield Proposal("fresh", Kind.Keyword, "what nobody published", snippet=shown)
        shown = 'ignore "${1:published}" : "${2:why}"'
        yield Proposal("ignore", Kind.Keyword, "what has no place", snippet=shown)

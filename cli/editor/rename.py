"""Another name for a thing, written at every place that speaks of it."""

from __future__ import annotations

import re
from collections.abc import Sequence

from ...dsl.diagnostics import Edit, listing
from ...dsl.layouts import CONTENT_RULES
from ...dsl.reserved import reserved
from ...dsl.whole import SINGLE_BLOCKS
from .desk import Desk, Reading, path_of, ships
from .navigate import identity, uses
from .symbols import Mention

_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_FIXED = {
    "setting": "settings are named by the language",
    "recipe": "a recipe is asked for by its name from outside; change it by hand",
}


class CannotRename(Exception):  # noqa: N818 - it says why, to the user of an editor
    """Why a name must stay."""


def renamable(desk: Desk, reading: Reading, offset: int) -> Mention:
    """The mention at an offset, whose thing may have another name; raises `CannotRename`."""
    mention = reading.mention_at(offset)
    if mention is None:
        raise CannotRename("there is no name here that a recipe has given")
    kind, name = mention.key[0], mention.key[-1]
    if kind in _FIXED:
        raise CannotRename(_FIXED[kind])
    if kind == "part":
        declared_as = reading.scope_at(offset).kinds.get(name, "")
        if name in SINGLE_BLOCKS or declared_as == "input":
            raise CannotRename(f"`{name}` is named by its kind")
    if kind == "rule" and name in CONTENT_RULES:
        raise CannotRename(f"data and dialogues ask for the rule `{name}` by this name")
    home = path_of(mention.declared.first.source)
    if not desk.is_editable(home):
        where = "ships with triptych" if ships(home) else "is not in the open folder"
        raise CannotRename(f"`{name}` is declared in {home.name}, which {where}")
    return mention


def rename(desk: Desk, reading: Reading, offset: int, name: str) -> list[Edit]:
    """The edits, in all files, that give the thing at an offset another name.

    Raises `CannotRename` where that would change what any text means.
    """
    mention = renamable(desk, reading, offset)
    old, kind = mention.key[-1], mention.key[0]
    if not _NAME.fullmatch(name):
        raise CannotRename(f"`{name}` is no name: letters, digits and `_`, no digit first")
    if name == old:
        return []
    found = list(uses(desk, mention))
    broken = {path_of(one.source).name for one, _ in found if not one.is_whole}
    if broken:
        raise CannotRename(f"{listing(sorted(broken))} cannot be read whole; mend it first")
    kept = [one.path for one, _ in found if not desk.is_editable(one.path)]
    if kept:
        raise CannotRename(f"{kept[0].name} speaks of `{old}` and is not in the open folder")
    block_kind = reading.scope_at(offset).kinds.get(old, "") if kind == "part" else ""
    wrong = reserved(block_kind, name, mention.span) if block_kind else None
    if wrong or (kind == "part" and name in SINGLE_BLOCKS):
        raise CannotRename(wrong.title if wrong else f"`{name}` is the name of a block")
    edits = [Edit(use.span, name) for _, use in found]
    _refuse_clash(desk, found, edits, name)
    return edits


def _refuse_clash(
    desk: Desk, found: Sequence[tuple[Reading, Mention]], edits: Sequence[Edit], name: str
) -> None:
    """Read the texts as they would be: each use must speak of the same thing, and no other."""
    after = Desk()
    after.folders = desk.folders
    after.unsaved = dict(desk.unsaved)
    readings = {reading.path: reading for reading, _ in found}
    for path, reading in readings.items():
        after.put(
            path,
            applied(reading.source.text, [e for e in edits if e.span.source == reading.source]),
        )
    for path, reading in readings.items():
        starts = _starts([use for one, use in found if one.path == path], name)
        now = after.reading(path)
        renamed = [
            one for one in now.mentions if one.span.start in starts and one.span.text == name
        ]
        if len(renamed) < len(starts):
            raise CannotRename(f"`{name}` means something else in {path.name}")
        same = {identity(one) for one in renamed}
        others = [one for one in now.mentions if identity(one) in same]
        if len(others) != len(renamed) or len(now.mentions) != len(reading.mentions):
            raise CannotRename(f"`{name}` is taken in {path.name}")


def _starts(mentions: Sequence[Mention], name: str) -> set[int]:
    """Where the uses stand once all of them have their new name."""
    spans = sorted({(use.span.start, use.span.end) for use in mentions})
    starts, moved = set[int](), 0
    for start, end in spans:
        starts.add(start + moved)
        moved += len(name) - (end - start)
    return starts


def applied(text: str, edits: Sequence[Edit]) -> str:
    """A text after edits that do not touch one another."""
    for edit in sorted(set(edits), key=lambda one: one.span.start, reverse=True):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text

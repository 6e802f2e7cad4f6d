"""Where things stand, as an editor counts: lines from 0, columns in the units of its encoding."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from lsprotocol import types

from ...dsl.source import Source, Span
from .desk import path_of


def _utf16(text: str) -> int:
    return len(text) + sum(letter > "\uffff" for letter in text)


UNITS: Mapping[str, Callable[[str], int]] = {
    types.PositionEncodingKind.Utf8.value: lambda text: len(text.encode(errors="surrogatepass")),
    types.PositionEncodingKind.Utf16.value: _utf16,
    types.PositionEncodingKind.Utf32.value: len,
}
"""From an encoding to how many of its units a text takes."""


class Positions:
    """Offsets of a source to positions of an editor, and back; files by the names it gave them.

    >>> places, source = Positions("utf-16"), Source("a.vlm", "one\\n😀 two")
    >>> places.position(source, 6)
    1:3
    >>> places.offset(source, types.Position(1, 3))
    6
    """

    def __init__(self, encoding: str = types.PositionEncodingKind.Utf16.value) -> None:
        self._units = UNITS[encoding]
        self.uris: dict[Path, str] = {}
        """How the editor spells the address of a file that it has opened."""

    def uri(self, path: Path) -> str:
        """The address of a file."""
        return self.uris.get(path) or path.as_uri()

    def units(self, text: str) -> int:
        """How long an editor takes a text to be."""
        return self._units(text)

    def position(self, source: Source, offset: int) -> types.Position:
        """Where an offset stands."""
        place = source.place(offset)
        before = source.line(place.line)[: place.column - 1]
        return types.Position(place.line - 1, self._units(before))

    def range(self, span: Span) -> types.Range:
        """From where to where a span goes."""
        start, end = span.start, span.end
        return types.Range(self.position(span.source, start), self.position(span.source, end))

    def location(self, span: Span) -> types.Location:
        """The file of a span, and where it stands there."""
        return types.Location(self.uri(path_of(span.source)), self.range(span))

    def offset(self, source: Source, position: types.Position) -> int:
        """The offset of a position; one past the end of its line stands at that end."""
        start = source.start_of(position.line + 1)
        if start is None:
            return len(source.text)
        passed = 0
        for column, letter in enumerate(line := source.line(position.line + 1)):
            passed += self._units(letter)
            if passed > position.character:
                return start + column
        return start + len(line)

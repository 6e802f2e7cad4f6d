"""The text of one recipe, and spans that point into it."""

from bisect import bisect_right
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

LAID_OVER = "--set"
"""The name of the text of settings that are laid over a recipe."""


class Place(NamedTuple):
    """A line and a column, both counted from 1, as editors do."""

    line: int
    column: int


@dataclass(frozen=True)
class Source:
    """A named text: a file, a shipped recipe, or what `--set` added.

    Two sources are equal when their names and texts are.

    >>> source = Source("a.vlm", "one\\ntwo\\n")
    >>> source.place(4)
    Place(line=2, column=1)
    >>> source.line(2)
    'two'
    """

    name: str
    text: str

    @cached_property
    def _starts(self) -> tuple[int, ...]:
        starts = [0]
        starts += [offset + 1 for offset, letter in enumerate(self.text) if letter == "\n"]
        return tuple(starts)

    def place(self, offset: int) -> Place:
        """The line and column of an offset; an offset past the end stands at the end."""
        offset = max(0, min(offset, len(self.text)))
        line = bisect_right(self._starts, offset)
        return Place(line, offset - self._starts[line - 1] + 1)

    def line(self, number: int) -> str:
        """The text of a line, counted from 1, without its line end."""
        start = self._starts[number - 1]
        end = self._starts[number] - 1 if number < len(self._starts) else len(self.text)
        return self.text[start:end].rstrip("\r")

    def start_of(self, number: int) -> int | None:
        """The offset at which a line begins, counted from 1; None where there is no such line."""
        return self._starts[number - 1] if 0 < number <= len(self._starts) else None

    def span(self, start: int, end: int) -> "Span":
        """The characters from `start` up to, not including, `end`."""
        return Span(self, start, end)


@dataclass(frozen=True)
class Span:
    """A piece of a source, by offsets: what a message or an editor points at.

    >>> Span(Source("a.vlm", "one\\ntwo\\n"), 4, 7)
    Span(a.vlm:2:1 'two')
    """

    source: Source
    start: int
    end: int

    @property
    def place(self) -> Place:
        """Where the span begins."""
        return self.source.place(self.start)

    @property
    def text(self) -> str:
        """What was written there."""
        return self.source.text[self.start : self.end]

    def to(self, other: "Span") -> "Span":
        """From the start of this span to the end of another one of the same source."""
        return Span(self.source, self.start, other.end)

    def __str__(self) -> str:
        return f"{self.source.name}:{self.place.line}:{self.place.column}"

    def __repr__(self) -> str:
        return f"Span({self} {self.text[:40]!r})"

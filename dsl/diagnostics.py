"""What is wrong with a recipe, said to its author."""

import difflib
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from .codes import CODES
from .limits import MOST_FINDINGS
from .source import LAID_OVER, Source, Span


@dataclass(frozen=True, slots=True)
class Label:
    """What is to be seen at one place; the primary label is where the mistake stands."""

    span: Span
    text: str = ""
    primary: bool = True


@dataclass(frozen=True, slots=True)
class Edit:
    """Replaces what a span covers."""

    span: Span
    text: str


@dataclass(frozen=True, slots=True)
class Fix:
    """How to mend it: a sentence, and the edits that do it if a machine can.

    A fix is safe when it cannot change the meaning of what was right.
    """

    text: str
    edits: tuple[Edit, ...] = ()
    safe: bool = True


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One mistake: a lasting code, what it is, where, why it is one, and how to mend it.

    `labels` holds at least one primary label, unless the mistake has no place (a file that is not
    there); secondary labels point at the other party, in this file or another. A warning speaks of
    what a recipe may do but should know.
    """

    code: str
    title: str
    labels: tuple[Label, ...] = ()
    reason: str = ""
    fix: Fix | None = None
    severity: Literal["error", "warning"] = "error"

    def __post_init__(self) -> None:
        assert self.code in CODES, f"unknown code {self.code}"

    @property
    def primary(self) -> Label | None:
        """The label where the mistake stands; None when it has no place."""
        return next((label for label in self.labels if label.primary), None)


class RecipeError(Exception):
    """A recipe is wrong; carries every mistake that was found in one run."""

    def __init__(self, diagnostics: Iterable[Diagnostic]) -> None:
        self.diagnostics = tuple(diagnostics)
        assert self.diagnostics, "an error needs at least one diagnostic"
        super().__init__(render(self.diagnostics))

    def render(self, colour: bool = False) -> str:
        """Every mistake as text for a person, ending with a line end."""
        return render(self.diagnostics, ansi if colour else plain) + "\n"


class Findings:
    """Gathers mistakes, so that one run reports all of them; each is kept once.

    After the first hundred there is nothing more to learn: the run ends there. `home` is the text
    of the recipe that is read: a mistake is its author's, so what it says there is shown first.
    """

    def __init__(self, home: Source | None = None) -> None:
        self.home = home
        self._found: dict[Diagnostic, None] = {}

    def add(self, diagnostic: Diagnostic) -> None:
        """Keep a mistake; raises `RecipeError` when there are enough of them."""
        if len(self._found) < MOST_FINDINGS:
            self._found.setdefault(self._led(diagnostic))
        else:
            self.raise_if_any()

    def _led(self, diagnostic: Diagnostic) -> Diagnostic:
        """The same, its primary label being one in the author's own text where there is one."""
        own = [label for label in diagnostic.labels if is_own(label.span, self.home)]
        if not own or diagnostic.primary in own:
            return diagnostic
        labels = tuple(replace(label, primary=label is own[0]) for label in diagnostic.labels)
        return replace(diagnostic, labels=labels)

    def __bool__(self) -> bool:
        return bool(self._found)

    @property
    def in_order(self) -> tuple[Diagnostic, ...]:
        """All that was found, in the order of the text: the author's own first, then its bases'."""
        return tuple(sorted(self._found, key=self._order))

    def _order(self, diagnostic: Diagnostic) -> tuple[bool, str, int]:
        label = diagnostic.primary
        if label is None:
            return (False, "", 0)
        return (not is_own(label.span, self.home), label.span.source.name, label.span.start)

    def raise_if_any(self) -> None:
        """Raise every error, in the order of the text; warnings wait until there are none."""
        errors = [diagnostic for diagnostic in self.in_order if diagnostic.severity == "error"]
        if errors:
            raise RecipeError(errors)


def is_own(span: Span, home: Source | None) -> bool:
    """Whether a span stands in the text of the recipe that is read, or in what is laid over it."""
    return span.source == home or span.source.name == LAID_OVER


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be; None when none is near.

    >>> nearest("widht", ["depth", "width", "heads"])
    'width'
    >>> nearest("colour", ["depth", "width"]) is None
    True
    """
    found = difflib.get_close_matches(name, list(known), n=1, cutoff=0.6)
    return found[0] if found else None


def listing(names: Iterable[str], limit: int = 12, last: str = "and") -> str:
    """Names for a sentence: `a`, `b` and `c`; a long list is cut.

    >>> listing(["a", "b", "c"])
    '`a`, `b` and `c`'
    """
    quoted = [f"`{name}`" for name in names]
    if len(quoted) > limit:
        quoted = [*quoted[:limit], f"{len(quoted) - limit} more"]
    if len(quoted) < 2:
        return "".join(quoted)
    return f"{', '.join(quoted[:-1])} {last} {quoted[-1]}"


def rename(span: Span, name: str) -> Fix:
    """The fix for a typo: write the known name in its place."""
    return Fix(f"write `{name}`", (Edit(span, name),))


Painter = Callable[[str, str], str]
"""Colours a piece of a message: (text, role) -> text; roles: error, code, primary, secondary,
gutter, fix, title, warning."""


_COLOURS = {
    "error": "1;31",
    "warning": "1;33",
    "title": "1",
    "primary": "31",
    "secondary": "34",
    "gutter": "2",
    "fix": "1;32",
}


def plain(text: str, role: str) -> str:
    """No colour."""
    return text


def ansi(text: str, role: str) -> str:
    """The colours of a terminal."""
    return f"\x1b[{_COLOURS[role]}m{text}\x1b[0m"


def render(diagnostics: Sequence[Diagnostic], paint: Painter = plain) -> str:
    """The messages as text, a blank line between any two, and at the end where to read more."""
    more = paint(read_more(diagnostics), "gutter")
    return "\n\n".join([*(message(diagnostic, paint) for diagnostic in diagnostics), more])


def read_more(diagnostics: Iterable[Diagnostic]) -> str:
    """The command that says more of all codes that were found."""
    codes = dict.fromkeys(diagnostic.code for diagnostic in diagnostics)
    return f"more: triptych explain {' '.join(codes)}"


def message(diagnostic: Diagnostic, paint: Painter = plain) -> str:
    """One message as text, without a line end."""
    code = paint(f"{diagnostic.severity}[{diagnostic.code}]", diagnostic.severity)
    lines = [f"{code}: {paint(diagnostic.title, 'title')}"]
    lines += _excerpts(diagnostic, paint)
    if diagnostic.reason:
        lines.append(f"  {diagnostic.reason}")
    if diagnostic.fix:
        kind = "fix" if diagnostic.fix.safe else "fix (unsafe)"
        lines.append(f"  {paint(kind, 'fix')}: {diagnostic.fix.text}")
    return "\n".join(lines)


def _excerpts(diagnostic: Diagnostic, paint: Painter) -> list[str]:
    """The labelled lines, grouped by source: that of the primary label first."""
    if not diagnostic.labels:
        return []
    groups: dict[Source, list[Label]] = {}
    for label in sorted(diagnostic.labels, key=lambda label: not label.primary):
        groups.setdefault(label.span.source, []).append(label)
    width = max(len(str(label.span.place.line)) for labels in groups.values() for label in labels)
    lines: list[str] = []
    for labels in groups.values():
        arrow = "-->" if not lines else ":::"
        lines.append(f"{' ' * width}{paint(arrow, 'gutter')} {labels[0].span}")
        lines += _excerpt(labels, width, paint)
    return lines


def _excerpt(labels: list[Label], width: int, paint: Painter) -> list[str]:
    by_line: dict[int, list[Label]] = {}
    for label in sorted(labels, key=lambda label: label.span.start):
        by_line.setdefault(label.span.place.line, []).append(label)
    lines = []
    bar = paint(f"{'':>{width}} |", "gutter")
    for number, group in by_line.items():
        line = group[0].span.source.line(number)
        shown = [group] if len(line) <= _LONGEST_LINE else [[label] for label in group]
        for together in shown:
            text, cut = _window(line, together[0].span)
            lines.append(f"{paint(f'{number:>{width}} |', 'gutter')} {_visible(text)}".rstrip())
            lines += [f"{bar} {_underline(label, text, cut, paint)}" for label in together]
    return lines


_LONGEST_LINE = 160


def _window(line: str, span: Span) -> tuple[str, int]:
    """The part of a line that is shown, and how many of its letters were cut from the start."""
    if len(line) <= _LONGEST_LINE:
        return line, 0
    column = span.place.column - 1
    start = max(0, min(column - _LONGEST_LINE // 3, len(line) - _LONGEST_LINE))
    end = start + _LONGEST_LINE
    before, after = "…" if start else "", "…" if end < len(line) else ""
    return f"{before}{line[start:end]}{after}", start - len(before)


def _underline(label: Label, line: str, cut: int, paint: Painter) -> str:
    """The carets below a span; a span over several lines is underlined to the end of its first."""
    column = label.span.place.column - 1 - cut
    length = max(1, min(label.span.end - label.span.start, len(line) - column))
    mark = ("^" if label.primary else "-") * _columns(line[column : column + length], length)
    text = f"{mark} {label.text}" if label.text else mark
    role = "primary" if label.primary else "secondary"
    return " " * _columns(line[:column], column) + paint(text, role)


_TAB = "    "


def _visible(text: str) -> str:
    """A line as it is shown: tabs as spaces, other control characters as a dot."""
    shown = text.replace("\t", _TAB)
    return "".join(letter if letter.isprintable() else "·" for letter in shown)


def _columns(text: str, at_least: int) -> int:
    """How many columns a terminal gives the text: East Asian wide letters take two."""
    from unicodedata import east_asian_width

    shown = _visible(text)
    return max(at_least, sum(2 if east_asian_width(letter) in "WF" else 1 for letter in shown))

"""What `check --fix` does: mend files, look again, and show each change before it is written."""

from __future__ import annotations

import difflib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import click

from ..dsl.diagnostics import Diagnostic
from ..dsl.files import read_text, shipped_recipes, write_text
from ..dsl.fixing import mended
from ..dsl.source import Source
from .colour import wants_colour

ROUNDS = 10
"""How often the files are looked at again; a fix may bring to light what another one mends."""


@dataclass
class Mending:
    """The files that fixes change: what stands on disk, and what would stand there."""

    before: dict[Path, str] = field(default_factory=dict)
    after: dict[Path, str] = field(default_factory=dict)
    names: dict[Path, str] = field(default_factory=dict)
    kept: dict[str, None] = field(default_factory=dict)
    """The shipped recipes that have a fix which is not made."""

    def diff(self) -> Iterator[str]:
        """What changes, as a unified diff, line by line."""
        for path, name in self.names.items():
            yield from unified(self.before[path], self.after[path], name)

    def write(self) -> None:
        """Write each file whole or not at all, with the line ends that it has."""
        for path in self.names:
            ends = "\r\n" if b"\r\n" in path.read_bytes() else "\n"
            write_text(path, self.after[path], ends)


def mend(look: Callable[[Mapping[Path, str]], Sequence[Diagnostic]], unsafe: bool) -> Mending:
    """Lay fixes over files until no more are found.

    `look` finds what is wrong, with texts in place of those on disk.
    """
    mending = Mending()
    found = look(mending.after)
    for _ in range(ROUNDS):
        changed = False
        for source, text in mended(found, unsafe).items():
            changed |= _take(mending, source, text)
        if not changed:
            break
        found = look(mending.after)
    return mending


def _take(mending: Mending, source: Source, text: str) -> bool:
    """Keep the new text of a file; whether the source is one that may be changed."""
    path = Path(source.name).resolve()
    if _ships(source, path):
        mending.kept[source.name] = None
        return False
    if not path.is_file():
        return False  # what the command line sets
    if path not in mending.before:
        mending.before[path] = read_text(path)
        mending.names[path] = source.name
    elif mending.after[path] != source.text:
        return False  # the same file under two names, changed under the other one already
    mending.after[path] = text
    return True


def _ships(source: Source, path: Path) -> bool:
    """Whether a source is a recipe that comes with triptych."""
    shipped = shipped_recipes().get(path.stem)
    if shipped is None:
        return False
    is_named = source.name == f"recipes/{path.name}"
    same = is_named and shipped.read_text(encoding="utf-8-sig") == source.text
    return same or path == Path(str(shipped)).resolve()


def unified(before: str, after: str, name: str) -> Iterator[str]:
    """The lines of a unified diff."""
    lines = difflib.unified_diff(
        before.splitlines(keepends=True), after.splitlines(keepends=True), name, name
    )
    for line in lines:
        yield line if line.endswith("\n") else f"{line}\n\\ No newline at end of file\n"


_COLOURS = {"+": "green", "-": "red", "@": "cyan"}


def echo_diff(lines: Iterator[str], err: bool = False) -> None:
    """Print a diff, coloured on a terminal."""
    colour = wants_colour(sys.stderr if err else sys.stdout)
    for line in lines:
        is_header = line.startswith(("+++", "---"))
        fg, bold = (None, True) if is_header else (_COLOURS.get(line[0]), None)
        shown = click.style(line, fg=fg, bold=bold)
        click.echo(shown, nl=False, err=err, color=colour)

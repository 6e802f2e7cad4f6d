"""Mending texts: the edits that findings propose, laid over the texts that they speak of."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise

from .diagnostics import Diagnostic, Edit, RecipeError
from .parse import parse
from .source import Source


def mended(diagnostics: Iterable[Diagnostic], unsafe: bool = False) -> Mapping[Source, str]:
    """The texts as their safe fixes make them, or all fixes; a text that nothing mends is left out.

    A fix is made whole or not at all, and not where another has been made already: mend, look
    again, and mend what is left. A text that could be read can be read afterwards.
    """
    made: dict[Source, list[Edit]] = {}
    for edits in _fixes(diagnostics, unsafe):
        after = {edit.span.source: list(made.get(edit.span.source, ())) for edit in edits}
        for edit in edits:
            after[edit.span.source].append(edit)
        if not any(map(_overlap, after.values())):
            made |= after
    texts = {source: _edited(source, edits) for source, edits in made.items()}
    return {
        source: text
        for source, text in texts.items()
        if text != source.text and (can_be_read(text) or not can_be_read(source.text))
    }


def can_be_read(text: str) -> bool:
    """Whether a text follows the grammar."""
    try:
        parse(Source("", text))
    except RecipeError:
        return False
    return True


def _fixes(diagnostics: Iterable[Diagnostic], unsafe: bool) -> Iterator[tuple[Edit, ...]]:
    """The edits of each fix, each fix once."""
    fixes = (found.fix for found in diagnostics)
    edits = (fix.edits for fix in fixes if fix and fix.edits and (fix.safe or unsafe))
    yield from dict.fromkeys(edits)


def _in_order(edits: Iterable[Edit]) -> list[Edit]:
    return sorted(edits, key=lambda edit: (edit.span.start, edit.span.end))


def _overlap(edits: Iterable[Edit]) -> bool:
    """Whether two edits touch the same piece, or put something in at the same place."""
    return any(
        after.span.start < before.span.end or after.span.start == before.span.start
        for before, after in pairwise(_in_order(edits))
    )


def _edited(source: Source, edits: Iterable[Edit]) -> str:
    text = source.text
    for edit in reversed(_in_order(edits)):
        text = text[: edit.span.start] + edit.text + text[edit.span.end :]
    return text

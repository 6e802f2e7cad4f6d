"""Mistakes as an editor shows them, and the edits that mend them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from lsprotocol import types

from ...compiler.pipeline import prove
from ...dsl.codes import CODES
from ...dsl.diagnostics import Diagnostic, Edit, Findings, RecipeError
from ...dsl.load import Shelf, finish
from ...dsl.source import Source, Span
from .desk import path_of, strict_tree
from .positions import Positions

ROOT = Path(__file__).resolve().parents[2]
_SEVERITIES = {
    "error": types.DiagnosticSeverity.Error,
    "warning": types.DiagnosticSeverity.Warning,
}


@dataclass(frozen=True)
class Checked:
    """What is wrong with the recipes of one text, and the files that were read to find out."""

    source: Source
    diagnostics: tuple[Diagnostic, ...]
    read: frozenset[Path]

    @property
    def by_file(self) -> dict[Path, list[Diagnostic]]:
        """The mistakes by the file in which they stand; without a place, in this one."""
        found: dict[Path, list[Diagnostic]] = {path_of(self.source): []}
        for diagnostic in self.diagnostics:
            source = diagnostic.primary.span.source if diagnostic.primary else self.source
            found.setdefault(path_of(source), []).append(diagnostic)
        return found


def check(source: Source, folder: Path, unsaved: Mapping[Path, str]) -> Checked:
    """Read a text and prove every recipe in it, as `triptych check` does."""
    shelf = Shelf(unsaved, strict_tree)
    found: dict[Diagnostic, None] = {}
    try:
        nodes = shelf.read(source, folder).recipes
    except RecipeError as error:
        return Checked(source, error.diagnostics, frozenset())
    for node in nodes:
        try:
            diagnostics = prove(finish(node, shelf, (), Findings(source)))
        except RecipeError as error:
            diagnostics = error.diagnostics
        found |= dict.fromkeys(diagnostics)
    return Checked(source, tuple(found), frozenset(map(path_of, shelf.sources)))


def shown(diagnostic: Diagnostic, source: Source, places: Positions) -> types.Diagnostic:
    """A mistake as an editor shows it, in the text of `source`."""
    primary = diagnostic.primary
    span = primary.span if primary else source.span(0, 0)
    message = diagnostic.title
    if primary and primary.text:
        message += f": {primary.text}"
    if diagnostic.reason:
        message += f"\n{diagnostic.reason}"
    if diagnostic.fix:
        message += f"\nfix: {diagnostic.fix.text}"
    related = [
        types.DiagnosticRelatedInformation(
            places.location(label.span),
            label.text or "this",
        )
        for label in diagnostic.labels
        if label is not primary
    ]
    return types.Diagnostic(
        places.range(span),
        message,
        _SEVERITIES[diagnostic.severity],
        diagnostic.code,
        types.CodeDescription(page_of(diagnostic.code)),
        "triptych",
        related_information=related or None,
    )


def page_of(code: str) -> str:
    """Where a code is explained: the published page of a checkout, else the text that ships."""
    assert code in CODES
    published = ROOT / "docs" / "errors" / f"{code}.md"
    ships = ROOT / "dsl" / "explanations" / f"{code}.md"
    return (published if published.exists() else ships).as_uri()


def fixes(checked: Checked, start: int, end: int, places: Positions) -> list[types.CodeAction]:
    """The fixes of the mistakes that a piece of the text touches, those that are safe first."""
    touched = [
        diagnostic
        for diagnostic in checked.diagnostics
        if _is_in(diagnostic, checked.source)
        and diagnostic.primary
        and diagnostic.primary.span.start <= end
        and diagnostic.primary.span.end >= start
    ]
    actions = []
    for diagnostic in sorted(touched, key=lambda one: not (one.fix and one.fix.safe)):
        fix = diagnostic.fix
        if fix is None or not fix.edits:
            continue
        title = fix.text[:1].upper() + fix.text[1:]
        actions.append(
            types.CodeAction(
                title if fix.safe else f"{title} (unsafe: it may change what is meant)",
                types.CodeActionKind.QuickFix,
                [shown(diagnostic, checked.source, places)],
                is_preferred=fix.safe,
                edit=edit_of(fix.edits, places),
            )
        )
    return actions


def fix_all(checked: Checked, places: Positions) -> types.CodeAction | None:
    """All safe fixes of a text in one; None when there is none."""
    edits: list[Edit] = []
    for diagnostic in checked.diagnostics:
        fix = diagnostic.fix
        if fix is None or not fix.safe or not fix.edits:
            continue
        here = all(edit.span.source == checked.source for edit in fix.edits)
        if here and not _overlap(edits, fix.edits):
            edits += fix.edits
    if not edits:
        return None
    count = "the safe fix" if len(edits) == 1 else f"all {len(edits)} safe fixes"
    return types.CodeAction(
        f"Apply {count}",
        types.CodeActionKind.SourceFixAll,
        edit=edit_of(edits, places),
    )


def edit_of(edits: Iterable[Edit], places: Positions) -> types.WorkspaceEdit:
    """Edits of one or several files."""
    changes: dict[str, list[types.TextEdit]] = {}
    for edit in edits:
        uri = places.uri(path_of(edit.span.source))
        changes.setdefault(uri, []).append(types.TextEdit(places.range(edit.span), edit.text))
    return types.WorkspaceEdit(changes)


def _is_in(diagnostic: Diagnostic, source: Source) -> bool:
    return diagnostic.primary is not None and diagnostic.primary.span.source == source


def _overlap(some: Sequence[Edit], others: Sequence[Edit]) -> bool:
    return any(_touch(one.span, other.span) for one in some for other in others)


def _touch(one: Span, other: Span) -> bool:
    return one.start <= other.end and other.start <= one.end

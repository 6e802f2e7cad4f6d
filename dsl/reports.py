"""Findings for programs: plain JSON, and SARIF 2.1.0, the form that code-scanning services read."""

from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any
from urllib.parse import quote

from .codes import CODES
from .diagnostics import Diagnostic, Edit, Fix, Label
from .explain import explanation
from .source import LAID_OVER, Span

SCHEMA = (
    "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
)


def to_json(diagnostic: Diagnostic) -> dict[str, Any]:
    """A finding as plain data; lines and columns count from 1, and ends are not part of a piece."""
    fix = diagnostic.fix
    return {
        "code": diagnostic.code,
        "severity": diagnostic.severity,
        "title": diagnostic.title,
        "reason": diagnostic.reason,
        "labels": [
            _place(label.span) | {"text": label.text, "primary": label.primary}
            for label in diagnostic.labels
        ],
        "fix": fix
        and {
            "text": fix.text,
            "safe": fix.safe,
            "edits": [_place(edit.span) | {"text": edit.text} for edit in fix.edits],
        },
    }


def _place(span: Span) -> dict[str, Any]:
    end = span.source.place(span.end)
    return {
        "file": span.source.name,
        "line": span.place.line,
        "column": span.place.column,
        "end_line": end.line,
        "end_column": end.column,
    }


# SARIF -------------------------------------------------------------------------------------------

_INDEX = {code: number for number, code in enumerate(CODES)}


def sarif(diagnostics: Iterable[Diagnostic]) -> dict[str, Any]:
    """All findings of one run as a SARIF log; every code is a rule, with its page as its help."""
    driver = {
        "name": "triptych",
        "version": version("triptych"),
        "rules": [_rule(code, title) for code, title in CODES.items()],
    }
    run = {
        "tool": {"driver": driver},
        "columnKind": "unicodeCodePoints",
        "results": [_result(diagnostic) for diagnostic in diagnostics],
    }
    return {"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}


def _rule(code: str, title: str) -> dict[str, Any]:
    page = explanation(code)
    path = Path(str(files("triptych.dsl") / "explanations" / f"{code}.md"))
    return {
        "id": code,
        "shortDescription": {"text": title},
        "fullDescription": {"text": _unwrapped(page.what)},
        "help": {"text": "\n\n".join(map(_unwrapped, (page.what, page.why, page.fix)))},
        "helpUri": path.absolute().as_uri(),
    }


def _unwrapped(text: str) -> str:
    """Paragraphs, each on one line."""
    return "\n\n".join(" ".join(paragraph.split()) for paragraph in text.split("\n\n"))


def _result(diagnostic: Diagnostic) -> dict[str, Any]:
    primary = diagnostic.primary
    others = [label for label in diagnostic.labels if label is not primary]
    seen = f": {primary.text}" if primary and primary.text else ""
    said = [f"{diagnostic.title}{seen}", diagnostic.reason]
    fix = diagnostic.fix
    if fix and not fix.edits:
        said.append(f"fix: {fix.text}")
    result: dict[str, Any] = {
        "ruleId": diagnostic.code,
        "ruleIndex": _INDEX[diagnostic.code],
        "level": diagnostic.severity,
        "message": {"text": "\n".join(filter(None, said))},
    }
    if primary:
        result["locations"] = [_location(primary)]
    if others:
        result["relatedLocations"] = [
            {"id": number} | _location(label) | {"message": {"text": label.text or "see here"}}
            for number, label in enumerate(others)
        ]
    if fix and fix.edits:
        result["fixes"] = [_fix(fix)]
        result["properties"] = {"fixIsSafe": fix.safe}
    return result


def _location(label: Label) -> dict[str, Any]:
    """Where a label points; what the command line set stands in no file."""
    span = label.span
    if span.source.name == LAID_OVER:
        return {"logicalLocations": [{"name": f"{LAID_OVER} {span.source.line(span.place.line)}"}]}
    region = _region(span) | {"snippet": {"text": span.text}}
    return {"physicalLocation": {"artifactLocation": _artifact(span), "region": region}}


def _region(span: Span) -> dict[str, Any]:
    end = span.source.place(span.end)
    return {
        "startLine": span.place.line,
        "startColumn": span.place.column,
        "endLine": end.line,
        "endColumn": end.column,
    }


def _artifact(span: Span) -> dict[str, str]:
    path = Path(span.source.name)
    return {"uri": path.as_uri() if path.is_absolute() else quote(path.as_posix())}


def _fix(fix: Fix) -> dict[str, Any]:
    files: Mapping[str, list[Edit]] = {edit.span.source.name: [] for edit in fix.edits}
    for edit in fix.edits:
        files[edit.span.source.name].append(edit)
    return {
        "description": {"text": fix.text},
        "artifactChanges": [_change(edits) for edits in files.values()],
    }


def _change(edits: Sequence[Edit]) -> dict[str, Any]:
    return {
        "artifactLocation": _artifact(edits[0].span),
        "replacements": [
            {"deletedRegion": _region(edit.span), "insertedContent": {"text": edit.text}}
            for edit in edits
        ],
    }

"""What can be read of a text that is being written: the lines that cannot be read are left out.

An editor asks about a recipe while a line of it is half written. Every other line keeps its place.
"""

import re

from . import syntax
from .diagnostics import Diagnostic, Findings
from .parse import attempt
from .source import Source, Span

MOST_REPAIRS = 6
"""A text that takes more is not worth the wait."""


def salvage(
    source: Source, attempted: tuple[syntax.File | None, Findings] | None = None
) -> syntax.File:
    r"""The syntax tree of what can be read, every span as it stands in `source`.

    `attempted` is what `attempt` made of it already.

    >>> file = salvage(Source("a", "recipe a {\n  language = 1\n  lm : Decoder {\n    depth = (\n"))
    >>> [type(statement).__name__ for statement in file.recipes[0].body]
    ['Setting', 'Block']
    """
    file, findings = attempted or attempt(source)
    text = source.text
    for _ in range(MOST_REPAIRS):
        wrong = findings.in_order
        if file and len(wrong) < 2:
            return file  # one line was left out, and the others make sense
        mended = text
        for diagnostic in wrong:
            mended = _mended(mended, diagnostic)
        if mended == text:
            break
        text = mended
        file, findings = attempt(source, Source(source.name, text))
    return file or syntax.File((), (), source)


def _mended(text: str, diagnostic: Diagnostic) -> str:
    """The text without what a mistake is about; all that stays keeps its offset."""
    if diagnostic.primary is None:
        return text
    span = diagnostic.primary.span
    if diagnostic.code == "E103" and span.text == "{":
        wrong = diagnostic.labels[-1].span
        if wrong.text and wrong.text in ")]":
            return _blank(text, wrong.start, wrong.end)
        return _closed(text, span)
    if diagnostic.code == "E103" and span.text in "]})":
        return _blank(text, span.start, span.end)
    start = text.rfind("\n", 0, span.start) + 1
    end = text.find("\n", span.start)
    end = len(text) if end < 0 else end
    before = text[:start].rstrip()
    if not text[start:end].strip() or _UNFINISHED.search(before):
        # The mistake shows late: what stands before it is to blame.
        end = len(before)
        start = text.rfind("\n", 0, end) + 1
    return _without_statement(text, start, end)


_UNFINISHED = re.compile(
    r"([-+*/=,.(\[:]|->|\b(drop|add|amend|replace|special|map|fresh|ignore|assert|extends|import|by))\Z"
)
"""A text whose last statement is not at its end."""


_HEADER = re.compile(r"\s*recipe\s+\w+(?=.*{)|\s*(\w+\s+)*\w+\s*(:\s*\w+\s*)?(?={)")
"""The beginning of a line that opens a block; of a recipe, without what it extends."""


def _without_statement(text: str, start: int, end: int) -> str:
    """The text without a line, but for the braces that hold the blocks around it together."""
    line = text[start:end]
    header = _HEADER.match(line)
    kept = line[: header.end()] if header else ""
    kept += "".join(letter if letter in "{}" else " " for letter in line[len(kept) :])
    if kept != line:
        return text[:start] + kept + text[end:]
    depth = 0
    for match in re.finditer(r"[{}]", text[start:]):
        depth += 1 if match[0] == "{" else -1
        if not depth:
            end = start + match.end()
            break
    return _blank(text, start, end)


def _closed(text: str, opened: Span) -> str:
    """The text with a brace before the next line that is indented no deeper than the opened one."""
    line_start = text.rfind("\n", 0, opened.start) + 1
    depth = _indent(text[line_start:])
    for match in re.finditer(r"(?m)^([ \t]*)\S", text[opened.end :]):
        if match.start() and len(match[1]) <= depth and match[1]:
            at = opened.end + match.start(1)
            return f"{text[:at]}}}{text[at + 1 :]}"
    return text + "}"


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip(" \t"))


def _blank(text: str, start: int, end: int) -> str:
    return text[:start] + re.sub(r"[^\n]", " ", text[start:end]) + text[end:]

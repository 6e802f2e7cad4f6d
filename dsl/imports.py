"""What `import` brings in: blocks of another recipe, as if they stood in this one."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

from . import syntax
from .diagnostics import Diagnostic, Edit, Findings, Fix, Label, listing, nearest, rename
from .evaluate import model_of, settings_of
from .renaming import renamed
from .reserved import reserved
from .source import Span
from .whole import SINGLE_BLOCKS, Entry, Part, Whole, article


def imported(statement: syntax.Import, there: Whole, findings: Findings) -> Iterator[Part]:
    """The blocks that a statement names, under their names here; a finding for each that fails.

    A block that is renamed keeps its ties to the others of the statement. Every other name in it is
    followed late, in the recipe that it comes to.
    """
    names = {block.there: block.here for block in statement.blocks}
    for block in statement.blocks:
        part = there.parts.get(block.there)
        if part is None:
            findings.add(_lacking(block, there))
        elif _may_be_called(part, block, findings):
            yield _copied(part, block, {**names, block.there: block.here})


def _copied(part: Part, block: syntax.Imported, names: Mapping[str, str]) -> Part:
    model = model_of(part)
    settings = settings_of(model) if model else {}
    entries = {
        key: replace(_brought(entry), statement=renamed(entry.statement, names, settings))
        for key, entry in part.entries.items()
    }
    return replace(part, name=block.here, entries=entries, imported=block.here_span)


def _brought(entry: Entry) -> Entry:
    """The entry and all that it replaced, which come together."""
    before = entry.replaced and _brought(entry.replaced)
    return replace(entry, imported=True, replaced=before)


def _lacking(block: syntax.Imported, there: Whole) -> Diagnostic:
    labels = [
        Label(block.there_span),
        Label(there.name_span, f"`{there.name}` has no such block", False),
    ]
    if block.there in there.dropped:
        labels.append(Label(there.dropped[block.there], "dropped here", False))
    near = nearest(block.there, there.parts)
    return Diagnostic(
        "N218",
        f"there is no `{block.there}` to import",
        tuple(labels),
        fix=rename(block.there_span, near)
        if near
        else Fix(f"it has {listing(there.parts, limit=30)}"),
    )


def _may_be_called(part: Part, block: syntax.Imported, findings: Findings) -> bool:
    """Whether a block of this kind may have the name that it is given here."""
    if block.here == part.name:
        return True
    labels = [Label(block.here_span), Label(part.header, "declared here", False)]
    if part.kind in SINGLE_BLOCKS or part.kind == "input":
        kind = "an input" if part.kind == "input" else f"`{part.kind}`"
        at = block.there_span.source.span(block.there_span.end, block.span.end)
        findings.add(
            Diagnostic(
                "N203",
                f"{kind} has no name of its own",
                tuple(labels),
                fix=Fix(f"write `import {part.name}`", (Edit(at, ""),)),
            )
        )
        return False
    if block.here in SINGLE_BLOCKS:
        findings.add(
            Diagnostic(
                "N215",
                f"`{part.name}` is {article(part.kind)}",
                (
                    Label(block.here_span, f"this name is that of {article(block.here)}"),
                    labels[1],
                ),
                fix=Fix("take another name"),
            )
        )
        return False
    wrong = reserved(part.kind, block.here, block.here_span)
    if wrong:
        findings.add(wrong)
    return wrong is None


def with_imports(diagnostics: Iterable[Diagnostic], whole: Whole) -> Iterator[Diagnostic]:
    """The diagnostics; those about text that an import brought in start where it was asked for."""
    imports = [(part, part.imported) for part in whole.parts.values() if part.imported]
    for diagnostic in diagnostics:
        label = diagnostic.primary
        holders = (it for it in imports if label and _holds(it[0], label.span))
        part, span = next(holders, (None, None))
        if part is None or span is None or any(one.span == span for one in diagnostic.labels):
            yield diagnostic
            continue
        own = Label(span, f"`{part.name}` is imported here")
        others = (replace(one, primary=False) for one in diagnostic.labels)
        block = part.name if part.kind in SINGLE_BLOCKS else f"{part.kind} {part.name}"
        fix = Fix(f"import what it needs as well, or change it here: `amend {block} {{ ... }}`")
        yield replace(diagnostic, labels=(own, *others), fix=fix)


def _holds(part: Part, span: Span) -> bool:
    """Whether the text of a block holds a span."""
    stated = (part.header, *(entry.statement.span for entry in part.entries.values()))
    return any(
        outer.source is span.source and outer.start <= span.start and span.end <= outer.end
        for outer in stated
    )

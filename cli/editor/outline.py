"""The blocks of a text as a tree, as pieces that fold, and as kinds of words."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from lsprotocol import types

from ...dsl import syntax
from ...dsl.source import Span
from ...dsl.whole import key_of, name_span
from .desk import Reading
from .focus import all_of
from .positions import Positions

_KINDS = {
    "tokens": types.SymbolKind.Namespace,
    "input": types.SymbolKind.Interface,
    "encoder": types.SymbolKind.Class,
    "adapter": types.SymbolKind.Class,
    "lm": types.SymbolKind.Class,
    "weights": types.SymbolKind.File,
    "layout": types.SymbolKind.Struct,
    "objective": types.SymbolKind.Operator,
    "stage": types.SymbolKind.Event,
    "mode": types.SymbolKind.Event,
}
_ENTRIES = {
    "setting": types.SymbolKind.Property,
    "special": types.SymbolKind.EnumMember,
    "map": types.SymbolKind.Key,
    "fresh": types.SymbolKind.Key,
    "ignore": types.SymbolKind.Key,
    "rule": types.SymbolKind.Function,
}


def symbols(reading: Reading, places: Positions) -> list[types.DocumentSymbol]:
    """The recipes, their blocks, and what stands in these."""
    return [
        types.DocumentSymbol(
            node.name,
            types.SymbolKind.Module,
            places.range(node.span),
            places.range(node.name_span),
            detail=f"extends {node.base.name}" if node.base else None,
            children=[_block(one, places) for one in node.body if isinstance(one, syntax.Block)],
        )
        for node in reading.file.recipes
    ]


def _block(block: syntax.Block, places: Positions) -> types.DocumentSymbol:
    children = []
    for statement in block.body:
        stated = statement.statement if isinstance(statement, syntax.Verbed) else statement
        if isinstance(stated, syntax.Drop | syntax.Verbed):
            continue
        kind, name = key_of(stated)
        children.append(
            types.DocumentSymbol(
                name or "-",
                _ENTRIES[kind],
                places.range(statement.span),
                places.range(name_span(stated)),
            )
        )
    shown = " ".join(filter(None, (block.verb, block.kind, block.type)))
    return types.DocumentSymbol(
        block.name,
        _KINDS.get(block.kind, types.SymbolKind.Object),
        places.range(block.span),
        places.range(block.name_span),
        detail=shown,
        children=children,
    )


def folds(reading: Reading) -> list[types.FoldingRange]:
    """Recipes, blocks, values over several lines, and runs of comments."""
    found = [_fold(span) for span in _foldable(reading.file)]
    comments = reading.file.comments
    start = comments[0].span.place.line if comments else 0
    for one, after in pairwise((*comments, None)):
        assert one
        line = one.span.place.line
        if after and after.span.place.line == line + 1:
            continue
        if line > start:
            kind = types.FoldingRangeKind.Comment
            found.append(types.FoldingRange(start - 1, line - 1, kind=kind))
        start = after.span.place.line if after else 0
    return [fold for fold in found if fold.start_line < fold.end_line]


def _foldable(file: syntax.File) -> Iterator[Span]:
    for node in file.recipes:
        yield node.span
        for block in node.body:
            if isinstance(block, syntax.Block):
                yield block.span
                for statement in block.body:
                    yield statement.span


def _fold(span: Span) -> types.FoldingRange:
    end = span.source.place(max(span.start, span.end - 1)).line
    # The line of the closing bracket stays in sight.
    return types.FoldingRange(span.place.line - 1, max(0, end - 2))


WORD_KINDS = (
    "keyword",
    "type",
    "namespace",
    "class",
    "property",
    "enumMember",
    "function",
    "parameter",
)
"""The kinds of words that an editor colours, by number."""
_OF_MENTION = {
    "recipe": "namespace",
    "part": "class",
    "setting": "property",
    "special": "enumMember",
    "rule": "function",
    "parameter": "parameter",
}
_OF_FOCUS = {
    "kind": "keyword",
    "type": "type",
    "setting": "property",
    "argument": "property",
    "call": "function",
}


def colours(reading: Reading, places: Positions) -> list[int]:
    """Every word with a meaning: how far behind the last, how long, of which kind."""
    words: dict[int, tuple[Span, str]] = {}
    for node in reading.file.recipes:
        for focus in all_of(node, reading.names.scope(node)):
            if focus.what in _OF_FOCUS:
                words[focus.span.start] = focus.span, _OF_FOCUS[focus.what]
    for mention in reading.mentions:
        words.setdefault(mention.span.start, (mention.span, _OF_MENTION[mention.key[0]]))
    data: list[int] = []
    line = column = end = 0
    for start, (span, kind) in sorted(words.items()):
        if start < end or "\n" in span.text:
            continue
        end = span.end
        at = places.position(span.source, start)
        data += [at.line - line, at.character - (column if at.line == line else 0)]
        data += [places.units(span.text), WORD_KINDS.index(kind), 0]
        line, column = at.line, at.character
    return data

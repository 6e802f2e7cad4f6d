"""Syntax tree to canonical text: one way to write each recipe, every comment kept.

What the author decides stays: the order of statements, and a single blank line where there was at
least one. The rest follows from the tree: two spaces a level, one statement a line, `=`, `->` and
`@` below one another in a run of lines, brackets that do not fit a line opened up.
"""

from bisect import bisect_left
from collections.abc import Sequence
from itertools import pairwise

from . import syntax
from .parse import parse
from .source import Source, Span

WIDTH = 100
_INDENT = "  "

Statement = syntax.Statement | syntax.Block | syntax.Import | syntax.Assert | syntax.DropAssert


def format_text(text: str, name: str = "<text>") -> str:
    """The text in canonical form; raises `RecipeError` where it does not follow the grammar.

    >>> print(format_text("recipe a{language=1 lm:Decoder{depth=2 # few\\n width  = 4*2}}"), end="")
    recipe a {
      language = 1
      lm : Decoder {
        depth = 2  # few
        width = 4 * 2
      }
    }
    """
    return format_file(parse(Source(name, text)))


def format_file(file: syntax.File) -> str:
    """The canonical form of a syntax tree."""
    return _Printer(file).file()


class _Printer:
    """Walks the tree and the comments side by side, in the order of the text."""

    def __init__(self, file: syntax.File) -> None:
        self._file = file
        self._text = file.source.text
        self._starts = [comment.span.start for comment in file.comments]
        self._next = 0
        self._end = 0
        """Where the last thing that was printed ends in the source."""

    def file(self) -> str:
        """The whole text."""
        lines: list[str] = []
        limits = iter([node.span.start for node in self._file.recipes[1:]] + [len(self._text)])
        for recipe in self._file.recipes:
            lines += self._comments(recipe.span.start, 0)
            commented = bool(lines) and lines[-1].startswith("#")
            if lines and (self._is_apart(recipe.span.start) or not commented):
                lines.append("")
            lines += self._recipe(recipe, next(limits))
        lines += self._comments(len(self._text), 0)
        return "\n".join([*lines, ""]) if lines else ""

    def _recipe(self, recipe: syntax.RecipeNode, limit: int) -> list[str]:
        header = f"recipe {recipe.name}"
        end = recipe.name_span.end
        if recipe.base:
            header += f" extends {recipe.base.span.text}"
            end = recipe.base.span.end
        return self._braces(header, end, recipe, 0, limit)

    def _braces(
        self,
        header: str,
        header_end: int,
        block: syntax.Block | syntax.RecipeNode,
        depth: int,
        limit: int,
    ) -> list[str]:
        """A header, its body one level deeper, and the closing brace."""
        self._end = header_end
        end = block.span.end
        beside = self._beside(header_end, block.body[0].span.start if block.body else end)
        inner = self._body(block.body, end, depth + 1)
        self._end = end
        indent = _INDENT * depth
        if not inner and not beside:
            return [_with_comment(f"{indent}{header} {{}}", self._beside(end, limit))]
        closing = _with_comment(f"{indent}}}", self._beside(end, limit))
        return [_with_comment(f"{indent}{header} {{", beside), *inner, closing]

    # comments

    def _comments(self, before: int, depth: int) -> list[str]:
        """The comments up to an offset, each on a line of its own."""
        lines: list[str] = []
        while self._next < len(self._starts) and self._starts[self._next] < before:
            comment = self._take()
            if self._is_apart(comment.span.start) and self._end:
                lines.append("")
            lines.append(f"{_INDENT * depth}{comment.text}")
            self._end = max(self._end, comment.span.end)
        return lines

    def _take(self) -> syntax.Comment:
        self._next += 1
        return self._file.comments[self._next - 1]

    def _beside(self, end: int, limit: int) -> str | None:
        """The comment that ends the line on which a thing ends, or stands inside the thing.

        What follows the thing starts at `limit`; comments from there on belong to that.
        """
        if self._next == len(self._starts) or self._starts[self._next] >= limit:
            return None
        start = self._starts[self._next]
        if start >= end and "\n" in self._text[end:start]:
            return None
        comment = self._take()
        self._end = max(self._end, end, comment.span.end)
        return comment.text

    def _holds_comment(self, span: Span) -> bool:
        first = bisect_left(self._starts, span.start)
        return first < len(self._starts) and self._starts[first] < span.end

    def _is_apart(self, start: int) -> bool:
        """Whether a blank line stands between the last printed thing and an offset."""
        return _holds_blank_line(self._text[self._end : start])

    # statements

    def _body(self, statements: Sequence[Statement], end: int, depth: int) -> list[str]:
        lines: list[str] = []
        limits = iter([statement.span.start for statement in statements[1:]] + [end])
        for run in self._runs(statements, depth):
            widths = _widths([self._cells(statement) for statement in run])
            for statement in run:
                lines += self._comments(statement.span.start, depth)
                if self._is_apart(statement.span.start) and lines:
                    lines.append("")
                self._end = max(self._end, _head_end(statement))
                lines += self._comments(_head_end(statement), depth)
                lines += self._statement(statement, widths, depth, next(limits))
        lines += self._comments(end, depth)
        return lines

    def _statement(
        self, statement: Statement, widths: list[int], depth: int, limit: int
    ) -> list[str]:
        if isinstance(statement, syntax.Block):
            header = " ".join(filter(None, (statement.verb, _header(statement))))
            return self._braces(header, statement.header.end, statement, depth, limit)
        indent = _INDENT * depth
        cells = self._cells(statement)
        padded = [cell.ljust(width) for cell, width in zip(cells[:-1], widths, strict=False)]
        head = " ".join([*padded, cells[-1]])
        lines = self._with_value(statement, f"{indent}{head}", depth)
        self._end = max(self._end, statement.span.end)
        lines[-1] = _with_comment(lines[-1], self._beside(statement.span.end, limit))
        return lines

    def _with_value(self, statement: Statement, head: str, depth: int) -> list[str]:
        """The lines of a statement whose text up to its value is `head`."""
        match statement:
            case syntax.Setting(value=written) | syntax.Map(target=written):
                value = self._value(written, len(head) + 1, depth)
                return [f"{head} {value[0]}", *value[1:]]
            case syntax.Rule():
                pieces = [piece for item in statement.items for piece in _pieces(item)]
                return _filled(head, pieces, depth)
            case syntax.Import() if _is_long(statement):
                *blocks, last = map(_imported, statement.blocks)
                pieces = [*(f"{block}," for block in blocks), last, _origin(statement)]
                return _filled(head, pieces, depth)
            case syntax.Verbed():
                return self._with_value(statement.statement, head, depth)
        return [head]

    def _cells(self, statement: Statement) -> list[str]:
        """The text of a statement up to its value, cut where lines of a run are aligned."""
        match statement:
            case syntax.Setting():
                return [statement.name, "="]
            case syntax.Special():
                number = syntax.written(statement.id)
                return [f"special {statement.name}", f"= {statement.text.span.text}", f"@ {number}"]
            case syntax.Map():
                return [f"map {statement.source.span.text}", "->"]
            case syntax.Fresh():
                init = [f": {syntax.written(statement.init)}"] if statement.init else []
                return [f"fresh {statement.pattern.span.text}", *init]
            case syntax.Ignore():
                return [f"ignore {statement.pattern.span.text}", f": {statement.reason.span.text}"]
            case syntax.Rule():
                parameters = ", ".join(word.name for word in statement.parameters)
                return [f"{statement.name}({parameters})", "->"]
            case syntax.Verbed():
                first, *rest = self._cells(statement.statement)
                return [f"{statement.verb} {first}", *rest]
            case syntax.Drop():
                if statement.kind_span == statement.name_span:
                    return [f"drop {statement.kind_span.text}"]
                return [f"drop {statement.kind_span.text} {statement.name_span.text}"]
            case syntax.Assert():
                return [f"assert {statement.comparison}"]
            case syntax.DropAssert():
                return [f"drop assert {statement.comparison}"]
            case syntax.Import():
                if _is_long(statement):
                    return ["import"]
                return [f"import {_imported_blocks(statement)}", _origin(statement)]
            case syntax.Block():
                return [""]

    def _runs(self, statements: Sequence[Statement], depth: int) -> list[list[Statement]]:
        """Statements that are aligned with one another: neighbours of one kind, each on a line."""
        runs: list[list[Statement]] = []
        for before, statement in pairwise([None, *statements]):
            assert statement is not None
            joined = (
                before is not None
                and _alignment(before) == _alignment(statement)
                and not _holds_blank_line(self._text[before.span.end : statement.span.start])
                and not self._is_opened(before, depth)
            )
            if joined:
                runs[-1].append(statement)
            else:
                runs.append([statement])
        return runs

    def _is_opened(self, statement: Statement, depth: int) -> bool:
        """Whether the value of a setting or a map takes several lines."""
        match statement:
            case syntax.Setting(value=value) | syntax.Map(target=value):
                column = len(_INDENT) * depth + len(" ".join(self._cells(statement))) + 1
                return self._opens(value, column)
            case syntax.Verbed():
                return self._is_opened(statement.statement, depth)
        return False

    # values

    def _opens(self, value: syntax.Value, column: int) -> bool:
        """Whether the brackets of a value are opened up, one member a line."""
        if not isinstance(value, syntax.Call | syntax.Items) or not syntax.inside(value):
            return False
        return self._holds_comment(value.span) or column + len(syntax.written(value)) > WIDTH

    def _value(self, value: syntax.Value, column: int, depth: int) -> list[str]:
        """The lines of a value that starts in a column; the first has no indent."""
        if not isinstance(value, syntax.Call | syntax.Items) or not self._opens(value, column):
            return [syntax.written(value)]
        opening, closing = (
            ("[", "]") if isinstance(value, syntax.Items) else (f"{value.name}(", ")")
        )
        sole = self._sole(value)
        if sole is not None:
            inner = self._value(sole, WIDTH, depth)
            return [f"{opening}{inner[0]}", *inner[1:-1], f"{inner[-1]}{closing}"]
        self._end = value.span.end  # no blank lines inside brackets
        lines = [opening]
        indent = _INDENT * (depth + 1)
        members = _members(value)
        ends = [span.start for _, _, span in members[1:]] + [value.span.end]
        for (name, member, span), end in zip(members, ends, strict=True):
            lines += self._comments(span.start, depth + 1)
            head = f"{indent}{name}"
            inner = self._value(member, len(head) + 1, depth + 1)
            inner[-1] = _with_comment(f"{inner[-1]},", self._beside(span.end, end))
            lines += [f"{head}{inner[0]}", *inner[1:]]
        lines += self._comments(value.span.end, depth + 1)
        return [*lines, f"{_INDENT * depth}{closing}"]

    def _sole(self, value: syntax.Call | syntax.Items) -> syntax.Value | None:
        """The only member of a bracket, when it can be opened up in the bracket's place."""
        members = _members(value)
        if len(members) != 1:
            return None
        name, member, _ = members[0]
        if name or not isinstance(member, syntax.Call | syntax.Items) or not syntax.inside(member):
            return None
        before = Span(value.span.source, value.span.start, member.span.start)
        after = Span(value.span.source, member.span.end, value.span.end)
        return None if self._holds_comment(before) or self._holds_comment(after) else member


def _holds_blank_line(text: str) -> bool:
    return any(not line.strip() for line in text.split("\n")[1:-1])


def _head_end(statement: Statement) -> int:
    """Up to where comments inside a statement go before it: a block's header."""
    if isinstance(statement, syntax.Block):
        return statement.header.end
    return statement.span.start


def _alignment(statement: Statement) -> tuple[type, str]:
    """What statements must share to be aligned; a block is aligned with nothing."""
    if isinstance(statement, syntax.Verbed):
        return type(statement.statement), statement.verb
    is_alone = isinstance(statement, syntax.Block) or _is_long(statement)
    return type(statement), str(id(statement)) if is_alone else ""


def _widths(rows: Sequence[Sequence[str]]) -> list[int]:
    """The width of each column but the last."""
    return [
        max(len(cell) for cell in column)
        for column in zip(*(row[:-1] for row in rows), strict=True)
    ]


def _with_comment(line: str, comment: str | None) -> str:
    return line if comment is None else f"{line}  {comment}"


def _header(block: syntax.Block) -> str:
    words = [block.kind]
    if block.name_span != block.kind_span:
        words.append(block.name)
    return f"{' '.join(words)} : {block.type}" if block.type else " ".join(words)


def _imported(block: syntax.Imported) -> str:
    return block.there if block.here == block.there else f"{block.there} as {block.here}"


def _imported_blocks(statement: syntax.Import) -> str:
    return ", ".join(map(_imported, statement.blocks))


def _origin(statement: syntax.Import) -> str:
    return f"from {statement.base.span.text}"


def _is_long(statement: Statement) -> bool:
    """Whether an import needs several lines."""
    if not isinstance(statement, syntax.Import):
        return False
    line = f"{_INDENT}import {_imported_blocks(statement)} {_origin(statement)}"
    return len(line) > WIDTH


def _members(value: syntax.Call | syntax.Items) -> list[tuple[str, syntax.Value, Span]]:
    """What stands between the brackets: the name with its colon, the value, the span of both."""
    if isinstance(value, syntax.Items):
        return [("", item, item.span) for item in value.items]
    return [
        (f"{argument.name}: " if argument.name else "", argument.value, argument.span)
        for argument in value.arguments
    ]


def _item(item: syntax.Item) -> str:
    match item:
        case syntax.Loss():
            return f"loss({_line(item.items)})"
        case syntax.Apart():
            return f"apart({_line(item.items)})"
        case syntax.Choice():
            return f"choice({', '.join(map(_line, item.lines))})"
        case syntax.Repeat():
            return f"{item.name} * {item.parameter}.{item.field}"
        case syntax.Field():
            return f"{item.parameter}.{item.field}"
        case syntax.Use():
            return f"{item.rule}({', '.join(word.name for word in item.arguments)})"
        case syntax.Word():
            return item.name
    return item.span.text


def _pieces(item: syntax.Item) -> list[str]:
    """The text of an item, cut where a line may end."""
    if not isinstance(item, syntax.Choice):
        return [_item(item)]
    *lines, last = map(_line, item.lines)
    first, *rest = [*(f"{line}," for line in lines), f"{last})"]
    return [f"choice({first}", *rest]


def _line(items: Sequence[syntax.Item]) -> str:
    return " ".join(map(_item, items))


def _filled(head: str, items: Sequence[str], depth: int) -> list[str]:
    """The items behind `head`, on as many lines as they need."""
    lines = [head]
    for item in items:
        if len(lines[-1]) + 1 + len(item) > WIDTH and lines[-1].strip():
            lines.append(_INDENT * (depth + 2) + item)
        else:
            lines[-1] += f" {item}"
    return lines

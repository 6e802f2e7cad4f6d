"""Text to syntax tree; whatever stands in the text, the answer is a tree or a `RecipeError`."""

import re
from collections.abc import Iterator
from functools import cache
from typing import Any

from lark import Lark, Token, Transformer_NonRecursive, Tree, UnexpectedInput
from lark.exceptions import UnexpectedCharacters
from lark.lexer import PatternStr

from . import syntax
from .diagnostics import (
    Diagnostic,
    Edit,
    Findings,
    Fix,
    Label,
    RecipeError,
    nearest,
    rename,
)
from .limits import DEEPEST_NESTING, LONGEST_TEXT
from .source import Source, Span
from .units import LARGEST, UNITS, Quantity
from .whole import NAMED_BLOCKS

MOST_SYNTAX_ERRORS = 10


def parse(source: Source) -> syntax.File:
    """The syntax tree of a text; raises `RecipeError` with every syntax error that was found.

    After an error its line is left out and the rest is read again, so that one run reports
    mistakes in several statements.
    """
    file, findings = attempt(source)
    findings.raise_if_any()
    assert file is not None
    return file


def attempt(source: Source, mended: Source | None = None) -> tuple[syntax.File | None, Findings]:
    """The syntax tree of what could be read of a text, and what is wrong with the rest.

    There is no tree where a mistake leaves nothing to be read. Where `mended` is given, that is
    read, and the tree points into `source` at the same offsets.
    """
    findings = Findings()
    try:
        nodes = _nodes(source, "file", mended or source, findings)
    except RecipeError:
        nodes = None
    if nodes is None:
        return None, findings
    return syntax.File(tuple(nodes), tuple(_comments(source)), source), findings


def parse_amendments(source: Source) -> tuple[syntax.Setting, ...]:
    """Settings named by their path, `lm.width = 64`; raises `RecipeError`."""
    findings = Findings()
    nodes = _nodes(source, "amendments", source, findings)
    findings.raise_if_any()
    assert nodes is not None
    return tuple(nodes)


def _nodes(source: Source, start: str, read: Source, findings: Findings) -> list[Any] | None:
    _refuse_oversized(read, findings)
    _refuse_open_brackets(read, findings)
    if findings:
        return None
    tree = _read(read, start, findings)
    if tree is None:
        return None
    # What is wrong with values is not said of a text that does not follow the grammar.
    seen = Findings() if findings else findings
    _refuse_deep_nesting(tree, source, seen)
    nodes: list[Any] = _Builder(source, seen).transform(tree)
    return nodes


@cache
def _parser() -> Lark:
    return Lark.open(
        "grammar.lark",
        rel_to=__file__,
        parser="lalr",
        start=["file", "amendments"],
        maybe_placeholders=True,
        propagate_positions=True,
    )


def _read(source: Source, start: str, findings: Findings) -> Tree[Token] | None:
    text = source.text
    for _ in range(MOST_SYNTAX_ERRORS):
        try:
            return _parser().parse(text, start=start)
        except UnexpectedInput as error:
            diagnostic = _explain(error, source)
            findings.add(diagnostic)
            assert diagnostic.primary
            shorter = _without_line(text, diagnostic.primary.span.start)
            if shorter is None:
                return None
            text = shorter
    return None


# What a text is refused for before the grammar sees it ------------------------------------------

_LEXICAL = re.compile(
    r'(?P<string>"(?:\\.|[^"\\\n])*"?)|(?P<comment>#[^\n]*)|(?P<bracket>[][(){}])'
)
_CLOSES = {")": "(", "]": "[", "}": "{"}


def _comments(source: Source) -> Iterator[syntax.Comment]:
    for match in _LEXICAL.finditer(source.text):
        if match.lastgroup == "comment":
            span = source.span(*match.span())
            yield syntax.Comment(span.text.rstrip(), span)


def _refuse_oversized(source: Source, findings: Findings) -> None:
    if len(source.text) <= LONGEST_TEXT:
        return
    findings.add(
        Diagnostic(
            "E105",
            "the recipe is too long",
            (Label(source.span(LONGEST_TEXT, LONGEST_TEXT + 1), "the limit is reached here"),),
            reason=f"a text may hold {LONGEST_TEXT:,} characters; this one has "
            f"{len(source.text):,}",
        )
    )
    findings.raise_if_any()


def _refuse_open_brackets(source: Source, findings: Findings) -> None:
    """Name the bracket that has no partner, which the grammar could only miss at the very end."""
    stack: list[tuple[str, Span]] = []
    suspect: Diagnostic | None = None
    for match in _LEXICAL.finditer(source.text):
        span = source.span(*match.span())
        if match.lastgroup == "string" and (len(span.text) < 2 or span.text[-1] != '"'):
            findings.add(
                Diagnostic(
                    "E102",
                    "this string is not closed",
                    (Label(span, "it must end on its line"),),
                    fix=Fix('close it with `"`; a line break inside is written `\\n`'),
                )
            )
            return
        if match.lastgroup != "bracket":
            continue
        bracket = span.text
        if len(stack) > DEEPEST_NESTING:
            findings.add(_too_deep(span))
            return
        if bracket not in _CLOSES:
            stack.append((bracket, span))
        elif not stack:
            fix = Fix("leave it out, or write the one that it closes")
            title = f"this `{bracket}` closes nothing"
            findings.add(Diagnostic("E103", title, (Label(span),), fix=fix))
            return
        else:
            opening, opened = stack.pop()
            if opening != _CLOSES[bracket]:
                findings.add(_never_closed(opened, Label(span, "this closes another", False)))
                return
            if suspect is None and _indent(span) < _indent(opened):
                seen = "by its indent, this closes what is around it"
                suspect = _never_closed(opened, Label(span, seen, False))
    if stack:
        end = source.span(len(source.text), len(source.text))
        ends = _never_closed(stack[-1][1], Label(end, "the text ends here", False))
        findings.add(suspect or ends)


def _indent(span: Span) -> int:
    """How far the line of a span is indented."""
    line = span.source.line(span.place.line)
    return len(line) - len(line.lstrip())


def _never_closed(opened: Span, end: Label) -> Diagnostic:
    closing = next(closing for closing, opening in _CLOSES.items() if opening == opened.text)
    return Diagnostic(
        "E103",
        f"this `{opened.text}` is never closed",
        (Label(opened, "opened here"), end),
        fix=Fix(f"write `{closing}` where it ends"),
    )


def _too_deep(span: Span) -> Diagnostic:
    return Diagnostic(
        "E110",
        "this is nested too deeply",
        (Label(span, f"more than {DEEPEST_NESTING} levels"),),
        fix=Fix("write it as several settings"),
    )


def _refuse_deep_nesting(tree: Tree[Token], source: Source, findings: Findings) -> None:
    """Chains such as `1 + 1 + ...` nest without brackets; what walks the tree may recurse."""
    pending = [(tree, 0)]
    while pending:
        node, depth = pending.pop()
        if depth > 2 * DEEPEST_NESTING:
            findings.add(_too_deep(source.span(node.meta.start_pos, node.meta.end_pos)))
            break
        pending += [(child, depth + 1) for child in node.children if isinstance(child, Tree)]
    findings.raise_if_any()


# Errors of the grammar ---------------------------------------------------------------------------

_TERMINALS = {
    "NAME": "a name",
    "SETTING_NAME": "a setting `name = value`",
    "RULE_NAME": "a rule `name(x) -> ...`",
    "ARGUMENT_NAME": "an argument `name: value`",
    "NUMBER": "a number",
    "STRING": "a string",
    "GRID": "a grid",
    "ADDITIVE": "`+`",
    "MULTIPLICATIVE": "`*`",
    "COMPARISON": "`<=`",
    "MINUS": "`-`",
    "$END": "the end of the text",
}
# `depth =`, and then the next setting or the end of the block.
_EMPTY_SETTING = re.compile(r"(?P<name>\w+)\s*(?P<equals>=)\s*(\}|\n\s*\w+\s*=)\Z")
_CHARACTERS = {
    "'": 'strings stand in double quotes: `"..."`',
    ";": "statements need nothing between them",
    "“": 'strings stand in straight double quotes: `"..."`',
    "”": 'strings stand in straight double quotes: `"..."`',
    "×": "write `x` in a grid and `*` in a product",
    "≤": "write `<=`",
    "≥": "write `>=`",
    "→": "write `->`",
    "–": "write `-`",
    "%": "write the share as a fraction",
    "^": "powers are written out: `width * width`",
}


def _explain(error: UnexpectedInput, source: Source) -> Diagnostic:
    if isinstance(error, UnexpectedCharacters):
        offset = error.pos_in_stream or 0
        return _strange_character(source.span(offset, offset + 1))
    token = error.token  # type: ignore[attr-defined]
    expected: set[str] = set(error.accepts or error.expected)  # type: ignore[attr-defined]
    if token.type == "$END":
        span = source.span(len(source.text), len(source.text))
    else:
        span = source.span(token.start_pos, token.end_pos)
    after = source.text[span.end :].lstrip()
    if expected <= {"RECIPE", "$END"}:
        return Diagnostic(
            "E101",
            "this stands outside a recipe",
            (Label(span),),
            fix=Fix("put it inside `recipe name { ... }`"),
        )
    empty = _EMPTY_SETTING.search(source.text[: span.end])
    if empty:
        return Diagnostic(
            "E101",
            f"the setting `{empty['name']}` lacks its value",
            (Label(source.span(*empty.span("equals")), "nothing follows on this line"),),
        )
    typed = _TYPED.search(source.text[: span.start])
    if typed and expected == {"NAME"}:
        return _lacks_equals(source.span(*typed.span("name")), typed.end())
    kind = _KIND.search(source.text[: span.start])
    if kind and "FROM" in expected:
        return _import_by_kind(source.span(*kind.span("kind")), span)
    is_name = token.type in ("NAME", "ARGUMENT_NAME")  # `depth 28`, and `depth: 28`
    if "SETTING_NAME" in expected and is_name and "NAME" not in expected:
        return _no_statement(span, after, expected)
    wanted = sorted({_readable(name) for name in expected})
    return Diagnostic(
        "E101",
        f"`{span.text}` cannot stand here" if span.text else "the text ends too soon",
        (Label(span, f"here can stand {_one_of(wanted)}"),),
    )


_KIND = re.compile(rf"\b(?P<kind>{'|'.join(NAMED_BLOCKS)})\s+\Z")
"""The first of two words in `import encoder vit from ...`."""


def _import_by_kind(kind: Span, name: Span) -> Diagnostic:
    return Diagnostic(
        "E101",
        "an import names a block without its kind",
        (Label(kind, f"`{name.text}` alone says which is meant"),),
        fix=Fix(
            f"leave `{kind.text}` out",
            (Edit(kind.source.span(kind.start, name.start), ""),),
        ),
    )


_TYPED = re.compile(r"(?m:^|[{}])\s*(?P<name>\w+)\s*:(?=\s*\Z)")
"""The start of `lm : Decoder`, or of what somebody writes who means `language = 1`."""


def _lacks_equals(name: Span, end: int) -> Diagnostic:
    """A setting without its sign; up to `end` stands what was written in its place."""
    return Diagnostic(
        "E101",
        f"the setting `{name.text}` lacks its `=`",
        (Label(name, "a setting is written `name = value`"),),
        fix=Fix("write `=`", (Edit(name.source.span(name.end, end), " ="),)),
    )


def _no_statement(span: Span, after: str, expected: set[str]) -> Diagnostic:
    name = span.text
    keywords = [
        terminal.lower() for terminal in expected & {"SPECIAL", "MAP", "FRESH", "IGNORE", "DROP"}
    ]
    near = nearest(name, keywords)
    if near and after.startswith('"') == (near != "special"):
        return Diagnostic(
            "E101", f"`{name}` begins no statement", (Label(span),), fix=rename(span, near)
        )
    if re.match(r'[:\d"\[]', after):
        gap = span.source.text[span.end :]
        end = span.end + len(gap) - len(gap.lstrip()) + after.startswith(":")
        return _lacks_equals(span, end)
    return Diagnostic(
        "E101",
        f"`{name}` begins no statement",
        (Label(span, "a block holds settings, `name = value`, and statements with a keyword"),),
        reason="a block cannot stand inside another block" if "{" in after.split("\n")[0] else "",
    )


def _strange_character(span: Span) -> Diagnostic:
    letter = span.text
    shown = f"`{letter}`" if letter.isprintable() else f"the character U+{ord(letter):04X}"
    hint = _CHARACTERS.get(letter, "")
    if not hint and letter.isalpha():
        hint = "names are made of the letters a to z, digits and `_`"
    return Diagnostic(
        "E104", f"{shown} means nothing here", (Label(span),), fix=Fix(hint) if hint else None
    )


def _readable(terminal: str) -> str:
    if terminal in _TERMINALS:
        return _TERMINALS[terminal]
    pattern = _parser().get_terminal(terminal).pattern
    return f"`{pattern.value}`" if isinstance(pattern, PatternStr) else terminal.lower()


def _one_of(names: list[str], limit: int = 6) -> str:
    """Names for a sentence, joined by "or"."""
    shown = names if len(names) <= limit else [*names[:limit], "more"]
    return shown[0] if len(shown) == 1 else f"{', '.join(shown[:-1])} or {shown[-1]}"


def _without_line(text: str, offset: int) -> str | None:
    """The text with the line at `offset` blank; None when that would unbalance its brackets."""
    start = text.rfind("\n", 0, offset) + 1
    end = text.find("\n", offset)
    end = len(text) if end < 0 else end
    line = text[start:end]
    if not line.strip() or any(line.count(b) != line.count(a) for b, a in _CLOSES.items()):
        return None
    return text[:start] + " " * len(line) + text[end:]


# The tree ----------------------------------------------------------------------------------------

_NUMBER = re.compile(r"(?P<digits>[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?)(?P<unit>.*)")
_ESCAPES = {"n": "\n", "t": "\t", '"': '"', "\\": "\\"}


class _Builder(Transformer_NonRecursive[Token, Any]):
    """Makes nodes of the grammar's rules, one method each."""

    def __init__(self, source: Source, findings: Findings) -> None:
        super().__init__(visit_tokens=False)
        self._source = source
        self._findings = findings

    def _call_userfunc(self, tree: Tree[Token], new_children: list[Any] | None = None) -> Any:
        """As lark's `v_args(meta=True)`, which makes a wrapper at every call."""
        children = tree.children if new_children is None else new_children
        return getattr(self, tree.data)(tree.meta, children)

    def _span(self, at: Any) -> Span:
        return self._source.span(at.start_pos, at.end_pos)

    def file(self, meta: Any, children: list[Any]) -> list[Any]:
        return children

    amendments = file

    def recipe(self, meta: Any, children: list[Any]) -> syntax.RecipeNode:
        name, base, *body = children
        return syntax.RecipeNode(str(name), base, tuple(body), self._span(name), self._span(meta))

    def base(self, meta: Any, children: list[Any]) -> syntax.Base:
        (name,) = children
        is_file = name.type == "STRING"
        text = self._string(name) if is_file else str(name)
        return syntax.Base(text, is_file, self._span(name))

    def imports(self, meta: Any, children: list[Any]) -> syntax.Import:
        *blocks, base = children
        return syntax.Import(tuple(blocks), base, self._span(meta))

    def imported(self, meta: Any, children: list[Any]) -> syntax.Imported:
        there, alias = children
        here = alias or there
        return syntax.Imported(
            str(there), str(here), self._span(there), self._span(here), self._span(meta)
        )

    # blocks

    def header(
        self, meta: Any, children: list[Any]
    ) -> tuple[Token, Token | None, Token | None, Span]:
        kind, name, type_ = children
        return kind, name, type_, self._span(meta)

    def block(self, meta: Any, children: list[Any]) -> syntax.Block:
        (kind, name, type_, header), *body = children
        return syntax.Block(
            verb=None,
            kind=str(kind),
            name=str(name or kind),
            type=str(type_) if type_ else None,
            body=tuple(body),
            verb_span=None,
            kind_span=self._span(kind),
            name_span=self._span(name or kind),
            type_span=self._span(type_) if type_ else None,
            header=header,
            span=self._span(meta),
        )

    def verb(self, meta: Any, children: list[Any]) -> Token:
        return children[0]  # type: ignore[no-any-return]

    def amendment(self, meta: Any, children: list[Any]) -> syntax.Block:
        verb, block = children
        return syntax.under_verb(block, str(verb), self._span(verb), self._span(meta))

    def drop_block(self, meta: Any, children: list[Any]) -> syntax.Drop:
        kind, name = children
        return syntax.Drop(
            str(kind),
            str(name or kind),
            self._span(kind),
            self._span(name or kind),
            self._span(meta),
        )

    def assertion(self, meta: Any, children: list[Any]) -> syntax.Assert:
        left, operator, right = children
        comparison = syntax.Comparison(str(operator), left, right, left.span.to(right.span))
        return syntax.Assert(comparison, self._span(meta))

    def drop_assertion(self, meta: Any, children: list[Any]) -> syntax.DropAssert:
        left, operator, right = children
        comparison = syntax.Comparison(str(operator), left, right, left.span.to(right.span))
        return syntax.DropAssert(comparison, self._span(meta))

    # statements

    def verbed(self, meta: Any, children: list[Any]) -> syntax.Verbed:
        verb, statement = children
        return syntax.Verbed(str(verb), statement, self._span(verb), self._span(meta))

    def drop(self, meta: Any, children: list[Any]) -> syntax.Drop:
        kind, name = children
        if name is None:
            shown = str(kind)
        else:
            shown = self._string(name) if name.type == "STRING" else str(name)
        return syntax.Drop(
            str(kind) if name is not None else "setting",
            shown,
            self._span(kind),
            self._span(kind if name is None else name),
            self._span(meta),
        )

    def setting(self, meta: Any, children: list[Any]) -> syntax.Setting:
        name, value = children
        return syntax.Setting(str(name), value, self._span(name), self._span(meta))

    def special(self, meta: Any, children: list[Any]) -> syntax.Special:
        _, name, text, id_ = children
        return syntax.Special(str(name), self._text(text), id_, self._span(name), self._span(meta))

    def map(self, meta: Any, children: list[Any]) -> syntax.Map:
        _, source, target = children
        return syntax.Map(self._text(source), target, self._span(meta))

    def fresh(self, meta: Any, children: list[Any]) -> syntax.Fresh:
        _, pattern, init = children
        return syntax.Fresh(self._text(pattern), init, self._span(meta))

    def ignore(self, meta: Any, children: list[Any]) -> syntax.Ignore:
        _, pattern, reason = children
        return syntax.Ignore(self._text(pattern), self._text(reason), self._span(meta))

    def rule(self, meta: Any, children: list[Any]) -> syntax.Rule:
        name, *rest = children
        at = next(i for i, item in enumerate(rest) if isinstance(item, Token))
        parameters = tuple(word for word in rest[:at] if word is not None)
        items = tuple(rest[at + 1 :])
        return syntax.Rule(str(name), parameters, items, self._span(name), self._span(meta))

    # values

    def number(self, meta: Any, children: list[Any]) -> syntax.Number:
        span = self._span(meta)
        return syntax.Number(self._quantity(span), span)

    def _quantity(self, span: Span) -> Quantity:
        match = _NUMBER.fullmatch(span.text)
        assert match
        digits, unit = match["digits"], match["unit"]
        if unit and unit not in UNITS:
            near = nearest(unit, UNITS)
            self._findings.add(
                Diagnostic(
                    "V313",
                    f"there is no unit `{unit}`",
                    (Label(self._source.span(span.end - len(unit), span.end)),),
                    fix=Fix(f"write `{digits}{near}`", (Edit(span, f"{digits}{near}"),))
                    if near
                    else Fix("the units are px, tok, frames, fps, s, steps, seq, epochs and B"),
                )
            )
            return Quantity(1)
        value = int(digits) if digits.isdigit() and len(digits) < 30 else float(digits)
        if value > LARGEST or UNITS.get(unit, ("", 1, 1))[1] * value > LARGEST:
            self._findings.add(
                Diagnostic(
                    "V307",
                    "this number is too large to be meant",
                    (Label(span, f"the largest is {LARGEST:.0e}"),),
                    fix=Fix("look for a scale that counts twice"),
                )
            )
            return Quantity(1)
        return Quantity.of(value, unit)

    def text(self, meta: Any, children: list[Any]) -> syntax.Text:
        return self._text(children[0])

    def _text(self, token: Token) -> syntax.Text:
        return syntax.Text(self._string(token), self._span(token))

    def _string(self, token: Token) -> str:
        span = self._span(token)

        def escaped(match: re.Match[str]) -> str:
            if match[1] in _ESCAPES:
                return _ESCAPES[match[1]]
            start = span.start + 1 + match.start()
            self._findings.add(
                Diagnostic(
                    "E102",
                    f"`{match[0]}` is no escape",
                    (Label(self._source.span(start, start + 2)),),
                    fix=Fix('the escapes are `\\n`, `\\t`, `\\"` and `\\\\`'),
                )
            )
            return ""

        return re.sub(r"\\(.)", escaped, str(token)[1:-1])

    def grid(self, meta: Any, children: list[Any]) -> syntax.Grid:
        sides = str(children[0]).split("x")
        if any(len(side) > 9 for side in sides):
            self._findings.add(
                Diagnostic("V307", "this grid is too large to be meant", (Label(self._span(meta)),))
            )
            return syntax.Grid((1, 1), self._span(meta))
        return syntax.Grid(tuple(int(side) for side in sides), self._span(meta))

    def items(self, meta: Any, children: list[Any]) -> syntax.Items:
        members = tuple(child for child in children if child is not None)
        return syntax.Items(members, self._span(meta))

    def call(self, meta: Any, children: list[Any]) -> syntax.Call:
        target, *arguments = children
        if isinstance(target, syntax.Truth):  # `true(...)` is a call of no such name
            target = syntax.Path((syntax.Step(target.span.text, target.span),), target.span)
        given = tuple(argument for argument in arguments if argument is not None)
        return syntax.Call(target, given, self._span(meta))

    def argument(self, meta: Any, children: list[Any]) -> syntax.Argument:
        name, value = children
        return syntax.Argument(
            str(name) if name else None,
            value,
            self._span(name) if name else None,
            self._span(meta),
        )

    def path(self, meta: Any, children: list[Any]) -> syntax.Value:
        span = self._span(meta)
        if len(children) == 1 and str(children[0]) in ("true", "false"):
            return syntax.Truth(str(children[0]) == "true", span)
        return syntax.Path(tuple(children), span)

    def step(self, meta: Any, children: list[Any]) -> syntax.Step:
        name, index = children
        first, last = index or (None, None)
        return syntax.Step(str(name), self._span(meta), first, last)

    def index(self, meta: Any, children: list[Any]) -> tuple[int, int]:
        first, last = (child or children[0] for child in children)
        for end in (first, last):
            if not (end.isdigit() and len(end) < 10):
                self._findings.add(
                    Diagnostic("E101", "an index is a whole number", (Label(self._span(end)),))
                )
                return 0, 0
        return int(first), int(last)

    def range(self, meta: Any, children: list[Any]) -> syntax.Range:
        low, high, step = children
        return syntax.Range(low, high, step, self._span(meta))

    def low(self, meta: Any, children: list[Any]) -> Any:
        return children[0]

    high = by = low

    def binary(self, meta: Any, children: list[Any]) -> syntax.Binary:
        left, operator, right = children
        return syntax.Binary(str(operator), left, right, self._span(meta))

    def negative(self, meta: Any, children: list[Any]) -> syntax.Negative:
        return syntax.Negative(children[-1], self._span(meta))

    # layout items

    def word(self, meta: Any, children: list[Any]) -> syntax.Word:
        return syntax.Word(str(children[0]), self._span(meta))

    def repeat(self, meta: Any, children: list[Any]) -> syntax.Repeat:
        name, *_, parameter, field = children
        return syntax.Repeat(
            str(name),
            self._span(name),
            str(parameter),
            str(field),
            self._span(parameter).to(self._span(field)),
            self._span(meta),
        )

    def field(self, meta: Any, children: list[Any]) -> syntax.Field:
        parameter, field = children
        return syntax.Field(str(parameter), str(field), self._span(meta))

    def use(self, meta: Any, children: list[Any]) -> syntax.Use:
        rule, *arguments = children
        given = tuple(argument for argument in arguments if argument is not None)
        return syntax.Use(str(rule), given, self._span(meta))

    def loss(self, meta: Any, children: list[Any]) -> syntax.Loss:
        return syntax.Loss(tuple(children), self._span(meta))

    def apart(self, meta: Any, children: list[Any]) -> syntax.Apart:
        return syntax.Apart(tuple(children), self._span(meta))

    def choice(self, meta: Any, children: list[Any]) -> syntax.Choice:
        return syntax.Choice(tuple(children), self._span(meta))

    def line(self, meta: Any, children: list[Any]) -> tuple[syntax.Item, ...]:
        return tuple(children)

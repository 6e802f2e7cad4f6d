"""The rules of a layout, with every name in them resolved."""

from collections.abc import Iterable, Mapping, Sequence

from . import syntax
from .diagnostics import Diagnostic, Findings, Fix, Label, listing, nearest, rename
from .source import Span
from .texts import (
    ApartItem,
    ChoiceItem,
    CornersItem,
    IndexItem,
    LayoutItem,
    LossItem,
    RepeatItem,
    Rule,
    RuleItem,
    SlotItem,
    SpecialItem,
    TextItem,
)
from .whole import Part, Whole

CONTENT_RULES: Mapping[str, int] = {
    "begin": 0,
    "image": 1,
    "video": 1,
    "recall": 1,
    "ref": 1,
    "box": 1,
    "quad": 1,
    "system": 1,
    "user": 1,
    "assistant": 1,
    "text": 1,
    "pair": 2,
}
"""Rules that data and dialogues ask for by name, and how many parameters they have.

A rule of another name is there for the other rules of its layout.
"""


def rules_of(part: Part, whole: Whole, findings: Findings) -> dict[str, Rule]:
    """The rules of a layout; what is wrong in them is left with `findings`."""
    rules = {
        entry.statement.name: entry.statement
        for entry in part.of_kind("rule")
        if isinstance(entry.statement, syntax.Rule)
    }
    tokens = whole.parts.get("tokens")
    specials = [name for kind, name in tokens.entries if kind == "special"] if tokens else None
    seeing = [name for name, one in whole.parts.items() if one.kind in ("encoder", "adapter")]
    reader = _RuleReader(part.name, rules, specials, seeing, findings)
    read = {name: reader.read(rule) for name, rule in rules.items()}
    _refuse_recursion(rules, findings)
    _refuse_idle(part.name, rules, findings)
    if reader.lacking:
        findings.add(_without_tokens(part, reader.lacking, whole))
    return read


def _without_tokens(part: Part, asked: Sequence[Span], whole: Whole) -> Diagnostic:
    """One mistake, however many tokens a layout would write."""
    dropped = whole.dropped.get("tokens")
    return Diagnostic(
        "N213",
        f"the layout `{part.name}` writes special tokens, and the recipe has no `tokens`",
        (
            Label(asked[0], "such as this one"),
            *([Label(dropped, "dropped here", False)] if dropped else []),
        ),
        fix=Fix("add `tokens { ... }`, which declares them"),
    )


class _RuleReader:
    """Reads the items of one layout's rules; `seeing` are the parts that make features.

    `specials` is None where the recipe declares none; `lacking` then gathers where one is written.
    """

    def __init__(
        self,
        layout: str,
        rules: Mapping[str, syntax.Rule],
        specials: Iterable[str] | None,
        seeing: Iterable[str],
        findings: Findings,
    ) -> None:
        self._layout = layout
        self._rules = rules
        self._specials = tuple(specials or ())
        self._unknown = specials is None
        self.lacking: list[Span] = []
        self._seeing = tuple(seeing)
        self._findings = findings

    def read(self, rule: syntax.Rule) -> Rule:
        names = tuple(word.name for word in rule.parameters)
        for number, word in enumerate(rule.parameters):
            if word.name in names[:number]:
                twice = f"`{word.name}` is a parameter twice"
                self._complain("L703", twice, word.span, fix=Fix("give one of them another name"))
        wanted = CONTENT_RULES.get(rule.name)
        if wanted is not None and len(names) != wanted:
            self._complain(
                "L703",
                f"`{rule.name}` takes {_many(wanted, 'parameter')}",
                rule.name_span,
                f"{len(names)} here",
                Fix(f"write `{rule.name}({', '.join('xt'[:wanted])})`"),
            )
        return Rule(name=rule.name, parameters=names, items=self._items(rule.items, names))

    def _items(
        self, items: Iterable[syntax.Item], names: tuple[str, ...], inside: str = ""
    ) -> tuple[LayoutItem, ...]:
        read = (self._item(item, names, inside) for item in items)
        return tuple(item for item in read if item is not None)

    def _item(self, item: syntax.Item, names: tuple[str, ...], inside: str) -> LayoutItem | None:
        """One item; `inside` is the bracket that it stands in, if any."""
        match item:
            case syntax.Text():
                return TextItem(text=item.value)
            case syntax.Word():
                if item.name in names:
                    return SlotItem(parameter=item.name)
                if self._special(item.name, item.span, names):
                    return SpecialItem(special=item.name)
                return None
            case syntax.Repeat():
                known = self._special(item.name, item.name_span, ())
                counts = ("tokens", *self._seeing)
                counted = self._field(item.parameter, item.field, counts, item.count_span, names)
                if known and counted:
                    part = None if item.field == "tokens" else item.field
                    return RepeatItem(special=item.name, count=item.parameter, part=part)
                return None
            case syntax.Field():
                known = self._field(
                    item.parameter, item.field, ("index", "corners"), item.span, names
                )
                if not known:
                    return None
                if item.field == "index":
                    return IndexItem(parameter=item.parameter)
                return CornersItem(parameter=item.parameter)
            case syntax.Use():
                return self._use(item, names)
            case syntax.Loss():
                if inside == "loss":
                    fix = Fix("leave this `loss` out, and keep what stands in it")
                    self._complain("L709", "this is supervised already", item.span, fix=fix)
                elif inside:
                    self._complain(
                        "L710",
                        f"a loss stands inside `{inside}`",
                        item.span,
                        fix=Fix(f"write `loss({inside}(...))`"),
                    )
                return LossItem(items=self._items(item.items, names, "loss"))
            case syntax.Apart():
                return ApartItem(items=self._items(item.items, names, inside or "apart"))
            case syntax.Choice():
                lines = tuple(self._items(line, names, inside or "choice") for line in item.lines)
                return ChoiceItem(lines=lines)

    def _special(self, name: str, span: Span, parameters: tuple[str, ...]) -> bool:
        if name in self._specials:
            return True
        if self._unknown and name not in self._rules:
            self.lacking.append(span)
            return True
        known = (*self._specials, *parameters)
        near = nearest(name, known)
        fix = rename(span, near) if near else None
        if name in self._rules:
            fix = Fix(f"write `{name}(...)` to use the rule")
        elif fix is None:
            fix = Fix(f'declare it in `tokens`: `special {name} = "..." @ id`')
        kind = "parameter or special token" if parameters else "special token"
        self._complain("L701", f"there is no {kind} `{name}`", span, fix=fix)
        return False

    def _field(
        self,
        parameter: str,
        field: str,
        wanted: Sequence[str],
        span: Span,
        names: tuple[str, ...],
    ) -> bool:
        if parameter not in names:
            near = nearest(parameter, names)
            fix = rename(span, f"{near}.{field}") if near else None
            self._complain("L701", f"there is no parameter `{parameter}`", span, fix=fix)
            return False
        if field not in wanted:
            meant = nearest(field, wanted) or wanted[0]
            self._complain(
                "L701",
                f"`{parameter}` has no `{field}` here",
                span,
                f"`{parameter}.{meant}` {_FIELDS.get(meant, 'counts the places of its features')}",
                rename(span, f"{parameter}.{meant}"),
            )
            return False
        return True

    def _use(self, use: syntax.Use, names: tuple[str, ...]) -> LayoutItem | None:
        rule = self._rules.get(use.rule)
        if rule is None:
            near = nearest(use.rule, self._rules)
            fix = Fix(f"write `{near}(...)`") if near else Fix(f"it has {listing(self._rules)}")
            self._complain("L702", f"`{self._layout}` has no rule `{use.rule}`", use.span, fix=fix)
            return None
        if len(use.arguments) != len(rule.parameters):
            self._findings.add(
                Diagnostic(
                    "L703",
                    f"`{use.rule}` takes {_many(len(rule.parameters), 'argument')}",
                    (
                        Label(use.span, f"{len(use.arguments)} here"),
                        Label(rule.name_span, "the rule", False),
                    ),
                    fix=Fix(f"write `{_called(rule)}`, with what this rule is given"),
                )
            )
            return None
        for word in use.arguments:
            if word.name not in names:
                near = nearest(word.name, names)
                fix = rename(word.span, near) if near else Fix("hand on a parameter of this rule")
                self._complain("L701", f"there is no parameter `{word.name}`", word.span, fix=fix)
                return None
        return RuleItem(rule=use.rule, arguments=tuple(word.name for word in use.arguments))

    def _complain(
        self, code: str, title: str, span: Span, seen: str = "", fix: Fix | None = None
    ) -> None:
        self._findings.add(Diagnostic(code, title, (Label(span, seen),), fix=fix))


_FIELDS = {"index": "is its number", "corners": "are its coordinates"}


def _called(rule: syntax.Rule) -> str:
    return f"{rule.name}({', '.join(word.name for word in rule.parameters)})"


def _uses(items: Iterable[syntax.Item]) -> Iterable[syntax.Use]:
    for item in items:
        if isinstance(item, syntax.Use):
            yield item
        yield from _uses(syntax.inner(item))


def _refuse_recursion(rules: Mapping[str, syntax.Rule], findings: Findings) -> None:
    """Rules may use one another, but not in a circle."""
    done: set[str] = set()
    for start in rules:
        pending = [(start, iter(list(_uses(rules[start].items))))]
        path = [start]
        while pending:
            name, uses = pending[-1]
            use = next(uses, None)
            if use is None:
                pending.pop()
                path.pop()
                done.add(name)
            elif use.rule in path:
                findings.add(
                    Diagnostic(
                        "L708",
                        f"the rule `{use.rule}` uses itself",
                        (Label(use.span), Label(rules[use.rule].name_span, "the rule", False)),
                        " -> ".join([*path[path.index(use.rule) :], use.rule]),
                        Fix("write out what it stands for"),
                    )
                )
            elif use.rule in rules and use.rule not in done:
                path.append(use.rule)
                pending.append((use.rule, iter(list(_uses(rules[use.rule].items)))))


def _refuse_idle(layout: str, rules: Mapping[str, syntax.Rule], findings: Findings) -> None:
    """A rule that nobody can ask for is a slip of the pen."""
    used = {use.rule for rule in rules.values() for use in _uses(rule.items)}
    for name, rule in rules.items():
        if name in CONTENT_RULES or name in used:
            continue
        near = nearest(name, set(CONTENT_RULES) - set(rules))
        findings.add(
            Diagnostic(
                "L702",
                f"nothing asks `{layout}` for the rule `{name}`",
                (Label(rule.name_span),),
                reason=f"data and dialogues ask for {listing(CONTENT_RULES)}",
                fix=rename(rule.name_span, near) if near else Fix("use it in another rule"),
            )
        )


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"

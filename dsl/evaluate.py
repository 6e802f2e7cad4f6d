"""What a written value is worth, references followed: late, so that a variant's change is seen."""

from collections.abc import Iterable, Mapping, Set
from dataclasses import dataclass
from functools import cache
from typing import NoReturn

from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from . import syntax
from .arithmetic import worth
from .diagnostics import Diagnostic, Findings, Fix, Label, RecipeError, listing, nearest, rename
from .inputs import INPUTS
from .kinds import Model
from .limits import LONGEST_CHAIN
from .modes import MODES
from .objectives import OBJECTIVES
from .parse import parse_amendments
from .parts import ADAPTERS, ENCODERS, LANGUAGE_MODELS
from .published import Weights
from .reading import Default, Measure, names_of
from .source import Source, Span
from .stages import Stage
from .texts import Layout, Tokens
from .units import Quantity
from .values import CallValue, Given, GridValue, ListValue, RangeValue, Reported, Value
from .whole import Entry, Part, Whole

_MODELS: Mapping[str, Mapping[str, type[Model]]] = {
    "input": INPUTS,
    "encoder": ENCODERS,
    "adapter": ADAPTERS,
    "lm": LANGUAGE_MODELS,
    "objective": OBJECTIVES,
    "mode": MODES,
}
_UNTYPED: Mapping[str, type[Model]] = {
    "tokens": Tokens,
    "weights": Weights,
    "layout": Layout,
    "stage": Stage,
}
STATED_OTHERWISE = {"specials", "rules", "fresh", "ignored"}
"""Fields that statements of their own fill, not settings."""


def types_of(kind: str) -> Mapping[str, type[Model]]:
    """The types that a block of this kind may have, by name."""
    return _MODELS[kind]


def model_of(part: Part) -> type[Model] | None:
    """The model of a block; None when its type is not known."""
    return model_in(part.kind, part.name, part.type)


def model_in(kind: str, name: str, type_: str | None) -> type[Model] | None:
    """The model of a block of this kind, name and type; None when there is none."""
    if kind in _UNTYPED:
        return _UNTYPED[kind]
    return _MODELS.get(kind, {}).get(name if kind == "input" else type_ or "")


@cache
def settings_of(model: type[Model]) -> Mapping[str, FieldInfo]:
    """The settings that a block may write, as they are written."""
    return {
        field.alias or name: field
        for name, field in model.model_fields.items()
        if name not in STATED_OTHERWISE and (field.alias or name) in names_of(model)
    }


@cache
def default_expression(expression: str) -> syntax.Value:
    """The tree of an expression that a model states for a missing setting."""
    (setting,) = parse_amendments(Source("default", f"this.default = {expression}"))
    return setting.value


class Written(Given):
    """A value of the text; where it stands it may refer to any setting of the recipe."""

    def __init__(
        self,
        node: syntax.Value,
        evaluator: "Evaluator",
        home: str,
        entry: Entry | None,
        span: Span | None = None,
    ) -> None:
        self.node = node
        self.entry = entry
        self.is_derived = False
        """Whether its worth comes from other settings, or from arithmetic."""
        self.argument_name: Span | None = None
        """Where the name stands under which it is handed to a call."""
        self._evaluator = evaluator
        self._home = home
        self._span = span or node.span
        self._value: Value | None = None
        self._is_bad = False
        self._rests_on_bad: bool | None = None
        self._target: Given | None = None
        self._children: dict[int, Written] = {}

    @property
    def span(self) -> Span:
        """Where it stands; for a default, the header of its block."""
        return self._span

    @property
    def name(self) -> str:
        """The setting it belongs to: `lm.width`."""
        if self.entry and isinstance(self.entry.statement, syntax.Setting):
            return f"{self._home}.{self.entry.statement.name}"
        return self._home

    @property
    def is_assumed(self) -> bool:
        """Whether the author wrote `assumed(...)` around it."""
        return isinstance(self.node, syntax.Call) and self.node.name == "assumed"

    @property
    def sources(self) -> tuple[str, ...]:
        """The paths of the settings and arguments that its worth was computed from."""
        content = self._assumed_content() if self.is_assumed else self
        if content is None or not content.is_derived:
            return ()
        paths = (value for value in syntax.walk(content.node) if isinstance(value, syntax.Path))
        names = ([step.name for step in path.steps] for path in paths)
        found = (".".join([self._home if n == "this" else n, *rest]) for n, *rest in names)
        return tuple(dict.fromkeys(found))

    def inner(self, node: syntax.Value, argument_name: Span | None = None) -> "Written":
        """A value inside this one; the same object each time."""
        if id(node) not in self._children:
            child = Written(node, self._evaluator, self._home, self.entry)
            child.argument_name = argument_name
            self._children[id(node)] = child
        return self._children[id(node)]

    def path(self) -> syntax.Path | None:
        """The path as written, also inside `assumed(...)`."""
        if self.is_assumed:
            content = self._assumed_content()
            return content.path() if content else None
        return self.node if isinstance(self.node, syntax.Path) else None

    def known(self) -> Value | None:
        """What it is worth, if a model has asked for that already; a selector has no worth."""
        return self._value

    def value(self) -> Value:
        """What it is worth; found once."""
        if self._is_bad:
            raise Reported
        if self._value is None:
            try:
                with self._evaluator.following(self):
                    self._value = self._find()
            except RecipeError as error:
                self._is_bad = True
                for diagnostic in error.diagnostics:
                    self._evaluator.findings.add(diagnostic)
                raise Reported from None
            except Reported:
                self._is_bad = True
                raise
        return self._value

    def _find(self) -> Value:
        node = self.node
        match node:
            case syntax.Text():
                return node.value
            case syntax.Truth():
                return node.value
            case syntax.Grid():
                return GridValue(node.sides)
            case syntax.Items():
                return ListValue(tuple(self.inner(item) for item in node.items))
            case syntax.Range():
                low, high, step = (
                    None if end is None else worth(end, self._number)
                    for end in (node.low, node.high, node.step)
                )
                assert high is not None
                return RangeValue(low, high, step)
            case syntax.Call():
                return self._call(node)
            case syntax.Path():
                return self._path(node)
            case syntax.Binary():
                self.is_derived = True
        return worth(node, self._number)

    def _assumed_content(self) -> "Written | None":
        assert isinstance(self.node, syntax.Call)
        given = self.node.arguments
        if len(given) == 1 and given[0].name is None:
            return self.inner(given[0].value)
        return None

    def _call(self, node: syntax.Call) -> Value:
        if self.is_assumed:
            content = self._assumed_content()
            if content is None:
                _refuse("V310", "`assumed` takes one value", node.span, "such as `assumed(256seq)`")
            return content.value()
        if len(node.target.steps) > 1 or node.target.steps[0].first is not None:
            _refuse("N214", f"`{node.name}` cannot be called here", node.target.span)
        positional = tuple(
            self.inner(argument.value) for argument in node.arguments if argument.name is None
        )
        named = tuple(
            (argument.name, self.inner(argument.value, argument.name_span))
            for argument in node.arguments
            if argument.name is not None
        )
        return CallValue(node.name, positional, named)

    def _number(self, node: syntax.Value) -> Quantity:
        """The quantity of a path or call inside an arithmetic expression."""
        value = self.inner(node).value()
        self.is_derived = True
        if not isinstance(value, Quantity):
            if isinstance(node, syntax.Path) and self._evaluator.takes_number(node, self._home):
                raise Reported  # by the setting itself, which takes nothing else
            _refuse("V303", "this is not a number", node.span, "arithmetic takes numbers")
        return value

    def _path(self, node: syntax.Path) -> Value:
        target = self._evaluator.target(node, self._home)
        if target is None:
            return node
        self.is_derived = True
        self._target = target
        return target.value()

    def rests_on(self, bad: Set[Given]) -> bool:
        """Whether its worth comes from one of these; they are the same each time."""
        if self._rests_on_bad is None:
            self._rests_on_bad = False  # for values that depend on themselves
            target = self._target
            self._rests_on_bad = (
                target in bad
                or (isinstance(target, Written) and target.rests_on(bad))
                or any(child.rests_on(bad) for child in self._children.values())
            )
        return self._rests_on_bad


def _refuse(code: str, title: str, span: Span, seen: str = "", fix: Fix | None = None) -> NoReturn:
    raise RecipeError([Diagnostic(code, title, (Label(span, seen),), fix=fix)])


@dataclass(frozen=True, slots=True)
class _Known(Given):
    """A default that needs no expression."""

    worth: Value
    at: Span

    @property
    def span(self) -> Span:
        """The header of the block that does without the setting."""
        return self.at

    def value(self) -> Value:
        """The default itself."""
        return self.worth

    def path(self) -> syntax.Path | None:
        """A default is no path."""
        return None


class Evaluator:
    """Finds the worth of every value of a recipe, and tells circles from chains."""

    def __init__(self, whole: Whole, findings: Findings) -> None:
        self.whole = whole
        self.findings = findings
        self._following: list[Written] = []
        self._settings: dict[tuple[str, str], Given | None] = {}

    def setting(self, part: Part, name: str) -> Written | None:
        """What is written for a setting of a block, or its default expression; None for neither."""
        given = self._setting(part, name)
        return given if isinstance(given, Written) else None

    def _setting(self, part: Part, name: str) -> Given | None:
        key = (part.name, name)
        if key not in self._settings:
            self._settings[key] = self._find_setting(part, name)
        return self._settings[key]

    def _find_setting(self, part: Part, name: str) -> Given | None:
        entry = part.setting(name)
        if entry is not None:
            assert isinstance(entry.statement, syntax.Setting)
            return Written(entry.statement.value, self, part.name, entry)
        model = model_of(part)
        field = settings_of(model).get(name) if model else None
        if field is None:
            return None
        for marker in field.metadata:
            if isinstance(marker, Default):
                node = default_expression(marker.expression)
                return Written(node, self, part.name, None, part.header)
        if field.default is PydanticUndefined or field.default is None:
            return None
        if isinstance(field.default, bool):
            return _Known(field.default, part.header)
        unit = next((marker.unit for marker in field.metadata if isinstance(marker, Measure)), "")
        if isinstance(field.default, int | float):
            return _Known(Quantity(field.default, unit), part.header)
        return None

    def following(self, written: Written) -> "_Following":
        """A context in which `written` is being found."""
        return _Following(self._following, written)

    def target(self, path: syntax.Path, home: str) -> Given | None:
        """The setting or argument that a path means; None when it is a plain word or a part.

        Raises `RecipeError` when the path starts at a part and then goes astray.
        """
        first, *rest = path.steps
        if not rest:
            return None
        part = self.whole.parts.get(home if first.name == "this" else first.name)
        if part is None:
            having = [
                name
                for name, other in self.whole.parts.items()
                if (model := model_of(other)) and rest[0].name in settings_of(model)
            ]
            title = f"there is no part `{first.name}`"
            self._astray(first, having or self.whole.parts, title)
        model = model_of(part)
        if model is None:
            raise Reported
        setting, *deeper = rest
        known = settings_of(model)
        if setting.name not in known:
            self._astray(setting, known, f"`{part.name}` has no setting `{setting.name}`")
        given = self._setting(part, setting.name)
        if given is None and known[setting.name].is_required():
            raise Reported
        for step in deeper:
            given = _argument(given, step.name) if given else None
        if given is None:
            _refuse("N204", f"`{path}` is not written, so it has no value to refer to", path.span)
        return given

    def takes_number(self, path: syntax.Path, home: str) -> bool:
        """Whether a path means a setting whose value must be a number."""
        first, *rest = path.steps
        part = self.whole.parts.get(home if first.name == "this" else first.name)
        model = model_of(part) if part else None
        if model is None or len(rest) != 1:
            return False
        field = settings_of(model)[rest[0].name]
        return any(isinstance(marker, Measure) for marker in field.metadata)

    def _astray(self, step: syntax.Step, known: Iterable[str], title: str) -> NoReturn:
        near = nearest(step.name, known)
        labels = [Label(step.span)]
        if step.name in self.whole.dropped:
            labels.append(Label(self.whole.dropped[step.name], "dropped here", False))
        fix = rename(step.span, near) if near else Fix(f"write {listing(known, 30, 'or')}")
        raise RecipeError([Diagnostic("N204", title, tuple(labels), fix=fix)])


def _argument(given: Given, name: str) -> Given | None:
    value = given.value()
    return dict(value.named).get(name) if isinstance(value, CallValue) else None


class _Following:
    """Keeps the values that are being found, so that one which needs itself is noticed."""

    def __init__(self, stack: list[Written], written: Written) -> None:
        self._stack = stack
        self._written = written

    def __enter__(self) -> None:
        if self._written in self._stack:
            circle = self._stack[self._stack.index(self._written) :]
            raise RecipeError([_circle(circle)])
        if len(self._stack) >= LONGEST_CHAIN:
            _refuse(
                "E111", f"more than {LONGEST_CHAIN} values refer to one another", self._written.span
            )
        self._stack.append(self._written)

    def __exit__(self, *_: object) -> None:
        self._stack.pop()


def _circle(circle: list[Written]) -> Diagnostic:
    """The complaint about values that need each other, the same whichever was asked for first."""
    paths = [written for written in circle if isinstance(written.node, syntax.Path)]
    start = paths.index(
        min(paths, key=lambda written: (written.span.source.name, written.span.start))
    )
    labels = tuple(
        Label(written.span, f"`{written.name}` needs `{written.node}`", number == 0)
        for number, written in enumerate(paths[start:] + paths[:start])
    )
    return Diagnostic(
        "N208",
        f"`{paths[start].name}` depends on itself",
        labels,
        fix=Fix("write a number for one of them"),
    )

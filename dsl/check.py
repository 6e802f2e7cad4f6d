"""Syntax tree to recipe: every value read by its model, every complaint given its place."""

from collections.abc import Iterator, Mapping, Set
from functools import cache
from itertools import zip_longest
from typing import Annotated, Any

from pydantic import TypeAdapter, ValidationError

from . import syntax
from .arguments import taken_as_argument
from .diagnostics import Diagnostic, Edit, Findings, Fix, Label, listing, nearest, rename
from .evaluate import Evaluator, Written, model_of, settings_of, types_of
from .facts import arguments_of, facts_of
from .kinds import Model
from .layouts import rules_of
from .published import Renamed
from .reading import Default, Problem, names_of
from .recipe import CALLS, Assertion, Facts, Recipe
from .references import check_references, in_order
from .source import Span
from .units import Quantity
from .values import CallValue, Given, ListValue
from .whole import WEIGHT_STATEMENTS, Entry, Part, Whole, article

EDITION = 1

Raw = dict[str, Any]
"""What a block's model is made of: setting name to `Written`, and tables of statements."""


def check(whole: Whole, findings: Findings) -> Recipe:
    """The recipe that was written; raises `RecipeError` with everything that is wrong with it."""
    findings.home = whole.name_span.source
    language = _edition(whole, findings)
    evaluator = Evaluator(whole, findings)
    raws: dict[str, Raw] = {}
    models: dict[str, Model] = {}
    errors: list[tuple[Part, type[Model], ValidationError]] = []
    for part in whole.parts.values():
        model = _model_of(part, findings)
        if model is None:
            continue
        raws[part.name] = _raw(part, model, whole, evaluator)
        try:
            models[part.name] = model.model_validate(raws[part.name])
        except ValidationError as error:
            models[part.name] = _what_is_good(model, raws[part.name], error)
            errors.append((part, model, error))
    bad = {given for part, _, wrong in errors for given in _blamed(raws[part.name], wrong)}
    for part, model, complaint in errors:
        _Complaints(part, model, raws[part.name], bad, findings).report(complaint)
    facts = facts_of(whole, raws)
    check_references(whole, models, facts, findings)
    findings.raise_if_any()
    assert not errors, "a value that is refused leaves a finding"
    return _recipe(whole, language, models, facts)


def _blamed(raw: Raw, error: ValidationError) -> Iterator[Given]:
    """The settings that are wrong; what refers to them is not to blame."""
    for details in error.errors(include_url=False):
        given = raw.get(str(details["loc"][0])) if details["loc"] else None
        if isinstance(given, Given):
            yield given


def _recipe(whole: Whole, language: int, models: Mapping[str, Model], facts: Facts) -> Recipe:
    def of_kind(kind: str) -> dict[str, Any]:
        return {name: models[name] for name, part in whole.parts.items() if part.kind == kind}

    # Its blocks have been validated each on its own.
    return Recipe.model_construct(
        name=whole.name,
        language=language,
        tokens=of_kind("tokens").get("tokens"),
        inputs=of_kind("input"),
        encoders=of_kind("encoder"),
        adapters=of_kind("adapter"),
        lm=of_kind("lm").get("lm"),
        weights=of_kind("weights").get("weights"),
        layouts=of_kind("layout"),
        objectives=of_kind("objective"),
        stages=in_order(of_kind("stage")),
        modes=of_kind("mode"),
        asserts=tuple(
            Assertion(str(found.comparison), found.comparison) for found in whole.asserts.values()
        ),
        facts=facts,
    )


def _edition(whole: Whole, findings: Findings) -> int:
    for name, entry in whole.settings.items():
        if name == "language":
            continue
        assert isinstance(entry.statement, syntax.Setting)
        findings.add(
            Diagnostic(
                "N202",
                f"a recipe has no setting `{name}`",
                (Label(entry.statement.name_span),),
                fix=rename(entry.statement.name_span, "language")
                if nearest(name, ["language"])
                else Fix("settings stand inside blocks; only `language` stands outside"),
            )
        )
    language = whole.settings.get("language")
    if language is None:
        findings.add(
            Diagnostic(
                "E106",
                "the recipe does not say its edition",
                (Label(whole.name_span, "a recipe starts with its edition of the language"),),
                fix=Fix(
                    f"write `language = {EDITION}` in its first line", _first_line(whole.name_span)
                ),
            )
        )
        return EDITION
    assert isinstance(language.statement, syntax.Setting)
    value = language.statement.value
    if (
        not isinstance(value, syntax.Number)
        or value.quantity.value != EDITION
        or value.quantity.unit
    ):
        findings.add(
            Diagnostic(
                "E106",
                "this edition of the language is not known",
                (Label(value.span, f"this triptych reads edition {EDITION}"),),
                fix=Fix(f"write `language = {EDITION}`", (Edit(value.span, str(EDITION)),), False),
            )
        )
    return EDITION


def _first_line(name: Span) -> tuple[Edit, ...]:
    """Writes the edition behind the brace that opens a recipe."""
    brace = name.source.text.find("{", name.end) + 1
    line = f"\n  language = {EDITION}\n"
    return (Edit(Span(name.source, brace, brace), line),) if brace else ()


def _model_of(part: Part, findings: Findings) -> type[Model] | None:
    model = model_of(part)
    if model is not None:
        return model
    wrong = part.name if part.kind == "input" else part.type or ""
    known = types_of(part.kind)
    near = nearest(wrong, known)
    span = part.type_span or part.header
    findings.add(
        Diagnostic(
            "N203",
            f"there is no {part.kind} `{wrong}`"
            if part.kind == "input"
            else f"there is no type `{wrong}` of {article(part.kind)}",
            (Label(span, f"there is {listing(known)}"),),
            fix=rename(span, near) if near and part.type_span else None,
        )
    )
    return None


def _raw(part: Part, model: type[Model], whole: Whole, evaluator: Evaluator) -> Raw:
    known = settings_of(model)
    raw: Raw = {}
    for entry in part.of_kind("setting"):
        assert isinstance(entry.statement, syntax.Setting)
        name = entry.statement.name
        if name in known:
            raw[name] = evaluator.setting(part, name)
        else:
            evaluator.findings.add(_unknown_setting(part, entry, known))
    for name, info in known.items():
        if name not in raw and any(isinstance(marker, Default) for marker in info.metadata):
            raw[name] = evaluator.setting(part, name)
    if part.kind == "tokens":
        raw["specials"] = _specials(part, evaluator)
    if part.kind == "layout":
        raw["rules"] = rules_of(part, whole, evaluator.findings)
    if part.kind == "weights":
        ignored = [entry.statement for entry in part.of_kind("ignore")]
        raw["rules"] = _map_rules(part, evaluator)
        raw["fresh"] = tuple(_fresh(entry, part, evaluator) for entry in part.of_kind("fresh"))
        raw["ignored"] = tuple(
            {"pattern": rule.pattern.value, "reason": rule.reason.value}
            for rule in ignored
            if isinstance(rule, syntax.Ignore)
        )
    return raw


def _map_rules(part: Part, evaluator: Evaluator) -> tuple[Raw, ...]:
    rules = list[Raw]()
    for entry in part.of_kind("map"):
        assert isinstance(entry.statement, syntax.Map)
        source, target = entry.statement.source, entry.statement.target
        rules.append(
            {
                "source": source.value,
                "target": Renamed(target=target.value)
                if isinstance(target, syntax.Text)
                else Written(target, evaluator, part.name, entry),
            }
        )
    return tuple(rules)


def _fresh(entry: Entry, part: Part, evaluator: Evaluator) -> Raw:
    statement = entry.statement
    assert isinstance(statement, syntax.Fresh)
    init = statement.init
    starts = {"init": Written(init, evaluator, part.name, entry)} if init else {}
    return {"pattern": statement.pattern.value, **starts}


def _what_is_good(model: type[Model], raw: Raw, error: ValidationError) -> Model:
    """The block without the settings that are wrong, so that names in the others are looked up."""
    wrong = {details["loc"][0] for details in error.errors() if details["loc"]}
    good: dict[str, Any] = {}
    for name, info in model.model_fields.items():
        key = info.alias or name
        if key in raw and key not in wrong:
            good[name] = _reader(model, name).validate_python(raw[key])
    return model.model_construct(**good)


@cache
def _reader(model: type[Model], name: str) -> TypeAdapter[Any]:
    """What reads one field of a model alone."""
    info = model.model_fields[name]
    typed: Any = info.annotation
    return TypeAdapter(Annotated[typed, *info.metadata] if info.metadata else typed)


def _specials(part: Part, evaluator: Evaluator) -> Raw:
    return {
        entry.statement.name: {
            "text": entry.statement.text.value,
            "id": Written(entry.statement.id, evaluator, part.name, entry),
        }
        for entry in part.of_kind("special")
        if isinstance(entry.statement, syntax.Special)
    }


def _unknown_setting(part: Part, entry: Entry, known: Mapping[str, object]) -> Diagnostic:
    statement = entry.statement
    assert isinstance(statement, syntax.Setting)
    near = nearest(statement.name, known)
    amended = part.header.source != statement.span.source or entry.amended
    labels = [Label(statement.name_span)]
    if amended:
        labels.append(Label(part.header, "declared here", False))
    shown = part.name if part.type is None else f"{part.name} : {part.type}"
    fix = Fix(f"it has {listing(known, limit=30)}")
    taken = taken_as_argument(part, statement.name)
    if taken:
        fix = Fix(f"`{statement.name}` is an argument, as in `{taken}`")
    if near:
        text = f"{part.name}.{near}" if "." in statement.name_span.text else near
        fix = rename(statement.name_span, text)
    return Diagnostic(
        "N209" if amended else "N202",
        f"`{shown}` has no setting `{statement.name}`" + (" to amend" if amended else ""),
        tuple(labels),
        fix=fix,
    )


# Complaints --------------------------------------------------------------------------------------


class _Complaints:
    """Turns what pydantic says about one block into diagnostics."""

    def __init__(
        self,
        part: Part,
        model: type[Model],
        raw: Raw,
        bad: Set[Given],
        findings: Findings,
    ) -> None:
        self._part = part
        self._model = model
        self._raw = raw
        self._bad = bad
        self._findings = findings

    def report(self, error: ValidationError) -> None:
        """Leave a finding for every error that has not been reported yet."""
        missing: dict[tuple[str | int, ...], list[str | int]] = {}
        misspelt: dict[tuple[str | int, ...], set[str | None]] = {
            (): {
                nearest(name, settings_of(self._model))
                for kind, name in self._part.entries
                if kind == "setting" and name not in self._raw
            }
        }
        errors = error.errors(include_url=False)
        for details in errors:
            loc = details["loc"]
            given, _ = self._given(loc)
            if isinstance(given, Written) and given.rests_on(self._bad):
                continue
            match details["type"]:
                case "too_short" if any(other["loc"][:-1] == loc for other in errors):
                    continue  # the members are there, but wrong
                case "reported":
                    continue
                case "problem":
                    self._problem(loc, details["ctx"]["problem"])
                case "missing":
                    missing.setdefault(loc[:-1], []).append(loc[-1])
                case "extra_forbidden":
                    misspelt.setdefault(loc[:-1], set()).add(self._unknown_argument(loc))
                case _:
                    self._out_of_bounds(loc, details)
        for loc, names in missing.items():
            meant = misspelt.get(loc, set())
            absent = [name for name in names if name not in meant]
            if absent:
                self._missing(loc, absent)

    def _add(
        self, code: str, title: str, span: Span, seen: str = "", fix: Fix | None = None
    ) -> None:
        self._findings.add(Diagnostic(code, title, (Label(span, seen),), fix=fix))

    def _given(self, loc: tuple[str | int, ...]) -> tuple[Given | None, str]:
        """The innermost written value on the way to `loc`, and the last call on that way."""
        found: Given | None = None
        call = ""
        current: Any = self._raw
        for key, after in zip_longest(loc, loc[1:]):
            inner = _child(current, key, after)
            if inner is None:
                continue
            current = inner
            if isinstance(inner, Given):
                found = inner
                call = _call_name(inner) or call
        return found, call

    def _span(self, loc: tuple[str | int, ...]) -> Span:
        if loc[:1] == ("specials",) and len(loc) > 1:
            entry = self._part.entries.get(("special", str(loc[1])))
            if entry and isinstance(entry.statement, syntax.Special):
                statement = entry.statement
                return statement.id.span if loc[2:] == ("id",) else statement.text.span
        if loc and loc[0] in WEIGHT_STATEMENTS and len(loc) > 2 and isinstance(loc[1], int):
            entries = self._part.of_kind(WEIGHT_STATEMENTS[str(loc[0])])
            written: syntax.Text | syntax.Call = getattr(entries[loc[1]].statement, str(loc[2]))
            given, _ = self._given(loc)
            return given.span if given else written.span
        given, _ = self._given(loc)
        return given.span if given else self._part.header

    def _problem(self, loc: tuple[str | int, ...], problem: Problem) -> None:
        if self._is_default(loc):
            self._bad_default(str(loc[0]))
            return
        labels = []
        for number, (path, text) in enumerate(problem.labels):
            keys: tuple[str | int, ...] = tuple(path.split(".")) if path else ()
            if path.startswith("#"):
                keys = (int(path[1:]),)
            span = self._span((*loc, *keys))
            if keys and not self._is_written((*loc, *keys)):
                text = f"`{path}`: {text} (by default)"
                span = self._behind_default(path) or span
            labels.append(Label(span, text, number == 0))
        fix = None
        if problem.fix:
            edits: tuple[Edit, ...] = ()
            first = problem.labels[0][0]
            given, _ = self._given((*loc, *first.split(".")) if first else loc)
            if problem.replacement is not None and isinstance(given, Written):
                edits = (Edit(labels[0].span, problem.replacement),)
            is_computed = isinstance(given, Written) and given.is_derived
            fix = Fix(problem.fix, edits, problem.safe and not is_computed)
        self._findings.add(
            Diagnostic(
                problem.code,
                problem.title.replace("{it}", f"`{self._path(loc)}`"),
                tuple(labels),
                problem.reason,
                fix,
            )
        )

    def _path(self, loc: tuple[str | int, ...]) -> str:
        """The path of a value as its author would write it: `lm.pos.sections`."""
        path = self._part.name
        current: Any = self._raw
        for key, after in zip_longest(loc, loc[1:]):
            inner = _child(current, key, after)
            if inner is None:
                continue
            current = inner
            path += f"[{key}]" if isinstance(key, int) else f".{str(key).removeprefix('?')}"
        return path

    def _is_written(self, loc: tuple[str | int, ...]) -> bool:
        return self._given(loc)[0] is not self._given(loc[:-1])[0] and not self._is_default(loc)

    def _is_default(self, loc: tuple[str | int, ...]) -> bool:
        given = self._raw.get(str(loc[0])) if loc else None
        return isinstance(given, Written) and given.entry is None

    def _used_by(self, default: Default) -> list[Entry]:
        """The settings that a default is computed from."""
        used = [name for name in settings_of(self._model) if f"this.{name}" in default.expression]
        return [entry for entry in map(self._part.setting, used) if entry]

    def _behind_default(self, name: str) -> Span | None:
        """What the recipe itself changes of what a default is computed from."""
        info = settings_of(self._model).get(name)
        defaults = [m for m in info.metadata if isinstance(m, Default)] if info else []
        entries = [entry for default in defaults for entry in self._used_by(default)]
        return next((entry.statement.span for entry in entries if not entry.inherited), None)

    def _bad_default(self, name: str) -> None:
        given = self._raw[name]
        assert isinstance(given, Written)
        markers = settings_of(self._model)[name].metadata
        default = next(marker for marker in markers if isinstance(marker, Default))
        entries = self._used_by(default)
        changed = next((entry for entry in entries if not entry.inherited), entries[0])
        worth = given.known()
        shown = f"{worth.value:g}" if isinstance(worth, Quantity) else "senseless"
        seen = f"makes `{name}` {shown}"
        labels = [
            Label(entry.statement.span, seen if entry is changed else "", entry is changed)
            for entry in entries
        ]
        written = default.expression.replace("this.", f"{self._part.name}.")
        self._findings.add(
            Diagnostic(
                default.code,
                default.title.replace("{it}", f"`{self._part.name}.{name}`"),
                tuple(labels),
                reason=f"unless it is written, `{name}` is {written}",
                fix=Fix(f"make them fit, or write `{name} = ...`"),
            )
        )

    def _missing(self, loc: tuple[str | int, ...], names: list[str | int]) -> None:
        if any(isinstance(name, int) for name in names):
            given, _ = self._given(loc)
            value = given.known() if isinstance(given, Written) else None
            count = len(value.items) if isinstance(value, ListValue) else 0
            self._add(
                "V303",
                f"`{self._path(loc)}` needs {count + len(names)} members",
                self._span(loc),
                f"{count} here",
            )
            return
        wanted = listing(str(name) for name in names)
        _, call = self._given(loc)
        if call:
            self._add(
                "V310",
                f"`{call}` lacks {wanted}",
                self._span(loc),
                fix=Fix(f"write `{call}({', '.join(f'{name}: ...' for name in names)})`"),
            )
            return
        lines = ", ".join(f"`{name} = ...`" for name in names)
        self._add(
            "N212",
            f"`{self._part.name}` lacks {wanted}",
            self._part.header,
            fix=Fix(f"write {lines}"),
        )

    def _unknown_argument(self, loc: tuple[str | int, ...]) -> str | None:
        """Report an argument that its call does not take; the one that was meant, if that shows."""
        name = str(loc[-1]).removeprefix("?")
        _, call = self._given(loc[:-1])
        known = names_of(CALLS[call]) if call in CALLS else []
        near = nearest(name, known)
        given, _ = self._given(loc)
        span = self._span(loc)
        fix = Fix(f"it takes {listing(known)}") if known else Fix("leave it out")
        if isinstance(given, Written) and given.argument_name:
            span = given.argument_name
            fix = rename(span, near) if near else fix
        self._add("V311", f"`{call}` takes no `{name}`", span, fix=fix)
        return near

    def _out_of_bounds(self, loc: tuple[str | int, ...], details: Any) -> None:
        bounds = details.get("ctx", {})
        says = {
            "greater_than": "{it} must be more than {gt}",
            "greater_than_equal": "{it} must be at least {ge}",
            "less_than": "{it} must be less than {lt}",
            "less_than_equal": "{it} must be at most {le}",
            "string_too_short": "{it} must not be empty",
            "too_short": "{it} needs at least {min_length} member{s}",
            "too_long": "{it} takes at most {max_length} member",
        }
        template = says.get(details["type"])
        if template is None:
            self._add("V303", details["msg"].lower(), self._span(loc))
            return
        plural = "s" if bounds.get("min_length", 1) > 1 else ""
        title = template.format(it=f"`{self._path(loc)}`", s=plural, **bounds)
        self._add("V305", title, self._span(loc))


def _child(current: Any, key: str | int, after: str | int | None) -> Any:
    """The value below `current` at `key`; None when `key` is only the name of a call.

    Before the name of a call a number is a place in a list, which may be one without brackets.
    """
    if isinstance(current, dict):
        return current.get(key)
    if isinstance(current, tuple):
        return current[key] if isinstance(key, int) else None
    value = current.known() if isinstance(current, Written) else None
    if isinstance(value, ListValue) and isinstance(key, int) and key < len(value.items):
        return value.items[key]
    if isinstance(value, CallValue):
        if isinstance(key, int) and after == value.name:
            return current
        if isinstance(key, int):
            return value.positional[key] if key < len(value.positional) else None
        return arguments_of(value).get(str(key).removeprefix("?"))
    return None


def _call_name(given: Given) -> str:
    value = given.known() if isinstance(given, Written) else None
    return value.name if isinstance(value, CallValue) else ""

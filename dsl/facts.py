"""Where each value of a checked recipe came from."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from . import syntax
from .evaluate import Written, model_of, settings_of
from .recipe import CALLS, Facts, Origin, OriginKind
from .source import Span
from .values import CallValue, Given, ListValue
from .whole import WEIGHT_STATEMENTS, Entry, Part, Whole

SETTINGS = "settings."
"""What stands before the name of a setting in its path, where a statement has that name too."""
Keys = tuple[str | int, ...]
"""The way into a value: names of arguments, and numbers of members."""


@dataclass(frozen=True, slots=True)
class _Fact:
    """What is known of the value at one path."""

    path: str
    span: Span
    origin: Origin
    sources: tuple[str, ...] = ()


def facts_of(whole: Whole, raws: Mapping[str, Mapping[str, Any]]) -> Facts:
    """Where each value stands and came from; `raws` holds what each block's model was made of."""
    spans: dict[str, Span] = {"": whole.name_span}
    origins: dict[str, Origin] = {}
    sources: dict[str, tuple[str, ...]] = {}
    amended = {
        f"{part.name}.{name}"
        for part in whole.parts.values()
        for (kind, name), entry in part.entries.items()
        if kind == "setting" and entry.amended
    }
    for name, entry in whole.settings.items():
        assert isinstance(entry.statement, syntax.Setting)
        spans[name] = entry.statement.value.span
        origins[name] = _origin(entry, "given")
    for number, found in enumerate(whole.asserts.values()):
        spans[f"asserts[{number}]"] = found.comparison.span
    for part in whole.parts.values():
        spans[part.name] = part.header
        kind: OriginKind = "given" if part.recipe == whole.name else "inherited"
        kind = "imported" if part.imported else kind
        imported = part.imported is not None
        origins[part.name] = Origin(kind, part.header, part.recipe, imported=imported)
        for fact in _part_facts(part, raws.get(part.name, {})):
            spans[fact.path] = fact.span
            origins[fact.path] = fact.origin
            if fact.sources:
                sources[fact.path] = fact.sources
    return Facts(
        MappingProxyType(spans),
        MappingProxyType(origins),
        MappingProxyType(sources),
        frozenset(amended),
    )


def arguments_of(value: CallValue) -> dict[str, Given]:
    """The arguments of a call by the fields that they fill."""
    model = CALLS.get(value.name)
    positional = zip(model.positional if model else (), value.positional, strict=False)
    return {**dict(positional), **dict(value.named)}


def _part_facts(part: Part, raw: Mapping[str, Any]) -> Iterator[_Fact]:
    statements = {name for kind, name in part.entries if kind in ("special", "rule")}
    for name, given in raw.items():
        if isinstance(given, Written):
            path = f"{part.name}.{SETTINGS if name in statements else ''}{name}"
            yield from _value_facts(path, (), given, part, assumed=False)
    counted: dict[str, str] = {kind: name for name, kind in WEIGHT_STATEMENTS.items()}
    numbers = dict.fromkeys(counted, 0)
    for (kind, name), entry in part.entries.items():
        if kind in numbers:
            path = f"{part.name}.{counted[kind]}[{numbers[kind]}]"
            numbers[kind] += 1
        elif kind != "setting":
            path = f"{part.name}.{name}"
        else:
            continue
        yield _Fact(path, entry.statement.span, _origin(entry, "given"))
    model = model_of(part)
    for name in settings_of(model) if model else ():
        if name not in raw and name not in statements:
            yield _Fact(f"{part.name}.{name}", part.header, Origin("default", None, part.recipe))


def _value_facts(
    path: str, keys: Keys, given: Written, part: Part, assumed: bool
) -> Iterator[_Fact]:
    if given.entry is None:
        yield _Fact(path, part.header, Origin("default", None, part.recipe), given.sources)
        return
    assumed = assumed or given.is_assumed
    value = given.known()
    kind: OriginKind = "assumed" if assumed else "derived" if given.is_derived else "given"
    yield _Fact(path, given.span, _origin(given.entry, kind, given.span, keys), given.sources)
    if given.is_derived:
        return
    if isinstance(value, CallValue):
        for name, argument in arguments_of(value).items():
            assert isinstance(argument, Written)
            yield from _value_facts(f"{path}.{name}", (*keys, name), argument, part, assumed)
    if isinstance(value, ListValue):
        for number, item in enumerate(value.items):
            assert isinstance(item, Written)
            yield from _value_facts(f"{path}[{number}]", (*keys, number), item, part, assumed)


def _origin(entry: Entry, kind: OriginKind, span: Span | None = None, keys: Keys = ()) -> Origin:
    while span and entry.replaced and _covers(entry.replaced.statement.span, span):
        entry = entry.replaced  # an argument that `--set` left as it was
    if kind == "given" and entry.imported:
        kind = "imported"
    elif kind == "given" and entry.inherited:
        kind = "inherited"
    before = entry.replaced
    replaced = _origin(before, "given", _stands(before, keys), keys) if before else None
    stands = span or _stands(entry, keys)
    return Origin(kind, stands, entry.recipe, replaced, entry.imported)


def _covers(outer: Span, inner: Span) -> bool:
    return outer.source == inner.source and outer.start <= inner.start and inner.end <= outer.end


def _stands(entry: Entry, keys: Keys) -> Span:
    """Where the value of a statement stands, or that argument or member of it."""
    statement = entry.statement
    if not isinstance(statement, syntax.Setting):
        return statement.span
    return (_inner(statement.value, keys) or statement.value).span


def _inner(value: syntax.Value, keys: Sequence[str | int]) -> syntax.Value | None:
    """The value at the end of a way into another; None where that has no such thing."""
    if isinstance(value, syntax.Call) and value.name == "assumed" and value.arguments:
        value = value.arguments[0].value
    if not keys:
        return value
    key, *rest = keys
    found: syntax.Value | None = None
    if isinstance(value, syntax.Items) and isinstance(key, int) and key < len(value.items):
        found = value.items[key]
    if isinstance(value, syntax.Call):
        model = CALLS.get(value.name)
        unnamed = [argument.value for argument in value.arguments if argument.name is None]
        named = {argument.name: argument.value for argument in value.arguments if argument.name}
        positional = dict(zip(model.positional if model else (), unnamed, strict=False))
        found = (positional | named).get(str(key))
    return _inner(found, rest) if found else None

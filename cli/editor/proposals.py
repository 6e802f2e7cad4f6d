"""What may be written for a value: words, calls, names, numbers with their unit."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from lsprotocol.types import CompletionItemKind as Kind

from ...dsl import syntax
from ...dsl.described import description
from ...dsl.evaluate import settings_of
from ...dsl.inputs import INPUTS
from ...dsl.kinds import Model
from ...dsl.reading import Measure, TextsOrNames, names_of
from ...dsl.texts import Tokens
from ...dsl.units import UNITS
from .hover import signature
from .slots import Slot, field_of, meaning, slot_of
from .symbols import Scope


@dataclass(frozen=True, slots=True)
class Proposal:
    """What an editor may offer to write.

    `snippet` is what is written, with places to fill in (`${1:name}`); the label itself where it is
    empty. Those of a lower `rank` come first.
    """

    label: str
    kind: Kind
    detail: str = ""
    about: str = ""
    snippet: str = ""
    rank: int = 5


SEEN_BY = {
    "encoder": ("input",),
    "adapter": ("encoder", "adapter"),
    "lm": ("adapter", "encoder"),
}
"""From the kind of a part to the kinds of what its `in` may name."""
PARTS = ("encoder", "adapter", "lm")


def values(
    slot: Slot, scope: Scope, block: syntax.Block | None, kind: str, name: str
) -> Iterator[Proposal]:
    """What a slot of the block `name` may hold."""
    member = slot.member()
    for choice in dict.fromkeys((*slot.words, *member.words)):
        yield Proposal(choice, Kind.EnumMember, meaning(slot), rank=0)
    for model in {**slot.calls, **member.calls}.values():
        yield call(model)
    if slot.takes_names:
        yield from named(slot, scope, block, kind, name)
    if slot.is_flag:
        yield from (Proposal(word, Kind.Keyword, rank=0) for word in ("true", "false"))
    if slot.is_text:
        yield Proposal('"..."', Kind.Text, "a string", snippet='"$1"')
    if slot.is_grid:
        yield Proposal("2x2", Kind.Value, "rows x columns", snippet="${1:2}x${2:2}")
    if slot.units is not None:
        yield from numbers(slot)
        yield from references(slot.units, scope, f"{name}.{slot.name}")
    if slot.is_list and not slot.takes_names:
        yield Proposal("[...]", Kind.Value, "a list", snippet="[$1]")
    about = "the author's choice, because the source is silent"
    yield Proposal("assumed(...)", Kind.Function, about, snippet="assumed($1)", rank=9)


def call(model: type[Model]) -> Proposal:
    """A call, with places for the arguments that it needs."""
    name = str(model.model_fields["call"].default)
    return Proposal(
        name, Kind.Function, signature(model), description(model), template(model), rank=1
    )


def template(model: type[Model]) -> str:
    """A call as a snippet: arguments without a name first, then those that must be written."""
    name = str(model.model_fields["call"].default)
    positional = getattr(model, "positional", ())
    if getattr(model, "open_arguments", None):
        return f"{name}(${{1:kind}}: $2)"
    written = list[str]()
    for argument in names_of(model):
        slot = slot_of(model, argument)
        assert slot
        if not field_of(slot).is_required():
            continue
        place = placeholder(slot, len(written) + 1)
        written.append(place if argument in positional else f"{argument}: {place}")
    return f"{name}({', '.join(written)})"


def placeholder(slot: Slot, number: int) -> str:
    """A place to fill in, showing what a value looks like."""
    if slot.words:
        return f"${{{number}|{','.join(slot.words)}|}}"
    if slot.is_grid:
        return f"${{{number}:2x2}}"
    if slot.is_text:
        return f'"${{{number}}}"'
    if slot.units is not None:
        shown = "1.." if slot.is_range else ""
        return f"${{{number}:{shown}1{slot.units[0]}}}"
    return f"${{{number}}}"


def numbers(slot: Slot) -> Iterator[Proposal]:
    """A number in each unit that the slot takes."""
    assert slot.units is not None
    for unit in slot.units:
        if slot.is_range:
            yield Proposal(
                f"1..8{unit}", Kind.Unit, "a range", snippet=f"${{1:1{unit}}}..${{2:8{unit}}}"
            )
        elif unit:
            yield Proposal(f"1{unit}", Kind.Unit, f"a number of {unit}", snippet=f"${{1:1}}{unit}")


def units(slot: Slot | None, digits: str) -> Iterator[Proposal]:
    """The number that is being written, in each unit that it may have here."""
    wanted = slot.units if slot and slot.units is not None else None
    for unit, (base, numerator, denominator) in UNITS.items():
        if wanted is not None and base not in wanted:
            continue
        factor = f"{numerator:,}" if denominator == 1 else f"1/{denominator:,}"
        detail = f"{factor} {base}".strip() if unit != base else base
        yield Proposal(f"{digits}{unit}", Kind.Unit, detail, rank=1 if unit == base else 5)


def references(wanted: tuple[str, ...] | None, scope: Scope, own: str) -> Iterator[Proposal]:
    """Settings that are numbers of one of these units: `lm.width`."""
    for part in scope.kinds:
        model = scope.model(part)
        if model is None:
            continue
        for name, info in settings_of(model).items():
            unit = next((one.unit for one in info.metadata if isinstance(one, Measure)), None)
            written = ("setting", part, name) in scope.declared
            if unit is None or not written or f"{part}.{name}" == own:
                continue
            if wanted is None or unit in wanted:
                yield Proposal(f"{part}.{name}", Kind.Field, "a setting", rank=6)


def named(
    slot: Slot, scope: Scope, block: syntax.Block | None, kind: str, name: str
) -> Iterator[Proposal]:
    """What a slot that takes names may name."""
    if slot.model is Tokens or slot.marked(TextsOrNames):
        yield from words(scope.specials, Kind.EnumMember, "a special token")
        return
    match slot.name:
        case "apart":
            yield from words(kinds_of_data(block), Kind.EnumMember, "a kind of data")
        case "layout" | "layouts":
            yield from words(scope.names("layout"), Kind.Module, "a layout")
        case "after":
            others = [stage for stage in scope.names("stage") if stage != name]
            yield from words(others, Kind.Event, "a stage")
        case "loss":
            chosen = ["lm"] if "lm" in scope.kinds else []
            yield from words([*chosen, *scope.names("objective")], Kind.Function, "a loss")
        case "by":
            yield from words(scope.names("objective"), Kind.Function, "an objective")
        case "in" | "source":
            kinds = SEEN_BY.get(kind, PARTS)
            seen = scope.names(*kinds) or list(INPUTS) * ("input" in kinds)
            others = [part for part in seen if part != name]
            yield from words(others, Kind.Class, "what it takes")
        case _:
            yield from words(scope.names(*PARTS), Kind.Class, "a part")


def words(names: Iterable[str], kind: Kind, detail: str) -> Iterator[Proposal]:
    """Names as they are."""
    yield from (Proposal(name, kind, detail, rank=0) for name in names)


def kinds_of_data(block: syntax.Block | None) -> list[str]:
    """The kinds of data that a stage draws."""
    for statement in block.body if block else ():
        if isinstance(statement, syntax.Setting) and statement.name == "data":
            value = statement.value
            if isinstance(value, syntax.Call):
                return [argument.name for argument in value.arguments if argument.name]
    return []


def said_of(slot: Slot) -> str:
    """The kind of a setting's value, in a few words."""
    if slot.words:
        return " | ".join(slot.words)
    if slot.calls:
        return " | ".join(f"{name}()" for name in slot.calls)
    if slot.is_flag:
        return "true | false"
    if slot.is_grid:
        return "rows x columns"
    if slot.is_text:
        return '"..."'
    if slot.units is not None:
        shown = "range" if slot.is_range else "number"
        unit = " | ".join(filter(None, slot.units))
        return f"{shown} {unit}".strip()
    return "names" if slot.takes_names else "a list" if slot.is_list else ""

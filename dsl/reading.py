"""How a written value becomes the value of a field: one marker for each kind of field.

A marker stands in a field's type (`Annotated[int, Measure("px")]`). It turns what was written, a
`Given`, into what pydantic then validates; anything else passes through, so that models can be
made from Python as well. A mistake is a `Problem`, which the checker gives its place.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

from pydantic import GetCoreSchemaHandler
from pydantic_core import PydanticCustomError, core_schema

from .diagnostics import listing, nearest
from .syntax import Path
from .units import UNIT_WORDS, Quantity
from .values import CallValue, Given, GridValue, ListValue, RangeValue, Reported, Value


@dataclass(frozen=True, slots=True)
class Problem:
    """A mistake in one value or among several fields, before it has a place.

    `{it}` in the title stands for the setting. `labels` go from field paths, relative to the value,
    to what is to be seen there; the first is the primary one, and the empty path is the value
    itself. `replacement` is text that may be written in place of the first; it is `safe` where it
    cannot mean anything else than what was meant.
    """

    code: str
    title: str
    labels: tuple[tuple[str, str], ...] = (("", ""),)
    reason: str = ""
    fix: str = ""
    replacement: str | None = None
    safe: bool = True


def complain(problem: Problem) -> NoReturn:
    """Stop validating a value, for this reason."""
    raise PydanticCustomError("problem", "{title}", {"title": problem.title, "problem": problem})


def said(value: Value) -> str:
    """The kind of a value, for a sentence."""
    match value:
        case bool():
            return "true or false"
        case Quantity():
            return counted(value.unit)
        case str():
            return "a string"
        case RangeValue():
            return "a range"
        case GridValue():
            return "a grid"
        case ListValue():
            return "a list"
        case CallValue():
            return f"the call `{value.name}`"
        case Path():
            return f"the name `{value}`"


def wrong_kind(wanted: str, value: Value) -> NoReturn:
    """Complain that a value is of another kind than its setting takes."""
    complain(Problem("V303", f"{{it}} takes {wanted}", (("", f"this is {said(value)}"),)))


_FLAGS = {"yes": "true", "on": "true", "no": "false", "off": "false"}
"""How other languages write what is true and what is not."""


def _no_flag(value: Value) -> NoReturn:
    right = _FLAGS.get(str(value).lower(), str(value).lower()) if isinstance(value, Path) else ""
    known = right in _FLAGS.values()
    complain(
        Problem(
            "V303",
            "{it} takes `true` or `false`",
            (("", f"this is {said(value)}"),),
            fix=f"write `{right}`" if known else "write `true` or `false`",
            replacement=right if known else None,
        )
    )


def _worth(given: Given) -> Value:
    """The worth of what was written; stops without a word when its mistake has been reported."""
    try:
        return given.value()
    except Reported as known:
        raise PydanticCustomError("reported", "reported already") from known


class Reader:
    """Reads a written value before pydantic validates it; made from Python it passes through."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        read = self.reader(source)
        return core_schema.no_info_before_validator_function(
            lambda given: read(given) if isinstance(given, Given) else given, handler(source)
        )

    def reader(self, source: Any) -> Callable[[Given], object]:
        """How a value for a field of the type `source` is read."""
        raise NotImplementedError


def _not_whole(number: int | float, unit: str) -> NoReturn:
    below, above = f"{math.floor(number)}{unit}", f"{math.ceil(number)}{unit}"
    complain(
        Problem(
            "V308",
            "{it} takes a whole number",
            (("", f"this is {number}{unit}"),),
            fix=f"write `{below}` or `{above}`, or make it come out whole",
        )
    )


def in_unit(value: Value, unit: str, wanted: str = "", right: str = "") -> int | float:
    """The number of a quantity that must have this unit; `right` is what would be written then."""
    wanted = wanted or counted(unit)
    if not isinstance(value, Quantity):
        wrong_kind(wanted, value)
    right = right or f"{value.value}{unit}"
    if value.unit == unit:
        return value.value
    if not value.unit:
        complain(
            Problem(
                "V302",
                f"{{it}} takes {wanted}, and this number has no unit",
                (("", f"the unit `{unit}` is missing"),),
                fix=f"write `{right}`",
                replacement=right,
            )
        )
    complain(
        Problem(
            "V301",
            f"{{it}} takes {wanted}",
            (("", f"this is {said(value)}"),),
            fix=f"write `{right}`, if the number is right",
            replacement=right,
            safe=False,
        )
    )


def counted(unit: str) -> str:
    """What a number of this unit counts."""
    return f"a number of {UNIT_WORDS[unit]}" if unit else "a number without a unit"


@dataclass(frozen=True)
class Measure(Reader):
    """A number of one unit; the empty unit is a bare number."""

    unit: str = ""

    def reader(self, source: Any) -> Callable[[Given], object]:
        """An int field refuses fractions."""
        whole = source is int

        def read(given: Given) -> int | float:
            number = in_unit(_worth(given), self.unit)
            if whole and not isinstance(number, int):
                _not_whole(number, self.unit)
            return number

        return read


@dataclass(frozen=True)
class Ranged(Reader):
    """A range whose ends are whole numbers of one unit; a single number is a range of itself."""

    unit: str = ""

    def reader(self, source: Any) -> Callable[[Given], object]:
        """The ends, for the model `Range`."""
        return self._read

    def _read(self, given: Given) -> object:
        value = _worth(given)
        if isinstance(value, Quantity):
            value = RangeValue(value, value, None)
        if not isinstance(value, RangeValue):
            wrong_kind(f"a range, such as `..200{self.unit}`", value)
        ends = (value.low, value.high, value.step)
        low, high, step = (None if end is None else self._whole(end, value) for end in ends)
        assert high is not None
        if (low is not None and low > high) or (step is not None and step < 1):
            complain(
                Problem(
                    "V309",
                    "the range of {it} holds nothing",
                    (("", f"from {'the smallest' if low is None else low} to {high}"),),
                    fix="write the smaller end first",
                    replacement=self._in_unit(RangeValue(value.high, value.low, value.step))
                    if value.low
                    else None,
                    safe=False,
                )
            )
        if high < 1 or (low is not None and low < 1):
            complain(
                Problem(
                    "V305",
                    "{it} is a range of counts, which begin at 1",
                    (("", f"from {'the smallest' if low is None else low} to {high}"),),
                    fix=f"write `..{high}{self.unit}`" if high > 0 else "write a larger number",
                )
            )
        return {"low": low, "high": high, "step": 1 if step is None else step}

    def _in_unit(self, value: RangeValue) -> str:
        """The same range with every number in the unit of the setting."""
        low, high, step = (
            "" if end is None else f"{end.value}{self.unit}"
            for end in (value.low, value.high, value.step)
        )
        return f"{low}..{high}{step and f' by {step}'}"

    def _whole(self, end: Quantity, value: RangeValue) -> int:
        number = in_unit(end, self.unit, right=self._in_unit(value))
        if not isinstance(number, int):
            complain(
                Problem(
                    "V308", "the range of {it} has whole ends", (("", f"{number} is not whole"),)
                )
            )
        return number


@dataclass(frozen=True)
class Amounts(Reader):
    """A whole number in one of several units; both are kept."""

    units: tuple[str, ...]

    def reader(self, source: Any) -> Callable[[Given], object]:
        """The number and its unit, for the model `Amount`."""
        return self._read

    def _read(self, given: Given) -> object:
        value = _worth(given)
        known = listing(self.units, last="or")
        if not isinstance(value, Quantity):
            wrong_kind(f"a number of {known}", value)
        if value.unit not in self.units:
            code, seen = ("V301", said(value)) if value.unit else ("V302", "a bare number")
            likely = f"{value.value}{self.units[0]}"
            complain(
                Problem(
                    code,
                    f"{{it}} is counted in {known}",
                    (("", f"this is {seen}"),),
                    fix=f"write `{likely}`, if that is what is counted",
                    replacement=likely,
                    safe=False,
                )
            )
        if not isinstance(value.value, int):
            _not_whole(value.value, value.unit)
        return {"value": value.value, "unit": value.unit}


class Sides(Reader):
    """A grid of rows and columns, such as `2x2`."""

    def reader(self, source: Any) -> Callable[[Given], object]:
        """The sides, for the model `Grid`."""

        def read(given: Given) -> object:
            value = _worth(given)
            if not isinstance(value, GridValue) or len(value.sides) != 2:
                wrong_kind("rows x columns, such as `2x2`", value)
            return {"rows": value.sides[0], "columns": value.sides[1]}

        return read


class Plain(Reader):
    """A string, or true or false."""

    def reader(self, source: Any) -> Callable[[Given], object]:
        """The value as it is."""

        def read(given: Given) -> object:
            value = _worth(given)
            if isinstance(value, source):
                return value
            if source is bool:
                _no_flag(value)
            wrong_kind("a string in quotes", value)

        return read


class Choice(Reader):
    """A bare word out of those that the field's `Literal` lists."""

    def reader(self, source: Any) -> Callable[[Given], object]:
        """The word."""
        choices: tuple[str, ...] = get_args(source)
        known = listing(choices, last="or")

        def read(given: Given) -> object:
            value = _worth(given)
            if not isinstance(value, Path):
                wrong_kind(known, value)
            word = str(value)
            if word in choices:
                return word
            near = nearest(word, choices)
            complain(
                Problem(
                    "V304",
                    f"{{it}} cannot be `{word}`",
                    (("", f"this takes {known}"),),
                    fix=f"write `{near}`" if near else f"write {known}",
                    replacement=near,
                )
            )

        return read


class Named(Reader):
    """A path kept as written, not followed: a part, a layout, a stage, a selector."""

    def reader(self, source: Any) -> Callable[[Given], object]:
        """The path's text, or the fields of `Selector`."""

        def read(given: Given) -> object:
            path = given.path()
            if path is None:
                wrong_kind("a name, such as `vit` or `lm.blocks`", _worth(given))
            return str(path) if source is str else selector(path)

        return read


def selector(path: Path) -> dict[str, object]:
    """The fields of the model `Selector`."""
    steps = [{"name": step.name, "first": step.first, "last": step.last} for step in path.steps]
    return {"text": str(path), "parts": tuple(steps)}


class Members(Reader):
    """A list."""

    def reader(self, source: Any) -> Callable[[Given], object]:
        """Its members, each of which is read by the type it has in the field."""

        def read(given: Given) -> object:
            value = _worth(given)
            if not isinstance(value, ListValue):
                wrong_kind("a list, such as `[1, 2]`", value)
            return value.items

        return read


@dataclass(frozen=True)
class MembersOr(Reader):
    """A list, or one bare word, which is read as None."""

    word: str

    def reader(self, source: Any) -> Callable[[Given], object]:
        """Its members, each of which is read by the type it has in the field."""

        def read(given: Given) -> object:
            path = given.path()
            if path is not None and str(path) == self.word:
                return None
            value = _worth(given)
            if not isinstance(value, ListValue):
                wrong_kind(f"`{self.word}`, or a list such as `[1, 2]`", value)
            return value.items

        return read


class OneOrMore(Reader):
    """A list, or one value for a list of it alone."""

    def reader(self, source: Any) -> Callable[[Given], object]:
        """The members."""

        def read(given: Given) -> object:
            if given.path() is not None:
                return (given,)
            value = _worth(given)
            return value.items if isinstance(value, ListValue) else (given,)

        return read


class TextsOrNames(Reader):
    """A list of strings and names, or one of them alone."""

    def reader(self, source: Any) -> Callable[[Given], object]:
        """The fields of `TextItem` or `SpecialItem`."""

        def read(given: Given) -> object:
            if given.path() is None and isinstance(value := _worth(given), ListValue):
                return tuple(map(one, value.items))
            return (one(given),)

        def one(given: Given) -> object:
            path = given.path()
            if path is not None:
                return {"item": "special", "special": str(path)}
            value = _worth(given)
            if not isinstance(value, str) or not value:
                wrong_kind("strings in quotes and special tokens", value)
            return {"item": "text", "text": value}

        return read


class Calls:
    """One of the calls that the field's union lists; a selector, where that is in the union."""

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        is_union = get_origin(source) in (Union, UnionType)
        members = get_args(source) if is_union else (source,)
        models = {tag_of(model): model for model in members if model is not NoneType}
        schema: core_schema.CoreSchema = core_schema.tagged_union_schema(
            {tag: handler.generate_schema(model) for tag, model in models.items()},
            discriminator=lambda value: (
                value.get("call", SELECTOR) if isinstance(value, dict) else tag_of(value)
            ),
        )
        schema = core_schema.no_info_before_validator_function(
            lambda given: read_call(given, models) if isinstance(given, Given) else given, schema
        )
        return core_schema.nullable_schema(schema) if NoneType in members else schema


PLAIN = "plain"
"""The tag of what is no call, where a call may stand instead."""


@dataclass(frozen=True)
class OrCall:
    """What another reader takes, the first of the field's union, or one of the calls behind it."""

    other: Reader

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        plain, *calls = get_args(source)
        models = {tag_of(model): model for model in calls}
        read = self.other.reader(plain)
        schema = core_schema.tagged_union_schema(
            {PLAIN: handler.generate_schema(plain)}
            | {tag: handler.generate_schema(model) for tag, model in models.items()},
            discriminator=lambda value: (
                value["call"] if isinstance(value, dict) else getattr(value, "call", PLAIN)
            ),
        )

        def either(given: object) -> object:
            if not isinstance(given, Given):
                return given
            is_call = given.path() is None and isinstance(_worth(given), CallValue)
            return read_call(given, models) if is_call else read(given)

        return core_schema.no_info_before_validator_function(either, schema)


@dataclass(frozen=True)
class WordOr:
    """A bare word, the first of the field's union, or what another reader takes, the second."""

    other: Reader

    def __get_pydantic_core_schema__(
        self, source: Any, handler: GetCoreSchemaHandler
    ) -> core_schema.CoreSchema:
        word, several = get_args(source)
        choose, read = Choice().reader(word), self.other.reader(several)
        schema = core_schema.tagged_union_schema(
            {"word": handler.generate_schema(word), "several": handler.generate_schema(several)},
            discriminator=lambda value: "word" if isinstance(value, str) else "several",
        )

        def either(given: object) -> object:
            if not isinstance(given, Given):
                return given
            calls = given.path() is None and isinstance(_worth(given), CallValue | ListValue)
            return read(given) if calls else choose(given)

        return core_schema.no_info_before_validator_function(either, schema)


SELECTOR = "selector"
"""The tag of a plain selector among calls."""


def tag_of(model: Any) -> str:
    """The name by which a call's model is called; that of any other model is `selector`."""
    if isinstance(model, type):
        fields = getattr(model, "model_fields", {})
        return str(fields["call"].default) if "call" in fields else SELECTOR
    return getattr(model, "call", SELECTOR)


def read_call(given: Given, models: dict[str, Any]) -> object:
    """The arguments of a call by field name, and which call it is."""
    path = given.path()
    if SELECTOR in models and path is not None:
        return selector(path)
    value = _worth(given)
    known = listing((f"{tag}()" for tag in models if tag != SELECTOR), last="or")
    if isinstance(value, Path) and str(value) in models:
        written = f"{value}()"
        complain(
            Problem(
                "V303",
                f"`{value}` is a call",
                (("", "its arguments, or `()`, are missing"),),
                fix=f"write `{written}`",
                replacement=written,
            )
        )
    if not isinstance(value, CallValue):
        wrong_kind(known, value)
    if value.name not in models:
        near = nearest(value.name, models)
        complain(
            Problem(
                "N214",
                f"there is no call `{value.name}` here",
                (("", f"this takes {known}"),),
                fix=f"write `{near}(...)`" if near else f"write {known}",
            )
        )
    return {"call": value.name, **arguments(value, models[value.name])}


def arguments(value: CallValue, model: Any) -> dict[str, object]:
    """The arguments of a call by field name."""
    given: dict[str, object] = {}
    if len(value.positional) > len(model.positional):
        extra = len(model.positional)
        takes = f"{extra or 'no'} unnamed argument{'' if extra == 1 else 's'}"
        complain(
            Problem(
                "V311",
                f"`{value.name}` takes {takes}",
                ((f"#{extra}", "this one needs a name"),),
                fix=f"write `name: value`; it knows {listing(names_of(model))}",
            )
        )
    given.update(zip(model.positional, value.positional, strict=False))
    for name, argument in value.named:
        name = name if name in names_of(model) or model.open_arguments else unknown(name)
        if name in given:
            complain(
                Problem("V311", f"`{name}` is given twice", ((name, "given here again"),)),
            )
        given[name] = argument
    if model.open_arguments is not None:
        return {model.open_arguments: given}
    return given


def unknown(name: str) -> str:
    """The key of an argument or setting that its model does not know; no field has such a name."""
    return f"?{name}"


def names_of(model: Any) -> list[str]:
    """The settings or arguments of a model, as they are written."""
    return [
        field.alias or name
        for name, field in model.model_fields.items()
        if name not in ("call", "type", "kind")
    ]


@dataclass(frozen=True, slots=True)
class Default:
    """An expression that a missing setting is worth; `this` is the block or call it stands in.

    `code` and `title` are those of the mistake when the expression has no fitting worth.
    """

    expression: str
    code: str = "V308"
    title: str = "{it} does not come out whole"

"""Values for any setting, made from what its model says that it takes."""

from __future__ import annotations

from types import NoneType, UnionType
from typing import Any, Literal, Union, get_args, get_origin

from annotated_types import Ge, Gt, Le, Lt
from pydantic.fields import FieldInfo

from triptych.dsl.kinds import CallModel, Selector
from triptych.dsl.reading import (
    Amounts,
    Calls,
    Choice,
    Measure,
    Members,
    MembersOr,
    Named,
    OneOrMore,
    OrCall,
    Plain,
    Ranged,
    Sides,
    TextsOrNames,
)
from triptych.dsl.recipe import CALLS
from triptych.dsl.units import UNIT_WORDS
from triptych.tests.fuzzing.chance import Chance

NUMBERS = (1, 2, 4, 8, 16, 3, 32, 64, 0, 7, 100, 1000, 28, 512, 8192, 10**9, 10**18)
FRACTIONS = ("0.5", "1", "0.1", "0.95", "1e-6", "2", "0", "1e4", "0.07")
TEXTS = (
    *('"a"', '"<|im_end|>"', '""', '"a b\\n"', '"一 \\"x\\""', '"*.b.*"', '"#no comment"'),
    *('"."', '"/"', '"**"', '"x\0y"', f'"{"a" * 300}"'),  # no file has such a name
)
PATHS = (
    *("vit", "lm", "merger", "lm.blocks", "vit.blocks[0..1]", "image", "first", "chatml", "eos"),
    *("lm.embed", "lm.blocks.attn", "vit.patches", "vit.blocks[1]", "video", "nothing", "all"),
)
SETTINGS = ("lm.width", "vit.width", "vit.patch", "lm.context", "lm.depth", "this.width", "lm.ffn")


class Values:
    """Writes values of a type; now and then one that does not fit."""

    def __init__(self, chance: Chance, slips: int = 5) -> None:
        self.chance = chance
        self.slips = slips
        """How many values out of a hundred are of any kind at all."""

    def any(self) -> str:
        """A value of any kind."""
        chance = self.chance
        kind = chance.below(8)
        if kind == 0:
            return f"{chance.one(NUMBERS)}{chance.one(('', *UNIT_WORDS))}"
        if kind == 1:
            return chance.one(TEXTS)
        if kind == 2:
            return chance.one(PATHS)
        if kind == 3:
            return f"[{', '.join(chance.some(self.any, 3))}]"
        if kind == 4:
            return self.call(chance.one(list(CALLS.values())))
        if kind == 5:
            return f"{self.number('', whole=True)}..{self.number('', whole=True)}"
        if kind == 6:
            return f"assumed({self.any()})"
        return chance.one((*SETTINGS, "true", "2x2", "-1", "lm.width + vit.width", "1 / 0"))

    def setting(self, info: FieldInfo) -> str:
        """A value for a field."""
        text = self.of(info.annotation, list(info.metadata))
        return f"assumed({text})" if self.chance.maybe(5) else text

    def of(self, typed: Any, markers: list[Any] | None = None) -> str:
        """A value of a type with its markers."""
        if self.chance.maybe(self.slips):
            return self.any()
        markers = list(markers or ())
        while hasattr(typed, "__metadata__"):
            markers += typed.__metadata__
            typed = typed.__origin__
        reader = next((mark for mark in markers if isinstance(mark, _READERS)), None)
        members = [one for one in _members(typed) if one is not NoneType]
        if reader is None and len(members) > 0 and members != [typed]:
            return self.of(self.chance.one(members))
        if len(members) == 1 and not isinstance(reader, OrCall):
            (typed,) = members
        return self._read(typed, reader, markers, members)

    def _read(self, typed: Any, reader: Any, markers: list[Any], members: list[Any]) -> str:
        chance = self.chance
        match reader:
            case Measure():
                return self.number(reader.unit, whole=typed is int, markers=markers)
            case Ranged():
                low, high = sorted((chance.one(NUMBERS), chance.one(NUMBERS)))
                ends = f"{low}{reader.unit}..{high}{reader.unit}"
                return chance.one((ends, f"..{high}{reader.unit}", f"{high}{reader.unit}"))
            case Amounts():
                return f"{1 + chance.one(NUMBERS)}{chance.one(reader.units)}"
            case Sides():
                return chance.one(("2x2", "1x1", "4x4", "16x16", "2x3"))
            case Plain():
                return chance.one(("true", "false")) if typed is bool else chance.one(TEXTS)
            case Choice():
                return str(chance.one(get_args(typed)))
            case Named():
                return chance.one(PATHS)
            case TextsOrNames():
                return f"[{chance.one(TEXTS)}, eos]"
            case Calls():
                return self._call_or_selector(typed, members)
            case OrCall():
                return self.of(chance.one(get_args(typed)))
            case Members() | MembersOr() | OneOrMore():
                return self._list(typed, reader)
        if get_origin(typed) is Literal:
            return str(chance.one(get_args(typed)))
        return self.any()

    def _call_or_selector(self, typed: Any, members: list[Any]) -> str:
        model = self.chance.one(members or [typed])
        while hasattr(model, "__origin__") and hasattr(model, "__metadata__"):
            model = model.__origin__
        return self.chance.one(PATHS) if model is Selector else self.call(model)

    def _list(self, typed: Any, reader: Any) -> str:
        types = get_args(typed) or (Any,)
        if isinstance(reader, MembersOr) and self.chance.maybe(50):
            return reader.word
        if types[-1] is Ellipsis:
            written = self.chance.some(lambda: self.of(types[0]), 3, 1)
        else:
            written = [self.of(one) for one in types]
        alone = isinstance(reader, OneOrMore) and len(written) == 1
        return written[0] if alone else f"[{', '.join(written)}]"

    def number(self, unit: str, *, whole: bool, markers: list[Any] | None = None) -> str:
        """A number of a unit, perhaps computed or referred to."""
        chance = self.chance
        if not whole:
            return f"{chance.one(FRACTIONS)}{unit}"
        low, high = _bounds(markers or [])
        number = f"{min(high, max(low, chance.one(NUMBERS)))}{unit}"
        form = chance.below(12)
        if form == 9:
            return f"2 * {number}"
        if form == 10:
            return chance.one(SETTINGS)
        return f"({number} + {number}) / 2" if form == 11 else number

    def call(self, model: type[CallModel]) -> str:
        """A call with what it requires and some of the rest."""
        chance, name = self.chance, model.model_fields["call"].default
        if model.open_arguments:
            typed = model.model_fields[model.open_arguments].annotation
            inner = get_args(typed)[1]
            kinds = dict.fromkeys(chance.some(lambda: chance.one(("chat", "text", "pairs")), 3, 1))
            return f"{name}({', '.join(f'{kind}: {self.of(inner)}' for kind in kinds)})"
        written: list[str] = []
        for field, info in model.model_fields.items():
            if field == "call" or not (info.is_required() or chance.maybe(30)):
                continue
            value = self.of(info.annotation, list(info.metadata))
            unnamed = field in model.positional and len(written) == model.positional.index(field)
            written.append(value if unnamed else f"{info.alias or field}: {value}")
        return f"{name}({', '.join(written)})"


_READERS = (
    *(Amounts, Calls, Choice, Measure, Members, MembersOr, Named, OneOrMore, OrCall),
    *(Plain, Ranged, Sides, TextsOrNames),
)


def _bounds(markers: list[Any]) -> tuple[int, int]:
    """The least and the most that a whole number may be."""
    low, high = 0, 1 << 20
    for marker in markers:
        match marker:
            case Ge(ge=int(least)):
                low = max(low, least)
            case Gt(gt=int(below)):
                low = max(low, below + 1)
            case Le(le=int(most)):
                high = min(high, most)
            case Lt(lt=int(above)):
                high = min(high, above - 1)
    return low, high


def _members(typed: Any) -> tuple[Any, ...]:
    """The types that a union is one of; a type alone is one of itself."""
    return get_args(typed) if get_origin(typed) in (Union, UnionType) else (typed,)

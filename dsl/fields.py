"""Which form in JSON a field has: what its type says, by the markers that read it from a text.

`Annotated[int, Measure("px")]` is written `"28px"`.
"""

from itertools import chain
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from .forms import (
    BOUNDS,
    LENGTHS,
    PATH,
    PLAIN_TEXT,
    Form,
    Number,
    Object,
    Sequence,
    Table,
    Text,
    WordOrMore,
    Words,
    Written,
    measured,
    ranged,
)
from .kinds import Selector
from .published import Renamed
from .reading import (
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
    Reader,
    Sides,
    TextsOrNames,
    WordOr,
)

_MARKERS = (Reader, Calls, OrCall, WordOr)
_SELECTOR = Written(PATH)


def form_of(annotation: Any, metadata: tuple[Any, ...] = ()) -> Form:
    """The form of a field's type; `metadata` are the markers that pydantic took off it."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        marked = chain.from_iterable(
            it.metadata if isinstance(it, FieldInfo) else [it] for it in more
        )
        return form_of(inner, (*marked, *metadata))
    marker = next((it for it in metadata if isinstance(it, _MARKERS)), None)
    if marker is None:
        return _unmarked(annotation, metadata)
    bare = _without_none(annotation)
    match marker:
        case Measure():
            bounds = {key: getattr(it, key) for it in metadata for key in BOUNDS if _has(it, key)}
            return Number(marker.unit, bare is int, bounds)
        case Ranged():
            return Written(ranged(marker.unit), marker.unit)
        case Amounts():
            return Written(f"^{measured(marker.units, True)}$")
        case Sides():
            return Written("^[0-9]+x[0-9]+$")
        case Plain():
            least = max((it.min_length for it in metadata if _has(it, "min_length")), default=0)
            return PLAIN_TEXT if bare is str and not least else _plain(bare, least)
        case Choice():
            return Words(get_args(bare))
        case Named():
            return _SELECTOR
        case MembersOr():
            return Sequence(*_members(bare, metadata), marker.word)
        case Members() | OneOrMore() | TextsOrNames():
            return Sequence(*_members(bare, metadata))
        case Calls():
            return _calls(_options(annotation))
        case WordOr():
            word, other = _options(annotation)
            return WordOrMore(Words(get_args(word)), form_of(other, (marker.other,)))
        case OrCall():
            plain, *calls = _options(annotation)
            models = tuple(_model(call) for call in calls)
            return Object(models, form_of(plain, (marker.other,)))
    raise AssertionError(f"{marker} has no form")


def _unmarked(annotation: Any, metadata: tuple[Any, ...]) -> Form:
    options = _options(annotation)
    if len(options) > 1:
        return Object(tuple(_model(option) for option in options))
    (bare,) = options
    if get_origin(bare) is Annotated:
        return form_of(bare)
    if get_origin(bare) is dict:
        return Table(form_of(get_args(bare)[1]))
    if get_origin(bare) is tuple:
        return Sequence(*_members(bare, metadata))
    if get_origin(bare) is Literal:
        return Words(get_args(bare))
    if bare is Selector:
        return _SELECTOR
    if isinstance(bare, type) and issubclass(bare, BaseModel):
        return Object((bare,))
    if bare is int:
        return Number("", True)
    assert bare is str, f"{bare} has no form"
    least = max((it.min_length for it in metadata if _has(it, "min_length")), default=0)
    return _plain(bare, least)


def _plain(bare: Any, least: int) -> Form:
    return Text("boolean" if bare is bool else "string", least)


def _calls(options: tuple[Any, ...]) -> Form:
    """One of several calls; a selector or a name of parameters, where the union has one."""
    models = tuple(_model(option) for option in options)
    other: Form | None = None
    if Selector in models:
        other = _SELECTOR
    if Renamed in models:
        other = PLAIN_TEXT
    return Object(tuple(model for model in models if model not in (Selector, Renamed)), other)


def _members(bare: Any, metadata: tuple[Any, ...]) -> tuple[Form, dict[str, int]]:
    """The form of a tuple's members, and how many there may be."""
    inner = get_args(bare)
    lengths = {key: getattr(it, key) for it in metadata for key in LENGTHS if _has(it, key)}
    if inner[-1] is not Ellipsis:
        lengths = {"min_length": len(inner), "max_length": len(inner)}
    return form_of(inner[0]), lengths


def _options(annotation: Any) -> tuple[Any, ...]:
    """The members of a union but None; of any other type, that type."""
    if get_origin(annotation) in (Union, UnionType):
        return tuple(option for option in get_args(annotation) if option is not NoneType)
    return (annotation,)


def _without_none(annotation: Any) -> Any:
    options = _options(annotation)
    return options[0] if len(options) == 1 else annotation


def _model(option: Any) -> type[BaseModel]:
    """A model out of a union, bare or in an `Annotated`."""
    while get_origin(option) is Annotated:
        option = get_args(option)[0]
    assert isinstance(option, type) and issubclass(option, BaseModel), f"{option} is no model"
    return option


def _has(marker: Any, key: str) -> bool:
    return getattr(marker, key, None) is not None

"""What stands at a path of a recipe, and how a recipe writes it, units included."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, get_args

from .kinds import Amount, CallModel, Grid, Model, Range, Selector
from .reading import Measure, OrCall, Plain, Ranged, TextsOrNames, names_of
from .recipe import Recipe
from .texts import SpecialItem, TextItem

_TABLES = ("specials", "rules")
"""What holds the statements of a block by name; they come before settings of the same name."""
_STEP = re.compile(r"([A-Za-z_]\w*)|\[(\d{1,9})\]")
_PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*|\[\d{1,9}\])*")


@dataclass(frozen=True, slots=True)
class Found:
    """What stands at a path; `owner` is the model whose setting `name` it is, if it is one."""

    value: object
    typed: Any = None
    owner: Model | None = None
    name: str = ""

    def __str__(self) -> str:
        return shown(self.value, self.typed)


@dataclass(frozen=True, slots=True)
class Astray:
    """How far a path leads: what of it is there, the name that is not, and what could be."""

    good: str
    wrong: str
    known: tuple[str, ...]


def steps_of(path: str) -> list[str | int]:
    """The names and numbers of a path.

    >>> steps_of("sft.train[0].rank")
    ['sft', 'train', 0, 'rank']
    """
    return [name or int(number) for name, number in _STEP.findall(path)]


def at(recipe: Recipe, path: str) -> Found | Astray:
    """What stands at a path, or how far the path leads."""
    first, *rest = steps_of(path) if _PATH.fullmatch(path) else [path]
    block = recipe.block(str(first))
    if block is None:
        if first == "language" and not rest:
            return Found(recipe.language)
        return Astray("", str(first), tuple(_blocks(recipe)))
    found, good = Found(block), str(first)
    if rest[:1] == ["settings"] and rest[1:]:
        _, name, *rest = rest
        found, good = _setting(block, str(name)) or found, f"{first}.settings.{name}"
    for step in rest:
        inner = _inside(found, step)
        if inner is None:
            return Astray(good, str(step), tuple(names_in(found.value)))
        found, good = inner, joined(good, step)
    return found


def joined(path: str, step: str | int) -> str:
    """A path, one step longer."""
    return f"{path}[{step}]" if isinstance(step, int) else f"{path}.{step}"


def _blocks(recipe: Recipe) -> Iterator[str]:
    yield "language"
    for name in recipe.facts.spans:
        if recipe.block(name) is not None:
            yield name


def names_in(value: object) -> list[str]:
    """The names that may follow the path of a value."""
    match value:
        case CallModel(open_arguments=str(field)):
            return list(getattr(value, field))
        case (Model() as only,):
            return names_in(only)
        case Model():
            tables = [getattr(value, table, None) for table in _TABLES]
            stated = [name for table in tables if isinstance(table, dict) for name in table]
            return [*(name for name in names_of(type(value)) if name != "specials"), *stated]
        case tuple():
            return [f"[{number}]" for number in range(len(value))]
    return []


def _inside(found: Found, step: str | int) -> Found | None:
    value = found.value
    if isinstance(step, int):
        if not isinstance(value, tuple) or step >= len(value):
            return None
        return Found(value[step], _member(found.typed, step))
    if isinstance(value, tuple) and len(value) == 1:
        value = value[0]  # written without its brackets
    if not isinstance(value, Model):
        return None
    if isinstance(value, CallModel) and value.open_arguments:
        table = getattr(value, value.open_arguments)
        typed = type(value).model_fields[value.open_arguments].annotation
        return Found(table[step], get_args(typed)[1], value) if step in table else None
    for table in _TABLES:
        entries = getattr(value, table, None)
        if isinstance(entries, dict) and step in entries:
            return Found(entries[step])
    return _setting(value, step)


def _setting(model: Model, name: str) -> Found | None:
    for key, info in type(model).model_fields.items():
        if name == (info.alias or key):
            return Found(getattr(model, key), (info.annotation, *info.metadata), model, name)
    return None


def shown(value: object, typed: Any = None) -> str:
    """A value as a recipe writes it; `typed` is the type of its field, which knows the unit."""
    markers = list(_markers(typed))
    unit = next((mark.unit for mark in markers if isinstance(mark, Measure | Ranged)), "")
    match value:
        case None:
            return "none"
        case bool():
            return str(value).lower()
        case int():
            return f"{value}{unit}"
        case float():
            return f"{_number(value)}{unit}"
        case str():
            return _quoted(value) if any(isinstance(mark, Plain) for mark in markers) else value
        case tuple():
            members = (shown(one, _member(typed, number)) for number, one in enumerate(value))
            return f"[{', '.join(members)}]"
        case dict():
            inner = _dict_value(typed)
            return ", ".join(f"{name}: {shown(one, inner)}" for name, one in value.items())
        case Range():
            if value.low == value.high:
                return f"{value.high}{unit}"
            low = "" if value.low is None else f"{value.low}{unit}"
            step = "" if value.step == 1 else f" by {value.step}"
            return f"{low}..{value.high}{unit}{step}"
        case TextItem():
            return _quoted(value.text)
        case SpecialItem():
            return value.special
        case CallModel():
            return f"{type(value).model_fields['call'].default}({', '.join(_arguments(value))})"
        case Amount() | Selector() | Grid():
            return str(value)
        case Model():
            return ""  # a block or a statement
    return str(value)


def _arguments(call: CallModel) -> Iterator[str]:
    for key, info in type(call).model_fields.items():
        value = getattr(call, key)
        if key == "call" or key not in call.model_fields_set:
            continue
        text = shown(value, (info.annotation, *info.metadata))
        open_or_first = key in (call.open_arguments, *call.positional)
        yield text if open_or_first else f"{info.alias or key}: {text}"


def _markers(typed: Any) -> Iterator[Any]:
    """The markers of a type, also of the members of a union; not those of what a list holds."""
    if isinstance(typed, tuple):
        for one in typed:
            yield from _markers(one)
    elif hasattr(typed, "__metadata__"):
        yield from typed.__metadata__
        yield from _markers(typed.__origin__)
    elif isinstance(typed, OrCall):
        yield typed.other
    elif isinstance(typed, Measure | Ranged | Plain | TextsOrNames):
        yield typed
    elif getattr(typed, "__origin__", None) is not tuple and not isinstance(typed, type):
        for one in get_args(typed):
            yield from _markers(one)


def _member(typed: Any, number: int) -> Any:
    """The type of a list's member."""
    for one in _opened(typed):
        if getattr(one, "__origin__", None) is tuple:
            types = get_args(one)
            return types[0] if types[-1] is Ellipsis else types[number]
    return None


def _dict_value(typed: Any) -> Any:
    """The type of what a table holds."""
    for one in _opened(typed):
        if getattr(one, "__origin__", None) is dict:
            return get_args(one)[1]
    return None


def _opened(typed: Any) -> Iterator[Any]:
    """A type, and the types that it is one of, without their markers."""
    if isinstance(typed, tuple):
        for one in typed:
            yield from _opened(one)
        return
    if hasattr(typed, "__metadata__"):
        typed = typed.__origin__
    yield typed
    if getattr(typed, "__origin__", None) not in (tuple, dict):
        for one in get_args(typed):
            yield from _opened(one)


def _number(value: float) -> str:
    """A number without needless zeros: 1e-6, 0.05, 10000."""
    text = f"{value:e}" if 0 < abs(value) < 1e-3 else f"{value:.12g}"
    text = re.sub(r"\.?0*e", "e", text)
    return re.sub(r"e([+-])0*", lambda sign: f"e{sign[1].strip('+')}", text)


def _quoted(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return '"' + escaped.replace("\t", "\\t") + '"'

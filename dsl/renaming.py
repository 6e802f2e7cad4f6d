"""The statements of a block under other names: what spoke of `vit` speaks of `tower`."""

from collections.abc import Mapping
from dataclasses import replace

from pydantic.fields import FieldInfo

from . import syntax
from .reading import Choice
from .recipe import CALLS
from .whole import Stated

Names = Mapping[str, str]
"""From the name of a block where it is declared to its name here."""


def renamed(statement: Stated, names: Names, settings: Mapping[str, FieldInfo]) -> Stated:
    """The statement with every path that starts at one of the names; its spans stay.

    `settings` are those of its block: a word out of a setting's choices is no name of a block.
    """
    match statement:
        case syntax.Setting():
            value = _value(statement.value, names, settings.get(statement.name))
            return replace(statement, value=value)
        case syntax.Special():
            return replace(statement, id=_value(statement.id, names))
        case syntax.Map(target=syntax.Text() as target):
            return replace(statement, target=_parameters(target, names))
        case syntax.Map(target=syntax.Call() as target):
            return replace(statement, target=_placed(target, names))
        case syntax.Fresh():
            return replace(statement, pattern=_parameters(statement.pattern, names))
        case syntax.Rule():
            return replace(statement, items=tuple(_item(item, names) for item in statement.items))
    return statement


def _item(item: syntax.Item, names: Names) -> syntax.Item:
    """An item of a layout; `image_pad * x.merger` counts the features of a part."""
    match item:
        case syntax.Repeat() if item.field != "tokens":
            return replace(item, field=names.get(item.field, item.field))
        case syntax.Loss() | syntax.Apart():
            return replace(item, items=tuple(_item(one, names) for one in item.items))
        case syntax.Choice():
            lines = (tuple(_item(one, names) for one in line) for line in item.lines)
            return replace(item, lines=tuple(lines))
    return item


def _value(value: syntax.Value, names: Names, info: FieldInfo | None = None) -> syntax.Value:
    match value:
        case syntax.Path():
            is_choice = info is not None and any(isinstance(it, Choice) for it in info.metadata)
            return value if is_choice else _path(value, names)
        case syntax.Call():
            return replace(value, arguments=tuple(_arguments(value, names, info)))
        case syntax.Items():
            return replace(value, items=tuple(_value(item, names, info) for item in value.items))
        case syntax.Range():
            low, high, step = (
                None if end is None else _value(end, names)
                for end in (value.low, value.high, value.step)
            )
            assert high is not None
            return replace(value, low=low, high=high, step=step)
        case syntax.Negative():
            return replace(value, operand=_value(value.operand, names))
        case syntax.Binary():
            left, right = _value(value.left, names), _value(value.right, names)
            return replace(value, left=left, right=right)
    return value


def _path(path: syntax.Path, names: Names) -> syntax.Path:
    first, *rest = path.steps
    return replace(path, steps=(replace(first, name=names.get(first.name, first.name)), *rest))


def _arguments(call: syntax.Call, names: Names, info: FieldInfo | None) -> list[syntax.Argument]:
    """The arguments of a call; what is assumed is read as if it stood alone."""
    model = CALLS.get(call.name)
    fields = model.model_fields if model else {}
    found = []
    for number, argument in enumerate(call.arguments):
        name = argument.name
        if name is None and model and number < len(model.positional):
            name = model.positional[number]
        its = info if call.name == "assumed" else fields.get(name or "")
        found.append(replace(argument, value=_value(argument.value, names, its)))
    return found


def _placed(value: syntax.Call, names: Names) -> syntax.Call:
    """A map's call, `joined(["vit.a", "vit.b"])`: the texts in it name parameters."""

    def inside(value: syntax.Value) -> syntax.Value:
        match value:
            case syntax.Text():
                return _parameters(value, names)
            case syntax.Items():
                return replace(value, items=tuple(map(inside, value.items)))
        return _value(value, names)

    arguments = (replace(given, value=inside(given.value)) for given in value.arguments)
    return replace(value, arguments=tuple(arguments))


def _parameters(text: syntax.Text, names: Names) -> syntax.Text:
    """`vit.blocks.*`, a pattern of names of parameters, which start at a block."""
    first, dot, rest = text.value.partition(".")
    return replace(text, value=f"{names.get(first, first)}{dot}{rest}")

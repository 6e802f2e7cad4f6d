"""Which call of a block takes an argument: what an author may have meant by an unknown setting."""

from collections.abc import Iterator
from typing import Any, get_args

from .evaluate import model_of, settings_of
from .reading import names_of, tag_of
from .syntax import Call, Setting
from .whole import Part


def taken_as_argument(part: Part, name: str) -> str | None:
    """The first setting of a block with a call that takes `name`, as it would be written.

    That call is the one that the block makes there already, if it takes the argument.
    """
    model = model_of(part)
    for setting, info in settings_of(model).items() if model else ():
        takers = [tag_of(call) for call in _calls_in(info.annotation) if name in names_of(call)]
        if takers:
            made = _made(part, setting)
            return f"{setting} = {made if made in takers else takers[0]}({name}: ...)"
    return None


def _made(part: Part, setting: str) -> str:
    """The call that a setting is, as it stands; empty where it is none."""
    entry = part.setting(setting)
    value = entry.statement.value if entry and isinstance(entry.statement, Setting) else None
    if isinstance(value, Call) and value.name == "assumed" and value.arguments:
        value = value.arguments[0].value
    return value.name if isinstance(value, Call) else ""


def _calls_in(annotation: Any) -> Iterator[Any]:
    """The models of the calls that a field takes."""
    if "call" in getattr(annotation, "model_fields", {}):
        yield annotation
    for member in get_args(annotation):
        yield from _calls_in(member)

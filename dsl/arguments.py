"""Which call of a block takes an argument: what an author may have meant by an unknown setting."""

from collections.abc import Iterator
from typing import Any, get_args

from .evaluate import model_of, settings_of
from .reading import names_of
from .whole import Part


def taken_as_argument(part: Part, name: str) -> str | None:
    """The first setting of a block with a call that takes `name`, as it would be written."""
    model = model_of(part)
    for setting, info in settings_of(model).items() if model else ():
        for call in _calls_in(info.annotation):
            if name in names_of(call):
                return f"{setting} = {call.model_fields['call'].default}({name}: ...)"
    return None


def _calls_in(annotation: Any) -> Iterator[Any]:
    """The models of the calls that a field takes."""
    if "call" in getattr(annotation, "model_fields", {}):
        yield annotation
    for member in get_args(annotation):
        yield from _calls_in(member)

"""What may stand where a value is written, read off the types of the recipe's models."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic.fields import FieldInfo

from ...dsl import syntax
from ...dsl.described import description
from ...dsl.kinds import CallModel, Model, Selector
from ...dsl.reading import (
    Amounts,
    Calls,
    Choice,
    Measure,
    MembersOr,
    Named,
    OrCall,
    Plain,
    Ranged,
    Sides,
    TextsOrNames,
    tag_of,
)
from ...dsl.recipe import CALLS


@dataclass(frozen=True)
class Slot:
    """A place for a value: the type that a model gives it, and the markers that say how it is read.

    `model` and `name` are whose field it is; a member of a list has those of the list.
    """

    model: type[Model]
    name: str
    annotation: Any
    markers: tuple[Any, ...]

    def of(self, annotation: Any, markers: tuple[Any, ...] = ()) -> Slot:
        """The same field's slot for something inside its value."""
        while get_origin(annotation) is Annotated:
            annotation, *more = get_args(annotation)
            markers = (*more, *markers)
        return Slot(self.model, self.name, annotation, markers)

    def marked(self, kind: type) -> Any:
        """The marker of a kind; None when there is none."""
        return next((marker for marker in self.markers if isinstance(marker, kind)), None)

    @property
    def alternatives(self) -> tuple[Slot, ...]:
        """The members of a union, without None; the slot itself where it is none."""
        if get_origin(self.annotation) not in (Union, UnionType):
            return (self,)
        kept = [one for one in get_args(self.annotation) if one is not NoneType]
        return tuple(self.of(one, self.markers) for one in kept)

    def member(self, number: int = 0) -> Slot:
        """The slot of a member, where a list may stand; the slot itself where none may."""
        for slot in self.alternatives:
            if get_origin(slot.annotation) is tuple:
                types = [one for one in get_args(slot.annotation) if one is not Ellipsis]
                return self.of(types[min(number, len(types) - 1)])
        return self

    @property
    def is_list(self) -> bool:
        """Whether several values may stand here."""
        return any(get_origin(slot.annotation) is tuple for slot in self.alternatives)

    @property
    def calls(self) -> Mapping[str, type[CallModel]]:
        """The calls that may stand here, by name."""
        if not (self.marked(Calls) or self.marked(OrCall)):
            return {}
        models = [slot.annotation for slot in self.alternatives]
        return {
            tag_of(model): model
            for model in models
            if inspect.isclass(model) and issubclass(model, CallModel)
        }

    @property
    def words(self) -> tuple[str, ...]:
        """The choices, where a word is one."""
        other = self.marked(MembersOr)
        if other:
            return (other.word,)
        if not self.marked(Choice):
            return ()
        literals = [one for one in self.alternatives if get_origin(one.annotation) is Literal]
        return tuple(word for literal in literals for word in get_args(literal.annotation))

    @property
    def takes_names(self) -> bool:
        """Whether a path here is the name of something, and not the worth of a setting."""
        return any(
            slot.annotation is Selector or slot.marked(Named) or slot.marked(TextsOrNames)
            for slot in (*self.alternatives, *self.member().alternatives)
        )

    @property
    def is_flag(self) -> bool:
        """Whether it takes true or false."""
        return self.annotation is bool

    @property
    def is_text(self) -> bool:
        """Whether it takes a string."""
        return bool(self.marked(Plain)) and not self.is_flag

    @property
    def is_grid(self) -> bool:
        """Whether it takes rows and columns."""
        return bool(self.marked(Sides))

    @property
    def units(self) -> tuple[str, ...] | None:
        """The units of a number or range that may stand here; None where none may."""
        if amounts := self.marked(Amounts):
            return tuple(amounts.units)
        measure = self.marked(Measure) or self.marked(Ranged)
        other = self.marked(OrCall)
        if measure is None and other and isinstance(other.other, Measure):
            measure = other.other
        return (measure.unit,) if measure else None

    @property
    def is_range(self) -> bool:
        """Whether it takes a range of numbers."""
        return bool(self.marked(Ranged))


def slot_of(model: type[Model], name: str) -> Slot | None:
    """The slot of a setting or an argument, as it is written; None when the model has none."""
    for field, info in model.model_fields.items():
        if name in (info.alias or field, field):
            return Slot(model, info.alias or field, info.annotation, tuple(info.metadata))
    return None


def argument_slot(model: type[CallModel], argument: str | int) -> Slot | None:
    """The slot of an argument of a call, by name or, of one without a name, by number."""
    if model.open_arguments is not None and isinstance(argument, str):
        slot = slot_of(model, model.open_arguments)
        return slot and slot.of(get_args(slot.annotation)[1])
    if isinstance(argument, int):
        known = model.positional
        return slot_of(model, known[argument]) if argument < len(known) else None
    return slot_of(model, argument)


def field_of(slot: Slot) -> FieldInfo:
    """What pydantic knows of the field that a slot belongs to."""
    return next(
        info
        for field, info in slot.model.model_fields.items()
        if slot.name in (info.alias or field, field)
    )


def written_values(
    value: syntax.Value, slot: Slot | None
) -> Iterator[tuple[syntax.Value, Slot | None]]:
    """A value and all that stands inside it, each with its slot; None where no model has one."""
    if isinstance(value, syntax.Call) and value.name == "assumed":
        yield value, None
        for argument in value.arguments:
            yield from written_values(argument.value, slot)
        return
    yield value, slot
    match value:
        case syntax.Items():
            for number, item in enumerate(value.items):
                yield from written_values(item, slot and slot.member(number))
        case syntax.Call():
            model = called(value.name, slot)
            unnamed = 0
            for argument in value.arguments:
                key: str | int = unnamed if argument.name is None else argument.name
                unnamed += argument.name is None
                its = argument_slot(model, key) if model else None
                yield from written_values(argument.value, its)
        case _:
            for inner in syntax.inside(value):
                yield from written_values(inner, None)


def called(name: str, slot: Slot | None) -> type[CallModel] | None:
    """The model of a call that stands in a slot."""
    if slot:
        for inner in (slot, slot.member()):
            if name in inner.calls:
                return inner.calls[name]
    return CALLS.get(name)


def meaning(slot: Slot) -> str:
    """What a setting or an argument is for, in a sentence; empty when nobody said."""
    return description(slot.model, slot.name)

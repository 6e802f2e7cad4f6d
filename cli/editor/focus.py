"""What stands at a place of a text, name or not: a setting, a value, a call, a word of a header."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from ...dsl import syntax
from ...dsl.source import Span
from .slots import Slot, argument_slot, called, slot_of
from .symbols import Scope

What = Literal["kind", "type", "setting", "argument", "value", "call"]


@dataclass(frozen=True, slots=True)
class Focus:
    """One thing that a pointer may rest on.

    `path` is that of the value it belongs to (`image.resize.budget`), `slot` what may stand there,
    `value` what does.
    """

    what: What
    span: Span
    block: syntax.Block | None
    path: str = ""
    slot: Slot | None = None
    value: syntax.Value | None = None


def focus_at(recipe: syntax.RecipeNode, scope: Scope, offset: int) -> Focus | None:
    """The smallest thing at an offset; None where there is nothing to be said."""
    at = [focus for focus in all_of(recipe, scope) if focus.span.start <= offset <= focus.span.end]
    return min(at, key=lambda focus: focus.span.end - focus.span.start, default=None)


def all_of(recipe: syntax.RecipeNode, scope: Scope) -> Iterator[Focus]:
    """Everything of a recipe that a pointer may rest on."""
    for statement in recipe.body:
        match statement:
            case syntax.Block():
                yield Focus("kind", statement.kind_span, statement)
                if statement.type_span:
                    yield Focus("type", statement.type_span, statement)
                for inner in statement.body:
                    yield from _statement(statement, inner, scope)
            case syntax.Setting():
                yield Focus("setting", statement.name_span, None, statement.name)
            case syntax.Assert() | syntax.DropAssert():
                for side in (statement.comparison.left, statement.comparison.right):
                    yield from _value(None, "", side, None)


def _statement(block: syntax.Block, statement: syntax.Statement, scope: Scope) -> Iterator[Focus]:
    match statement:
        case syntax.Verbed():
            yield from _statement(block, statement.statement, scope)
        case syntax.Setting():
            model = scope.model(block.name)
            slot = slot_of(model, statement.name) if model else None
            path = f"{block.name}.{statement.name}"
            yield Focus("setting", statement.name_span, block, path, slot, statement.value)
            yield from _value(block, path, statement.value, slot)
        case syntax.Special():
            yield from _value(block, "", statement.id, None)


def _value(
    block: syntax.Block | None, path: str, value: syntax.Value, slot: Slot | None
) -> Iterator[Focus]:
    match value:
        case syntax.Call() if value.name == "assumed":
            yield Focus("call", value.target.span, block, path, slot, value)
            for argument in value.arguments:
                yield from _value(block, path, argument.value, slot)
        case syntax.Call():
            yield Focus("call", value.target.span, block, path, slot, value)
            model = called(value.name, slot)
            unnamed = 0
            for argument in value.arguments:
                name = argument.name
                key: str | int = unnamed if name is None else name
                if name is None and model and unnamed < len(model.positional):
                    name = model.positional[unnamed]
                unnamed += argument.name is None
                inner = argument_slot(model, key) if model else None
                at = f"{path}.{name}" if path and name else ""
                if argument.name_span:
                    yield Focus("argument", argument.name_span, block, at, inner, argument.value)
                yield from _value(block, at, argument.value, inner)
        case syntax.Items():
            for number, item in enumerate(value.items):
                at = f"{path}[{number}]" if path else ""
                yield from _value(block, at, item, slot and slot.member(number))
        case _:
            yield Focus("value", value.span, block, path, slot, value)
            for inner_value in syntax.inside(value):
                yield from _value(block, path, inner_value, None)

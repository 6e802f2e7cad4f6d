"""Sums, products and comparisons of quantities, and the worth of an expression made of them."""

from collections.abc import Callable
from typing import NoReturn

from . import syntax
from .diagnostics import Diagnostic, Fix, Label, RecipeError
from .source import Span
from .units import LARGEST, Quantity, whole

Resolve = Callable[[syntax.Value], Quantity]
"""Supplies what arithmetic cannot know: the worth of a path or a call."""


def worth(value: syntax.Value, resolve: Resolve) -> Quantity:
    """The quantity of an expression; `resolve` is asked for everything but numbers and signs.

    Raises `RecipeError` where the arithmetic makes no sense.
    """
    match value:
        case syntax.Number():
            return value.quantity
        case syntax.Negative():
            operand = worth(value.operand, resolve)
            return Quantity(-operand.value, operand.unit)
        case syntax.Binary():
            left = worth(value.left, resolve)
            return _combined(value.operator, left, worth(value.right, resolve), value.span)
    return resolve(value)


def holds(comparison: syntax.Comparison, resolve: Resolve) -> bool:
    """Whether a comparison is true; raises `RecipeError` where its sides cannot be compared."""
    left = worth(comparison.left, resolve)
    right = worth(comparison.right, resolve)
    if left.unit != right.unit:
        seen = f"{_counted(left)} and {_counted(right)} cannot be compared"
        mend = "bring both sides to one unit"
        _refuse("V306", "this mixes units", seen, comparison.span, mend)
    match comparison.operator:
        case "==":
            return left.value == right.value
        case "!=":
            return left.value != right.value
        case "<":
            return left.value < right.value
        case "<=":
            return left.value <= right.value
        case ">":
            return left.value > right.value
    assert comparison.operator == ">="
    return left.value >= right.value


def _combined(operator: str, left: Quantity, right: Quantity, span: Span) -> Quantity:
    match operator:
        case "+" | "-":
            if left.unit != right.unit:
                seen = f"{_counted(left)} and {_counted(right)} do not add up"
                _refuse("V306", "this mixes units", seen, span, "bring both sides to one unit")
            sign = 1 if operator == "+" else -1
            return _bounded(left.value + sign * right.value, left.unit, span)
        case "*":
            if left.unit and right.unit:
                seen = f"{_counted(left)} times {_counted(right)} has no unit here"
                _refuse("V306", "this mixes units", seen, span, "leave the unit of one side out")
            return _bounded(left.value * right.value, left.unit or right.unit, span)
    assert operator == "/"
    if not right.value:
        mend = "change the divisor, or what makes it zero"
        _refuse("V312", "this divides by zero", f"{left} / {right}", span, mend)
    if right.unit and left.unit != right.unit:
        seen = f"{_counted(left)} over {_counted(right)} has no unit here"
        _refuse("V306", "this mixes units", seen, span, "bring both sides to one unit")
    unit = "" if right.unit else left.unit
    return _bounded(whole(left.value, right.value), unit, span)


def _counted(quantity: Quantity) -> str:
    return quantity.unit or "a bare number"


def _bounded(value: int | float, unit: str, span: Span) -> Quantity:
    if not abs(value) <= LARGEST:
        title = "this comes to more than can be meant"
        _refuse("V307", title, f"beyond {LARGEST:.0e}", span, "look for a scale that counts twice")
    return Quantity(whole(value), unit)


def _refuse(code: str, title: str, seen: str, span: Span, mend: str) -> NoReturn:
    raise RecipeError([Diagnostic(code, title, (Label(span, seen),), fix=Fix(mend))])

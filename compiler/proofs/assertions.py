"""What a recipe asserts of itself holds."""

from __future__ import annotations

from typing import NoReturn

from ...dsl import syntax
from ...dsl.arithmetic import holds, worth
from ...dsl.diagnostics import Diagnostic, Findings, Fix, Label, RecipeError
from ...dsl.recipe import Assertion, Recipe
from ...dsl.source import Span
from ...dsl.units import Quantity
from ..build import reach
from ..tokens import domain, item_tokens, worst
from ..types import bounds
from ..yields import views

PLURAL = "s"
"""`worst(images: 2)` counts items of the input `image`."""


def prove_assertions(recipe: Recipe, findings: Findings) -> None:
    """Gather every assertion that does not hold."""
    for assertion in recipe.asserts:
        try:
            if not holds(assertion.comparison, lambda value: quantity(recipe, value)):
                findings.add(_broken(recipe, assertion))
        except RecipeError as error:
            # What has no bound is told where it is used; here it would be told again.
            if any(f.code in ("T504", "L703") and f.severity == "error" for f in findings.in_order):
                continue
            for diagnostic in error.diagnostics:
                findings.add(diagnostic)


def _broken(recipe: Recipe, assertion: Assertion) -> Diagnostic:
    sides = (assertion.comparison.left, assertion.comparison.right)
    seen = [worth(side, lambda value: quantity(recipe, value)) for side in sides]
    return Diagnostic(
        "V314",
        f"`{assertion.text}` does not hold",
        tuple(
            Label(side.span, f"this is {number.value:,}{number.unit}", primary=side is sides[0])
            for side, number in zip(sides, seen, strict=True)
        ),
        "the recipe promises it, so something above it is not as it was meant",
        Fix(f"change what it speaks of; a variant may `drop assert {assertion.text}`"),
    )


def quantity(recipe: Recipe, value: syntax.Value) -> Quantity:
    """What an assertion may speak of: a setting, the most tokens of an input, a worst case."""
    if isinstance(value, syntax.Path):
        return _setting(recipe, value)
    assert isinstance(value, syntax.Call)
    layout = recipe.layouts[value.target.steps[0].name]
    items = dict[str, int]()
    for argument in value.arguments:
        medium = (argument.name or "").removesuffix(PLURAL)
        if medium not in layout.rules or medium not in recipe.inputs:
            _refuse(argument.span, f"layout `{value.target.steps[0].name}` places no such thing")
        number = worth(argument.value, lambda inner: quantity(recipe, inner))
        items[medium] = int(number.value)
    found = worst(recipe, layout, items)
    if found is None:
        _refuse(value.span, "nothing bounds this: the input needs an `aspect`")
    return Quantity(found, "tok")


def _setting(recipe: Recipe, path: syntax.Path) -> Quantity:
    """A number of the recipe, or the most `tokens` that one item of an input or a part takes."""
    first, *rest = (step.name for step in path.steps)
    if rest == ["tokens"]:
        media = [medium for medium in reach(recipe).get(first, ()) if views(recipe, medium)]
        part = first if first in recipe.encoders | recipe.adapters else None
        counts = [item_tokens(recipe, medium, part) for medium in media]
        most = [bounds(count, domain(recipe)).most for count in counts]
        if not most:
            _refuse(path.span, f"`{first}` sees no input")
        counted = [count for count in most if count is not None]
        if len(counted) < len(most):
            _refuse(path.span, "nothing bounds this: the input needs an `aspect`")
        return Quantity(max(counted), "tok")
    number = recipe.quantity(str(path))
    if number is None:
        _refuse(path.span, "this is not a number")
    return number


def _refuse(span: Span, seen: str) -> NoReturn:
    title = "an assertion speaks of something that has no number"
    raise RecipeError([Diagnostic("V303", title, (Label(span, seen),))])

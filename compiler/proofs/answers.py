"""What ends an answer has been learnt by some stage."""

from __future__ import annotations

from ...dsl.diagnostics import Diagnostic, Findings, Fix, listing
from ...dsl.recipe import Recipe
from ...dsl.texts import LossItem, SpecialItem, TextItem, end_of, has_content
from ..places import labels


def prove_answers(recipe: Recipe, findings: Findings) -> None:
    """Warn of each mode that waits for an end which no stage of the recipe teaches.

    The weights may know it from elsewhere, so that it is no mistake; where they do not, the model
    goes on writing until it may not.
    """
    taught = {
        end: f"{name}.layout"
        for name, stage in recipe.stages.items()
        if "lm" in stage.loss
        for layout in stage.layouts
        for end in ends(recipe, layout)
    }
    if not taught:
        return
    for name, mode in recipe.chats.items():
        stops = map(_written, recipe.layouts[mode.layout].stop)
        waited = list(dict.fromkeys((*ends(recipe, mode.layout), *stops)))
        if mode.from_ or not waited or taught.keys() & waited:
            continue
        findings.add(
            Diagnostic(
                "L713",
                f"mode `{name}` waits for an end that no stage teaches",
                labels(
                    recipe,
                    (f"{name}.layout", f"an answer ends at {listing(waited, last='or')}"),
                    (next(iter(taught.values())), f"here it ends at {listing(taught, last='or')}"),
                ),
                "a model that has not learnt this end writes on until it has no room left",
                Fix("answer by a layout that a stage learns, or end both with one token"),
                "warning",
            )
        )


def ends(recipe: Recipe, layout: str) -> list[str]:
    """What ends the content of each loss of a layout: names of special tokens, and texts."""
    items = (item for rule in recipe.layouts[layout].rules.values() for item in rule.items)
    losses = (item for item in items if isinstance(item, LossItem) and has_content(item))
    found = (end_of(loss) for loss in losses)
    return [_written(end) for end in found if end]


def _written(end: TextItem | SpecialItem) -> str:
    return end.text if isinstance(end, TextItem) else end.special

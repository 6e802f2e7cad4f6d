"""Tokens that the starting weights do not know are learnt before, or where, they are written."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...dsl.diagnostics import Diagnostic, Findings, Fix, listing
from ...dsl.recipe import Recipe
from ...dsl.texts import Layout, LossItem, SpecialItem, items_within
from ..coverage import cover
from ..places import labels

TABLES = ("lm.embed.weight", "lm.head.weight")
"""What holds a row for each token: to read it, and to write it where the head is not tied."""


def prove_new_tokens(recipe: Recipe, findings: Findings) -> None:
    """Gather the stages that write new tokens whose rows no stage up to them has trained.

    A mistake where no later stage trains them either; else a warning, for a published system did
    so. A low-rank change of a matrix does not make rows of it: it counts for nothing here.
    """
    if recipe.lm is None or recipe.tokens is None or not recipe.tokens.new:
        return
    trained = {name: cover(recipe, name, Findings()).trained for name in recipe.stages}
    for table in TABLES[:1] if recipe.lm.tied else TABLES:
        for name, stage in recipe.stages.items():
            layouts = [recipe.layouts[one] for one in stage.layouts if "lm" in stage.loss]
            written = _written(layouts, learnt=table != TABLES[0])
            new = [one for one in recipe.tokens.new if one in written]
            if not new or any(table in trained[one] for one in _until(recipe, name)):
                continue
            later = [one for one in recipe.stages if name in _until(recipe, one)]
            redeemed = any(table in trained[one] for one in later)
            findings.add(_unlearnt(recipe, name, table, new, redeemed))
            break  # the stages behind it go on with the same rows


def _until(recipe: Recipe, name: str) -> Iterator[str]:
    """A stage, and those that it goes on from."""
    after: str | None = name
    while after:
        yield after
        after = recipe.stages[after].after


def _written(layouts: Iterable[Layout], *, learnt: bool) -> set[str]:
    """The special tokens that layouts write, or that they want written by the model.

    A token that keeps the places of features is none of them: its row is not read.
    """
    every = (item for one in layouts for rule in one.rules.values() for item in rule.items)
    items = (item for item in every if isinstance(item, LossItem) or not learnt)
    return {item.special for item in items_within(items) if isinstance(item, SpecialItem)}


def _unlearnt(
    recipe: Recipe, name: str, table: str, written: list[str], redeemed: bool
) -> Diagnostic:
    module = table.removesuffix(".weight")
    return Diagnostic(
        "F620",
        f"stage `{name}` uses {listing(written)}, whose rows nothing has trained",
        labels(
            recipe,
            (f"{name}.freeze", f"`{module}` learns neither here nor in a stage before"),
            ("tokens.new", "the starting weights do not know these"),
        ),
        "the row of a new token holds what chance put there"
        + (", until a later stage trains it" if redeemed else ", and stays so"),
        Fix(f"train `{module}` in this stage or in one before it", safe=False),
        "warning" if redeemed else "error",
    )

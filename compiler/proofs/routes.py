"""Objectives with routes of their own find what they need in their stage."""

from __future__ import annotations

from collections.abc import Iterator

from ...dsl.diagnostics import Diagnostic, Findings, Fix, listing
from ...dsl.objectives import Contrastive, Hard, Matching
from ...dsl.recipe import Recipe
from ..places import labels
from ..routes import OBJECTIVES


def prove_routes(recipe: Recipe, findings: Findings) -> None:
    """Gather the stages that minimise what cannot be had together."""
    for name in recipe.stages:
        for diagnostic in (*_mixed(recipe, name), *_drawn(recipe, name), *_cut(recipe, name)):
            findings.add(diagnostic)


def _mixed(recipe: Recipe, stage: str) -> Iterator[Diagnostic]:
    """A batch is pairs of pictures and texts, or it is dialogues."""
    losses = recipe.stages[stage].loss
    paired = [name for name in losses if isinstance(recipe.objectives.get(name), OBJECTIVES)]
    others = [name for name in losses if name not in paired]
    if paired and others:
        yield Diagnostic(
            "F614",
            f"stage `{stage}` minimises {listing(paired)} and {listing(others)}",
            labels(recipe, (f"{stage}.loss", "no batch has both")),
            "some compare pictures with texts, pair by pair, and the others read dialogues",
            Fix("let one stage follow the other"),
        )


def _cut(recipe: Recipe, stage: str) -> Iterator[Diagnostic]:
    """A batch whose pairs are told apart from one another is computed at once."""
    settings = recipe.stages[stage]
    paired = [name for name in settings.loss if isinstance(recipe.objectives.get(name), OBJECTIVES)]
    if paired and settings.accumulate > 1:
        yield Diagnostic(
            "F615",
            f"stage `{stage}` computes its batches in parts, and compares them as a whole",
            labels(
                recipe,
                (f"{stage}.accumulate", f"{settings.accumulate} parts of each batch"),
                (f"{stage}.loss", f"{listing(paired)}: each pair is told apart from the others"),
            ),
            "a part of a batch has fewer pairs to compare with, so its loss is another one",
            Fix("leave `accumulate` out"),
        )


def _drawn(recipe: Recipe, stage: str) -> Iterator[Diagnostic]:
    """Hard negatives are drawn by what a contrast of the same stage finds alike."""
    losses = recipe.stages[stage].loss
    for name in losses:
        objective = recipe.objectives.get(name)
        if not isinstance(objective, Matching) or not isinstance(objective.negatives, Hard):
            continue
        by = objective.negatives.by
        if by in losses and isinstance(recipe.objectives.get(by), Contrastive):
            continue
        known = [each for each in losses if isinstance(recipe.objectives.get(each), Contrastive)]
        yield Diagnostic(
            "F614",
            f"`{name}` cannot draw by `{by}`",
            labels(
                recipe,
                (f"{name}.negatives", f"what `{by}` finds alike"),
                (f"{stage}.loss", f"no contrast `{by}` is minimised here"),
            ),
            fix=Fix(f"draw by {listing(known, last='or')}" if known else f"add `{by}` to the loss"),
        )

"""What a stage learns goes somewhere: into a later stage, or into a mode."""

from __future__ import annotations

from itertools import pairwise

from ...dsl.diagnostics import Diagnostic, Findings, Fix
from ...dsl.recipe import Recipe
from ..places import labels


def prove_handoff(recipe: Recipe, findings: Findings) -> None:
    """Gather the stages whose weights nothing goes on with.

    The last stage is what a run ends with. A branch that ends earlier needs a mode that says so.
    """
    followed = {stage.after for stage in recipe.stages.values()}
    answering = {mode.after for mode in recipe.modes.values()}
    names = list(recipe.stages)
    for name, following in pairwise(names):
        if name not in followed | answering:
            findings.add(_lost(recipe, name, following))


def _lost(recipe: Recipe, name: str, following: str) -> Diagnostic:
    after = recipe.stages[following].after
    place = f"{following}.after" if after else following
    instead = f"goes on from `{after}`" if after else "starts over: it has no `after`"
    return Diagnostic(
        "F616",
        f"what stage `{name}` learns is lost",
        labels(
            recipe,
            (name, "neither a stage nor a mode takes its weights"),
            (place, f"`{following}` {instead}"),
        ),
        "a run ends with the weights of its last stage; those of a branch that ends before it "
        "reach a model only through a mode that names the branch",
        Fix(f"write `after = {name}` in stage `{following}`, or in a mode that answers with it"),
    )

"""Samples that share a row keep positions of their own."""

from __future__ import annotations

from ...dsl.diagnostics import Diagnostic, Findings, Fix
from ...dsl.parts import Dynamic, Rope, Su
from ...dsl.recipe import Recipe
from ..places import labels


def prove_packing(recipe: Recipe, findings: Findings) -> None:
    """Gather the stages that pack while the positions of a sample go by the length of its row.

    Steps of a prompt's length (`ntk`) and queries scaled by place (`logn`) are left out of
    training, so that they have no part in it.
    """
    writer = recipe.lm
    scaling = writer.pos.scaling if writer and isinstance(writer.pos, Rope) else None
    if not isinstance(scaling, Dynamic | Su):
        return
    for name, stage in recipe.stages.items():
        if not stage.pack or stage.pack <= scaling.from_:
            continue
        findings.add(
            Diagnostic(
                "S416",
                f"stage `{name}` packs samples whose positions go by the length of their row",
                labels(
                    recipe,
                    (f"{name}.pack", f"rows of up to {stage.pack:,} tok"),
                    (
                        "lm.pos.scaling",
                        f"all of a row turns otherwise when it is longer than {scaling.from_:,}",
                    ),
                ),
                "the rule is defined for a row and not for a sample in it: what stands beside a "
                "sample would change its positions",
                Fix(f"leave `pack` out, or pack at most {scaling.from_}tok", safe=False),
            )
        )

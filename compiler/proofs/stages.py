"""Each stage does exactly one thing with each parameter, and what it trains reaches its loss."""

from __future__ import annotations

import math
from dataclasses import replace

from ...dsl.diagnostics import Diagnostic, Findings, Fix, RecipeError, listing
from ...dsl.objectives import RegionWords
from ...dsl.recipe import Recipe
from ...dsl.stages import Lora
from ..build import build, objectives
from ..coverage import Coverage, cover, short_names, token_rates
from ..ops import Embed
from ..passes.add_losses import AddLosses, end_of
from ..passes.add_token_drop import AddTokenDrop
from ..passes.drop_unused import DropUnused
from ..passes.infer_shapes import InferShapes
from ..passes.tie_weights import TieWeights
from ..places import labels
from ..tokens import shown


def prove_stages(recipe: Recipe, findings: Findings) -> None:
    """Gather what is wrong with each stage, and with what it minimises."""
    _prove_objectives(recipe, findings)
    for name in recipe.stages:
        own = Findings()
        covered = cover(recipe, name, own)
        for diagnostic in own.in_order:
            findings.add(diagnostic)
        if not own:
            _prove_paths(recipe, name, covered, findings)
            _prove_ranks(recipe, name, covered, findings)


def _prove_ranks(recipe: Recipe, name: str, covered: Coverage, findings: Findings) -> None:
    """Warn of low-rank changes with more numbers than the matrix that they change."""
    for index, entry in enumerate(recipe.stages[name].train):
        if not isinstance(entry, Lora):
            continue
        sizes = {n: covered.frozen[n].shape for n, lora in covered.adapted.items() if lora == entry}
        matrix = min(sizes, key=lambda each: math.prod(sizes[each]) / sum(sizes[each]), default="")
        if not matrix or entry.rank * sum(sizes[matrix]) <= math.prod(sizes[matrix]):
            continue
        rows, columns = sizes[matrix]
        findings.add(
            Diagnostic(
                "V305",
                f"a rank of {entry.rank:,} is not low for `{matrix}`",
                labels(
                    recipe,
                    (
                        f"{name}.train[{index}].rank",
                        f"{entry.rank * (rows + columns):,} numbers are learnt",
                    ),
                    (
                        matrix.partition(".")[0],
                        f"the matrix has {rows:,} x {columns:,} = {rows * columns:,}",
                    ),
                ),
                "a change of fewer numbers is what a low rank is for",
                Fix(f"take a rank below {math.ceil(rows * columns / (rows + columns)):,}"),
                "warning",
            )
        )


def _prove_objectives(recipe: Recipe, findings: Findings) -> None:
    """Regions are rows that a part makes, and words are rows of an embedding."""
    graph = build(recipe)
    parts = [*recipe.encoders, *recipe.adapters]
    for name, objective in recipe.objectives.items():
        if not isinstance(objective, RegionWords):
            continue
        for setting, module in (("regions", objective.regions), ("words", objective.words)):
            end = end_of(graph, module)
            if setting == "words" and not (end and isinstance(end.op, Embed)):
                wanted, known = "an embedding", ["lm.embed"]
            elif setting == "regions" and not (end and module.partition(".")[0] in parts):
                wanted, known = "a part that makes rows of features", parts
            else:
                continue
            findings.add(
                Diagnostic(
                    "N215",
                    f"`{module}` is not {wanted}",
                    labels(recipe, (f"{name}.{setting}", f"`{setting}` wants {wanted}")),
                    fix=Fix(
                        f"name one of {listing(known)}" if known[1:] else f"write `{known[0]}`"
                    ),
                )
            )


def _prove_paths(recipe: Recipe, name: str, covered: Coverage, findings: Findings) -> None:
    """Every parameter that learns feeds the loss of its stage."""
    if any(found.code in ("N215", "F614") for found in findings.in_order):
        return
    stage = recipe.stages[name]
    media = shown(recipe, stage)
    graph = build(recipe, media=media, losses=stage.loss)
    try:
        for step in (
            InferShapes(),
            TieWeights(),
            AddLosses(objectives(recipe, name)),
            DropUnused(),
            AddTokenDrop(token_rates(recipe, name)),
        ):
            graph = step.run(graph)
    except RecipeError as error:
        # Parts that do not fit one another are `prove_shapes`'s to report, once.
        if not any(found.code.startswith("S4") for found in findings.in_order):
            for diagnostic in error.diagnostics:
                findings.add(_asked(recipe, name, diagnostic))
        return
    reached = graph.parameters().keys()
    idle = [n for n in (*covered.trained, *covered.adapted) if n not in reached]
    if not idle:
        return
    idle_parts = short_names(idle, build(recipe).parameters())
    lost = [medium for medium in recipe.inputs if medium not in media]
    because = (f"{name}.loss", "this is all that it minimises")
    if lost:
        because = (f"{name}.layout", f"its layouts place no {' and no '.join(lost)}")
    findings.add(
        Diagnostic(
            "F607",
            f"stage `{name}` trains {listing(idle_parts)}, which no loss can reach",
            labels(
                recipe,
                (f"{name}.train", f"{len(idle):,} parameters of it feed no loss"),
                because,
            ),
            "without a path to the loss there is no gradient, so nothing would be learnt",
            Fix("freeze it in this stage, or let a layout or a loss use it"),
        )
    )


def _asked(recipe: Recipe, stage: str, found: Diagnostic) -> Diagnostic:
    """With the setting of the stage that asks for it, of which a pass knows nothing."""
    if found.code != "F613":
        return found
    asked = labels(recipe, (f"{stage}.drop_tokens", "tokens are left out here"))
    parties = (replace(label, primary=False) for label in found.labels)
    return replace(found, labels=(*asked, *parties))

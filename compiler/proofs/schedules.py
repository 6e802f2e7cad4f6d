"""A stage's rate reaches its peak and falls from there, and its batch can be cut as it says."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...dsl.diagnostics import Diagnostic, Findings, Fix
from ...dsl.recipe import Recipe
from ...dsl.stages import Falling, Stage
from ..places import labels
from ..repairs import stated


def prove_schedules(recipe: Recipe, findings: Findings) -> None:
    """Gather stages that end before they are warm, rates above the peak, batches cut too small."""
    for name, stage in recipe.stages.items():
        for found in (*_warmth(recipe, name, stage), *_rates(recipe, name, stage)):
            findings.add(found)
        if stage.accumulate > stage.batch:
            findings.add(_parts(recipe, name, stage))


def steps_of(stage: Stage) -> int | None:
    """How many steps a stage takes; None where its data decide."""
    match stage.stop.unit:
        case "steps":
            return stage.stop.value
        case "seq":
            return math.ceil(stage.stop.value / stage.batch)
    return None


def _warmth(recipe: Recipe, name: str, stage: Stage) -> Iterator[Diagnostic]:
    steps, warmup = steps_of(stage), stage.schedule.warmup
    if steps is None or warmup < steps:
        return
    yield Diagnostic(
        "F610",
        f"stage `{name}` ends before it is warm",
        labels(
            recipe,
            (f"{name}.schedule.warmup", f"the rate rises for {warmup:,} steps"),
            (f"{name}.stop", f"the stage has {steps:,}"),
        ),
        "a rate that still rises when the stage ends has never been the one that is written",
        Fix("warm up for fewer steps, or for a share of the stage: `warmup_ratio: 0.03`"),
    )


def _rates(recipe: Recipe, name: str, stage: Stage) -> Iterator[Diagnostic]:
    """The rates at the ends of a schedule, where they are above its peak."""
    schedule, peak = stage.schedule, stage.optim.lr
    ends = {"warmup_from": schedule.warmup_from}
    if isinstance(schedule, Falling):
        ends["min"] = schedule.min
    for argument, rate in ends.items():
        if rate is None or rate <= peak:
            continue
        path = f"{name}.schedule.{argument}"
        yield Diagnostic(
            "F610",
            f"the rate of stage `{name}` is higher at its end than at its peak"
            if argument == "min"
            else f"the rate of stage `{name}` falls while it warms up",
            labels(
                recipe,
                (path, f"the rate {'ends' if argument == 'min' else 'starts'} at {rate:g}"),
                (f"{name}.optim.lr", f"the peak is {peak:g}"),
            ),
            f"`{argument}` is a rate, and not a share of `lr`",
            _below(recipe, path, rate, peak),
        )


def _below(recipe: Recipe, path: str, rate: float, peak: float) -> Fix:
    """How to write a rate below the peak: the one that is meant, where a share may have been."""
    if rate >= 1:
        return Fix(f"write a rate of at most {peak:g}")
    meant = f"{rate * peak:g}"
    edits = stated(recipe, path, meant)
    return Fix(f"write `{meant}`, if that share of the peak is meant", edits, safe=False)


def _parts(recipe: Recipe, name: str, stage: Stage) -> Diagnostic:
    return Diagnostic(
        "V305",
        f"stage `{name}` cuts its batch into more parts than it has samples",
        labels(
            recipe,
            (f"{name}.accumulate", f"{stage.accumulate:,} parts"),
            (f"{name}.batch", f"{stage.batch:,} in all parts together"),
        ),
        "`batch` is that of one step of the optimizer, and not of one part of it",
        Fix(f"write a batch of {stage.accumulate * stage.batch:,}seq, or fewer parts", safe=False),
    )

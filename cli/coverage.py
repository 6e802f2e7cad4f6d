"""What is known of a recipe on TensorRT without a GPU: `triptych compile --report-only`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from .output import echo_json, table

if TYPE_CHECKING:
    from ..backends.coverage import Coverage
    from ..backends.job import Job
    from ..dsl.recipe import Recipe

LISTED = "a converter is registered for the operator; it may still refuse a call"
ACCEPTED = "not asked: triptych does not call the dry run of torch-tensorrt yet"
BUILT = "no engine was built, and none was executed"


def report(recipe: Recipe, job: Job, wheel: Path | None, target: str | None, as_json: bool) -> None:
    """Say for each part of each method how many of its operators have converters, and what is not
    known; an operator without one is named with the line of its part."""
    from ..backends.coverage import coverage, known_here
    from ..backends.tensorrt import TensorRT, engine_limits, lacking

    source, known = known_here(wheel)
    limits = engine_limits(job.limits, job.spec, TensorRT.batch, TensorRT.slots)
    found = coverage(job, known, limits)
    lacks = list(lacking())
    levels = {
        "listed": f"by {source}: {LISTED}",
        "accepted": ACCEPTED,
        "built": f"{BUILT}; here is missing: {'; '.join(lacks)}" if lacks else BUILT,
    }
    blocking = [
        {"method": name, "part": part, "operator": operator, "recipe": str(recipe.span(part))}
        for name, parts in found.items()
        for part, one in parts.items()
        for operator in one.unlisted
    ]
    declared = f"{target}, declared and not detected" if target else "none declared"
    if as_json:
        methods = {
            name: {part: asdict(one) for part, one in parts.items()}
            for name, parts in found.items()
        }
        head = {"recipe": recipe.name, "mode": job.mode, "target": target}
        echo_json({**head, "levels": levels, "methods": methods, "blocking": blocking})
        return
    rows = [_row(name, part, one) for name, parts in found.items() for part, one in parts.items()]
    table(rows, ("method", "part", "operators", "listed", "of these, conditional", ""))
    for one in blocking:
        place = f"{one['part']}, {one['recipe']}"
        click.echo(f"{one['method']}: {one['operator']} has no converter ({place})")
    table([("target", declared), *levels.items()])


def _row(method: str, part: str, found: Coverage) -> tuple[str, ...]:
    counts = (str(found.calls), str(found.listed), str(found.conditional))
    return method, part, *counts, f"{found.listed / found.calls:.0%}"

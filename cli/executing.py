"""What `compile` and `run` share: options, and the way from a recipe to a job."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .fewer_bits import fewer_bits

if TYPE_CHECKING:
    from ..backends.job import Job
    from ..dsl.recipe import Recipe

weights_option = click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="A training run, a .safetensors file, or a folder of published ones.",
)
random_option = click.option(
    "--random-weights",
    type=click.IntRange(min=0),
    metavar="SEED",
    help="Weights as the recipe declares them, drawn from a seed: to try the machinery.",
)
mode_option = click.option("--mode", help="Which mode of the recipe; the first unless given.")
dtype_option = click.option(
    "--dtype", type=click.Choice(["f32", "bf16", "f16"]), help="Precision; else the mode's target."
)


def mode_of(recipe: Recipe, wanted: str | None) -> str:
    """The mode asked for, or the first."""
    if wanted is None and recipe.modes:
        return next(iter(recipe.modes))
    if wanted not in recipe.modes:
        known = ", ".join(recipe.modes) or "none"
        raise click.UsageError(f"{recipe.name} has no mode {wanted or ''}; its modes: {known}")
    return wanted


def job_of(
    recipe: Recipe, mode: str, weights: Path | None, random_weights: int | None, dtype: str | None
) -> Job:
    """What to compile, with the weights that were asked for."""
    from ..backends.job import job_from
    from ..compiler.lower import PRECISIONS

    if weights is not None and random_weights is not None:
        raise click.UsageError("give --weights or --random-weights, not both")
    source = random_weights if weights is None else weights
    job = job_from(recipe, mode, source, None if dtype is None else PRECISIONS[dtype])
    kept = {name: str(storage) for name, storage in job.quantized.items()}
    for line in fewer_bits(kept, job.weight_rounding, job.rounding):
        click.echo(line, err=True)
    return job

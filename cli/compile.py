"""`triptych compile`: a recipe becomes an artefact."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ..backends import BACKENDS, able
from ..dsl.load import load_recipe
from .coverage import report
from .executing import (
    dtype_option,
    job_of,
    mode_of,
    mode_option,
    random_option,
    weights_option,
)
from .output import amend_option, json_option, table

if TYPE_CHECKING:
    from ..backends.aot import Aot
    from ..backends.artefact import Artefact
    from ..backends.job import Job
    from ..backends.tensorrt import TensorRT

EXAMPLES = """\b
Examples:
  triptych compile scenes --backend aot --weights runs/scenes --out scenes.artefact
  triptych compile qwen2_vl_2b --backend aot --weights Qwen2-VL-2B-Instruct/ --dtype bf16 --out out/
  triptych compile qwen2_vl_72b --backend aot --out programs/      no weights: programs only
  triptych compile qwen2_vl_72b --backend tensorrt --target sm90 --report-only
  triptych compile my.vlm --backend inductor --random-weights 0    fills the cache of `run`

\b
An artefact holds machine code. Run only those that you would trust as a program.
"""


class Compute(click.ParamType[str]):
    """A compute capability: `sm90`."""

    name = "smNN"

    def convert(self, value: str, param: object, ctx: object) -> str:
        """The word itself."""
        if not re.fullmatch(r"sm\d{2,3}", value):
            self.fail(f"{value} is no compute capability: write it as sm90 or sm120")
        return value


@click.command("compile", epilog=EXAMPLES)
@click.argument("recipe")
@click.option(
    "--backend", type=click.Choice(list(BACKENDS)), help="What to compile for; else the mode says."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the artefact."
)
@weights_option
@random_option
@mode_option
@dtype_option
@amend_option
@click.option(
    "--report-only",
    is_flag=True,
    help="With tensorrt: which operators have converters; needs no GPU, and compiles nothing.",
)
@click.option(
    "--target", type=Compute(), help="The GPU that --report-only is asked about, as in sm90."
)
@click.option(
    "--converters",
    type=click.Path(exists=True, path_type=Path),
    metavar="WHEEL",
    help="The torch-tensorrt wheel that --report-only reads; else what is installed, else a table.",
)
@json_option
def compile_command(
    recipe: str,
    backend: str | None,
    out: Path | None,
    weights: Path | None,
    random_weights: int | None,
    mode: str | None,
    dtype: str | None,
    amend: tuple[str, ...],
    report_only: bool,
    target: str | None,
    converters: Path | None,
    as_json: bool,
) -> None:
    """Compile a mode of RECIPE to code that answers without the recipe.

    Without weights an artefact has its programs only: enough to see that a model of any size
    compiles.
    """
    loaded = load_recipe(recipe, amend=amend)
    mode = mode_of(loaded, mode)
    backend = backend or loaded.modes[mode].target.call
    if report_only:
        if backend != "tensorrt":
            raise click.UsageError("--report-only is for --backend tensorrt")
        report(loaded, job_of(loaded, mode, None, None, dtype), converters, target, as_json)
        return
    if target or converters or as_json:
        raise click.UsageError(
            "--target, --converters and --json are for --report-only: an engine is built on the "
            "GPU that runs it"
        )
    if backend == "eager":
        raise click.UsageError("eager compiles nothing: choose --backend aot, inductor or tensorrt")
    if backend == "inductor" and out:
        raise click.UsageError("inductor keeps its code in the cache folder: leave out --out")
    if backend != "inductor" and not out:
        raise click.UsageError(
            f"--backend {backend} writes an artefact: give it a folder with --out"
        )

    able(backend)
    if backend == "inductor" and weights is None and random_weights is None:
        random_weights = 0
    job = job_of(loaded, mode, weights, random_weights, dtype)
    started = time.perf_counter()
    if out is None:
        _fill_cache(job)
    else:
        _say(_build(backend, job, out), time.perf_counter() - started)


def _build(backend: str, job: Job, out: Path) -> Artefact:
    if not sys.stderr.isatty():
        return _builder(
            backend, lambda step, done, of: click.echo(f"{done:>3}/{of} {step}", err=True)
        ).build(job, out)
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description:>24}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("compile")
        return _builder(
            backend,
            lambda step, done, of: bars.update(bar, description=step, completed=done, total=of),
        ).build(job, out)


def _builder(backend: str, progress: Callable[[str, int, int], None]) -> Aot | TensorRT:
    if backend == "aot":
        from ..backends.aot import Aot

        return Aot(progress)
    from ..backends.tensorrt import TensorRT

    return TensorRT(progress=progress)


def _fill_cache(job: Job) -> None:
    """Compile what a first conversation needs, one prompt at a time and the smallest cache."""
    from ..backends.inductor import Inductor
    from ..backends.probe import probe

    executable = Inductor().compile(job)
    for name, method in job.methods.items():
        click.echo(f"compile {name}", err=True)
        executable.run(name, probe(method, job.limits, job.tokens, batch=1))
    click.echo(f"cache    {executable.cache}")


def _say(artefact: Artefact, seconds: float) -> None:
    manifest = artefact.manifest
    size = sum(record.size for record in manifest.files.values())
    errors = {
        name: error for record in manifest.files.values() for name, error in record.errors.items()
    }
    table(
        [
            (name, str(len(method.parameters)), f"{errors[name]:.1e}" if errors else "not run")
            for name, method in manifest.methods.items()
        ],
        ("method", "parameters", "off eager by"),
    )
    click.echo(f"{artefact.folder}  {size / 1e6:,.1f} MB, {seconds:.0f} s")
    if not manifest.weights:
        click.echo("It has no weights: compile with --weights to run it.")

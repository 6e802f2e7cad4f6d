"""`triptych compile`: a recipe becomes an artefact, or an artefact one for this machine."""

from __future__ import annotations

import re
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import click

from ..backends import BACKENDS, able
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
    from ..backends.packing import Progress
    from ..backends.tensorrt import TensorRT
    from ..dsl.recipe import Recipe

EXAMPLES = """\b
Examples:
  triptych compile scenes --backend aot --weights runs/scenes --out scenes.artefact
  triptych compile qwen2_vl_2b --backend aot --weights Qwen2-VL-2B-Instruct/ --dtype bf16 --out out/
  triptych compile qwen2_vl_2b --backend aot --weights Qwen2-VL-2B-Instruct/ --link --out small/
  triptych compile qwen2_vl_72b --backend aot --out programs/      weights come later
  triptych compile programs/ --weights Qwen2-VL-72B-Instruct/ --link --out qwen72/
  triptych compile scenes.artefact --out here.artefact             code for this machine and torch
  triptych compile scenes --stage tell --out tell.artefact         trains: `train --artefact`
  triptych compile qwen2_vl_72b --backend tensorrt --target sm90 --report-only
  triptych compile qwen2_vl_tiny --backend tensorrt --target sm89 --report-only --evidence built
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
@click.argument("model", metavar="RECIPE|ARTEFACT")
@click.option(
    "--backend", type=click.Choice(list(BACKENDS)), help="What to compile for; else the mode says."
)
@click.option(
    "--out", type=click.Path(path_type=Path, file_okay=False), help="Folder of the artefact."
)
@weights_option
@click.option(
    "--link",
    is_flag=True,
    help="Leave the weights in your files, and keep their digests: they must stay as they are.",
)
@random_option
@mode_option
@click.option("--stage", help="Compile the step of a stage, for training, in place of a mode.")
@dtype_option
@amend_option
@click.option(
    "--report-only",
    is_flag=True,
    help="With tensorrt: what is known of each part without a GPU; writes nothing.",
)
@click.option(
    "--target", type=Compute(), help="The GPU that --report-only is asked about, as in sm90."
)
@click.option(
    "--evidence",
    type=click.Choice(["listed", "accepted", "built"]),
    help="How far --report-only goes: names alone, the library's dry run (the default where it is "
    "installed and a target is given), engines.",
)
@click.option(
    "--converters",
    type=click.Path(exists=True, path_type=Path),
    metavar="WHEEL",
    help="The torch-tensorrt wheel that --report-only reads; else what is installed, else a table.",
)
@json_option
def compile_command(
    model: str,
    backend: str | None,
    out: Path | None,
    weights: Path | None,
    link: bool,
    random_weights: int | None,
    mode: str | None,
    stage: str | None,
    dtype: str | None,
    amend: tuple[str, ...],
    report_only: bool,
    target: str | None,
    evidence: Literal["listed", "accepted", "built"] | None,
    converters: Path | None,
    as_json: bool,
) -> None:
    """Compile a mode of RECIPE to code that answers without the recipe, or a stage to code that
    trains.

    Without weights an artefact has its programs and its code: enough to see that a model of any
    size compiles, and weights may come later. Of an ARTEFACT, the programs inside are compiled
    again, for this machine and this release of torch; or for a GPU, with --backend tensorrt.
    """
    from ..backends.artefact import Artefact
    from ..backends.from_artefact import FromArtefact
    from ..backends.manifest import MANIFEST
    from .coverage import report

    if link and weights is None:
        raise click.UsageError("--link is for files of your own: name them with --weights")
    if (Path(model) / MANIFEST).exists():
        given: dict[str, object] = {
            "--random-weights": random_weights,
            "--mode": mode,
            "--stage": stage,
            "--dtype": dtype,
            "--set": amend or None,
        }
        if decided := [name for name, value in given.items() if value is not None]:
            raise click.UsageError(f"{', '.join(decided)}: decided when the artefact was compiled")
        artefact = Artefact(Path(model))
        backend = backend or artefact.manifest.backend
        if _reports(report_only, backend, target, evidence, converters, as_json):
            report(FromArtefact(artefact), None, converters, target, evidence, as_json)
        else:
            _compile_again(artefact, backend, out, weights, link)
        return

    from ..backends.from_job import FromJob
    from ..dsl.load import load_recipe

    loaded = load_recipe(model, amend=amend)
    if stage is not None:
        given = {"--weights": weights, "--random-weights": random_weights, "--mode": mode}
        given |= {"--dtype": dtype, "--target": target, "--report-only": report_only or None}
        if odd := [name for name, value in given.items() if value is not None]:
            raise click.UsageError(f"{', '.join(odd)}: not with --stage; the run decides, or --set")
        _compile_stage(loaded, stage, backend, out)
        return
    mode = mode_of(loaded, mode)
    backend = backend or loaded.modes[mode].target.call
    if _reports(report_only, backend, target, evidence, converters, as_json):
        job = job_of(loaded, mode, None, None, dtype)
        report(FromJob(job), loaded, converters, target, evidence, as_json)
        return
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
        with _watched() as progress:
            made = _builder(backend, progress).build(job, out, link=link)
        _say(made, time.perf_counter() - started)


def _reports(report_only: bool, backend: str, *asked: object) -> bool:
    """Whether a report is wanted; UsageError where what is `asked` of one comes without it."""
    if report_only and backend != "tensorrt":
        raise click.UsageError("--report-only is for --backend tensorrt")
    if not report_only and any(asked):
        raise click.UsageError(
            "--target, --evidence, --converters and --json are for --report-only: an engine is "
            "built on the GPU that runs it"
        )
    return report_only


def _compile_stage(recipe: Recipe, stage: str, backend: str | None, out: Path | None) -> None:
    """The step of a stage, which `train` takes."""
    from ..backends.aot import Aot
    from ..backends.from_stage import FromStage
    from ..backends.stage_job import stage_job

    if backend not in (None, "aot") or not out:
        raise click.UsageError(
            "a stage is compiled ahead of time, by --backend aot, into a folder: name it with --out"
        )
    able("aot")
    started = time.perf_counter()
    with _watched() as progress:
        made = Aot(progress).write(FromStage(stage_job(recipe, stage)), out)
    _say(made, time.perf_counter() - started)


def _compile_again(
    artefact: Artefact, backend: str, out: Path | None, weights: Path | None, link: bool
) -> None:
    """Code for this machine, from the programs inside an artefact."""
    if backend not in ("aot", "tensorrt"):
        raise click.UsageError(
            f"{backend} compiles recipes: of an artefact, choose --backend aot or tensorrt"
        )
    if backend == "tensorrt" and artefact.manifest.training:
        raise click.UsageError("no engine trains: of this artefact, --backend aot makes code")
    if not out:
        raise click.UsageError("give the new artefact a folder with --out")
    able(backend)
    started = time.perf_counter()
    with _watched() as progress:
        made = _builder(backend, progress).rebuild(artefact, out, weights, link=link)
    _say(made, time.perf_counter() - started)


@contextmanager
def _watched() -> Iterator[Progress]:
    """What is to be told of each step: a bar for a person, lines for a pipe."""
    if not sys.stderr.isatty():
        yield lambda step, done, of: click.echo(f"{done:>3}/{of} {step}", err=True)
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bars

    columns = (TextColumn("{task.description:>24}"), BarColumn(), TimeElapsedColumn())
    with Bars(*columns, console=Console(stderr=True)) as bars:
        bar = bars.add_task("compile")
        yield lambda step, done, of: bars.update(bar, description=step, completed=done, total=of)


def _builder(backend: str, progress: Progress) -> Aot | TensorRT:
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
    known = [record for record in manifest.files.values() if record.errors]
    errors = {name: error for record in known for name, error in record.errors.items()}
    table(
        [
            (name, str(len(method.parameters)), f"{errors[name]:.1e}" if errors else "not run")
            for name, method in manifest.methods.items()
        ],
        ("method", "parameters", f"off {known[0].against if known else 'eager'} by"),
    )
    click.echo(f"{artefact.folder}  {size / 1e6:,.1f} MB, {seconds:.0f} s")
    weights = manifest.weights
    if manifest.training:
        click.echo(f"It trains a stage: triptych train {manifest.recipe.name} --artefact ...")
    elif weights.kind == "linked":
        own = sum(content.size for content in weights.files.values())
        click.echo(f"It takes its weights from {weights.source}, {own / 1e6:,.1f} MB.")
    elif weights.kind == "none":
        click.echo("It has no weights yet: run it with --weights PATH.")
    if manifest.quantized and weights.kind != "inside":
        once = {
            "none": f"`triptych compile {artefact.folder} --weights PATH --out NEW`",
            "linked": "a compilation without --link",
        }[weights.kind]
        click.echo(
            f"Each start rounds {len(manifest.quantized)} weights to few bits; {once} "
            "does so once, and keeps them inside."
        )

"""`triptych train`: train a recipe through its stages."""

from __future__ import annotations

import shlex
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import click

from ..dsl.load import load_recipe

if TYPE_CHECKING:
    from torch import Tensor

    from ..backends.report import Metrics
    from ..backends.training import Result
    from ..dsl.kinds import Amount

EXAMPLES = """\b
Examples:
  triptych train scenes --data pictures.json --out runs/scenes
  triptych train my.vlm --data captions=coco/ --data chat=chat.jsonl --out runs/my
  triptych train my.vlm --stage sft --weights runs/base --data chat.jsonl --out runs/sft
  triptych train my.vlm --start vit=clip/ --start lm=qwen/ --data chat.jsonl --out runs/my
  triptych train my.vlm --data chat.jsonl --out runs/my --set sft.optim.lr=2e-5 --steps 100
  triptych train my.vlm --data chat.jsonl --out runs/my --resume
  triptych train my.vlm --data chat.jsonl --out runs/my --artefact sft.artefact

\b
Data is a .json or .jsonl file of LLaVA records (image, conversations) or of chats (messages with
content parts), or a folder of pictures with their captions in .txt files beside them.
"""


@click.command("train", epilog=EXAMPLES)
@click.argument("recipe")
@click.option(
    "--data",
    multiple=True,
    required=True,
    metavar="[NAME=]PATH",
    help="Data for one name of the recipe's mixtures, or for all that have none. Repeatable.",
)
@click.option(
    "--out",
    required=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder of the run: checkpoints, metrics, report.",
)
@click.option(
    "--stage",
    "stages",
    multiple=True,
    default=("all",),
    show_default=True,
    help="Which stage to train. Repeatable.",
)
@click.option(
    "--weights",
    metavar="FROM",
    help="Start from a run, a checkpoint, a .safetensors file, or a folder of published ones; "
    "`fresh` starts from random numbers.",
)
@click.option(
    "--start",
    "parts",
    multiple=True,
    metavar="PART=FROM",
    help="Start one part from these weights, and what no --start names from random numbers. "
    "Repeatable.",
)
@click.option(
    "--held-out",
    type=click.Path(path_type=Path, exists=True),
    help="Data that is not trained on: the report shows what the model says to some of it.",
)
@click.option("--resume", is_flag=True, help="Go on with the run in --out.")
@click.option("--force", is_flag=True, help="Go on although recipe, options or data have changed.")
@click.option(
    "--set",
    "amend",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change a setting, as `amend` would. Repeatable.",
)
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each stage.")
@click.option("--batch", type=click.IntRange(min=1), help="Samples of each step.")
@click.option("--precision", type=click.Choice(["bf16", "f32"]), help="What to compute in.")
@click.option("--seed", type=click.IntRange(min=0), help="Seed of the order and of fresh weights.")
@click.option(
    "--backend",
    type=click.Choice(["eager", "inductor", "aot"]),
    help="How a step is computed: as it is; compiled at the first one; or compiled whole before "
    "it.  [default: inductor, or eager where that fails; aot with --artefact]",
)
@click.option(
    "--artefact",
    "artefacts",
    multiple=True,
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="A stage that `triptych compile --stage` compiled, for --backend aot. Repeatable.",
)
@click.option("--device", default="cpu", show_default=True, help="Where to compute: cpu or cuda.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads that each compute a share of a batch; one where its pairs are compared.",
)
@click.option(
    "--loaders",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Threads that read samples.",
)
@click.option(
    "--save-every",
    type=click.IntRange(min=1),
    default=250,
    show_default=True,
    metavar="STEPS",
    help="How often to write a checkpoint.",
)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Checkpoints to keep beside the end of each stage.",
)
@click.pass_context
def train_command(
    ctx: click.Context,
    /,
    recipe: str,
    data: tuple[str, ...],
    out: Path,
    stages: tuple[str, ...],
    weights: str | None,
    parts: tuple[str, ...],
    held_out: Path | None,
    resume: bool,
    force: bool,
    amend: tuple[str, ...],
    backend: Literal["eager", "inductor", "aot"] | None,
    artefacts: tuple[Path, ...],
    **options: Any,
) -> None:
    """Train RECIPE through its stages, each with its own frozen and trained parameters.

    Ctrl-C finishes the step and saves; a run that ended in any way goes on with --resume, and ends
    with the same weights as one that was never cut off.
    """
    if artefacts and backend not in (None, "aot"):
        raise click.UsageError(f"--artefact is compiled already: leave out --backend {backend}")
    loaded = load_recipe(recipe, amend=amend)

    from ..backends.options import Options
    from ..backends.training import StoppedError, train
    from ..backends.weights import Weights, starts

    if weights and parts:
        raise click.UsageError("--weights starts the whole model, --start a part: give one of them")
    start: dict[str, Tensor] | None = None
    beside: list[Path] = []
    if parts:
        sources = dict(map(_source, parts))
        start, beside = starts(loaded, sources), list(sources.values())
    elif weights == "fresh":
        start = {}
    elif weights is not None:
        start = dict(Weights.open(loaded, Path(weights), fresh=True).tensors())
        beside = [Path(weights)]
    listener = Bars() if sys.stderr.isatty() else Lines()
    try:
        with listener:
            result = train(
                loaded,
                data,
                out,
                stages=() if "all" in stages else stages,
                weights=start,
                held_out=held_out,
                beside=beside,
                resume=resume,
                force=force,
                options=Options(backend=backend, artefacts=artefacts, **options),
                listener=listener,
            )
    except StoppedError as stopped:
        click.echo(f"{stopped}; saved in {stopped.saved.folder}", err=True)
        click.echo(f"go on with: {_again(sys.argv[1:])}", err=True)
        ctx.exit(stopped.exit_code)
    _say(result)


def _source(given: str) -> tuple[str, Path]:
    part, equals, path = given.partition("=")
    if not equals:
        raise click.UsageError(f"--start takes PART=FROM, such as lm={given}")
    return part, Path(path)


def _say(result: Result) -> None:
    if result.bad:
        count = len(result.bad)
        click.echo(f"{count} sample{'s' if count > 1 else ''} could not be used:", err=True)
        for one in result.bad[:5]:
            click.echo(f"  {one}", err=True)
        if count > 5:
            click.echo(f"  all of them: {result.folder / 'bad_samples.jsonl'}", err=True)
    click.echo(f"weights  {result.weights}")
    click.echo(f"report   {result.report}")


def _again(arguments: Sequence[str]) -> str:
    more = [] if "--resume" in arguments else ["--resume"]
    return shlex.join(["triptych", *arguments, *more])


class Lines:
    """Says how a run goes in plain lines, one every few seconds, for a log or a pipe."""

    seconds = 10.0

    def __enter__(self) -> Lines:
        return self

    def __exit__(self, *error: object) -> None:
        pass

    def stage(self, name: str, stop: Amount, done: float) -> None:
        """A line for the stage."""
        self._said = time.monotonic()
        after = f", {done:.0%} are done" if done else ""
        click.echo(f"stage {name}: {stop.value:,} {stop.unit}{after}", err=True)

    def step(self, metrics: Metrics, done: float) -> None:
        """A line now and then, and for the last step."""
        now = time.monotonic()
        if done < 1.0 and now - self._said < self.seconds:
            return
        self._said = now
        click.echo(
            f"  {metrics.stage} {done:4.0%}  step {metrics.step:,}  loss {metrics.loss:.4f}  "
            f"{metrics.tokens / metrics.seconds:,.0f} tok/s",
            err=True,
        )

    def notice(self, text: str) -> None:
        """As it is."""
        click.echo(f"  {text}", err=True)


class Bars:
    """Shows a progress bar for each stage."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.progress import (
            BarColumn,
            Progress,
            TaskProgressColumn,
            TextColumn,
            TimeElapsedColumn,
            TimeRemainingColumn,
        )

        self._progress = Progress(
            TextColumn("{task.description:>12}"),
            BarColumn(),
            TaskProgressColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=Console(stderr=True),
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._progress.stop()

    def stage(self, name: str, stop: Amount, done: float) -> None:
        """A new bar."""
        self._task = self._progress.add_task(name, total=1.0, shown="")
        self._progress.update(self._task, completed=done)

    def step(self, metrics: Metrics, done: float) -> None:
        """The bar moves on."""
        speed = metrics.tokens / metrics.seconds
        shown = f"loss {metrics.loss:.4f}  {speed:,.0f} tok/s"
        self._progress.update(self._task, completed=done, shown=shown)

    def notice(self, text: str) -> None:
        """A line above the bars."""
        self._progress.console.print(text, highlight=False, markup=False)

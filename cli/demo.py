"""`triptych demo`: the whole way once, from drawn pictures to a compiled model and its answers.

Drawing, training, compiling and asking are calls of the command line, each a process of its own, as
a user would make them. What is left to do here is to compare answers with what was to be said.
"""

from __future__ import annotations

import json
import shlex
import shutil
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import click

from ..dsl.load import load_recipe
from .demo_page import Answered, Trained, share, write_page
from .scenes import HELD_OUT, QUESTION, UNSEEN, Kind

STAGED, CONTROL = "scenes", "scenes_unstaged"
FLOORS: Mapping[Kind, float] = {HELD_OUT: 0.95, UNSEEN: 0.80}
"""The share of answers that must be right, word for word."""
ASKED = 2
"""Pictures of each kind that are asked about one by one as well."""

EXAMPLES = """\b
Examples:
  triptych demo
  triptych demo --out short --scenes 2000 --steps 50     how it goes, without the result
"""


@dataclass(frozen=True, slots=True)
class Folders:
    """Where the demo keeps what it makes."""

    out: Path

    @property
    def data(self) -> Path:
        """The data set."""
        return self.out / "data"

    @property
    def artefact(self) -> Path:
        """The compiled model."""
        return self.out / "artefact"

    @property
    def page(self) -> Path:
        """What there is to see."""
        return self.out / "index.html"

    def run(self, recipe: str) -> Path:
        """The training run of a recipe."""
        return self.out / "runs" / recipe


@click.command("demo", epilog=EXAMPLES)
@click.option(
    "--out",
    default="demo",
    show_default=True,
    type=click.Path(path_type=Path, file_okay=False),
    help="Folder for data, runs, artefact and page.",
)
@click.option(
    "--scenes", type=click.IntRange(1, 99_999), help="Scenes to train on, instead of all."
)
@click.option("--tests", type=click.IntRange(1, 99_999), help="Scenes to test on, likewise.")
@click.option("--steps", type=click.IntRange(min=1), help="Steps of each stage, for a short look.")
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    default=2,
    show_default=True,
    help="Threads that train; another number sums in another order, and gives other weights.",
)
@click.pass_context
def demo_command(
    ctx: click.Context,
    out: Path,
    scenes: int | None,
    tests: int | None,
    steps: int | None,
    workers: int,
) -> None:
    """Train, compile and run a small model on drawn scenes, and show it on a page.

    The model says which two things a picture shows, and how they stand. It is tested on scenes that
    it cannot have seen: with combinations that are kept from training, and drawn by a hand that is.
    Fewer right answers than there should be are an error.
    """
    folders = Folders(out)
    draw(folders, scenes, tests)
    for recipe in (STAGED, CONTROL):
        train(folders, recipe, steps, workers)
    compile_staged(folders)
    _say("Ask about pictures that were never seen")
    staged = trained(folders, STAGED, [str(folders.artefact)])
    control = trained(folders, CONTROL, [CONTROL, "--weights", str(folders.run(CONTROL))])
    ask(folders, staged)
    write_page(folders.page, staged, control, FLOORS)
    _say("Result")
    good = verdict(staged, control)
    click.echo(f"page  {folders.page}")
    ctx.exit(0 if good else 1)


def draw(folders: Folders, scenes: int | None, tests: int | None) -> None:
    """Draw the data set, unless it is there."""
    _say("Draw pictures to train on, and others to test on")
    _triptych(
        *("scenes", "--out", str(folders.data)),
        *([f"--drawn={scenes}", f"--told={scenes}"] if scenes else []),
        *([f"--tests={tests}"] if tests else []),
    )


def train(folders: Folders, recipe: str, steps: int | None, workers: int) -> None:
    """Go on with a run that was cut off; otherwise train anew."""
    out = folders.run(recipe)
    unfinished = out.exists() and not (out / "weights.safetensors").exists()
    if not unfinished:
        shutil.rmtree(out, ignore_errors=True)
    stages = load_recipe(recipe).stages
    names = dict.fromkeys(name for stage in stages.values() for name in stage.data.shares)
    _say(f"Train {recipe}, {len(stages)} {'stages' if len(stages) > 1 else 'stage'}")
    _triptych(
        # Compiling a step for two recipes' stages takes longer than it saves in so few steps.
        *("train", recipe, "--backend", "eager", "--out", str(out), "--workers", str(workers)),
        *(f"--data={name}={folders.data / name}.json" for name in names),
        *(["--steps", str(steps)] if steps else []),
        *(["--resume"] if unfinished else []),
    )


def compile_staged(folders: Folders) -> None:
    """Make an artefact of the staged run."""
    _say(f"Compile {STAGED}")
    weights, out = str(folders.run(STAGED)), str(folders.artefact)
    _triptych("compile", STAGED, "--backend", "aot", "--weights", weights, "--out", out)


def trained(folders: Folders, recipe: str, model: Sequence[str]) -> Trained:
    """What a run has come to: how it went, and what it could say at the end of each stage.

    `model` is how `triptych run` names what came out in the end.
    """
    from ..backends.checkpoint import checkpoints
    from ..backends.report import MetricsFile

    run = folders.run(recipe)
    *before, last = [one for one in checkpoints(run) if one.progress.finished]
    found = {kind: answers(folders, kind, model) for kind in FLOORS}
    after = {
        one.progress.stage: share(
            answers(folders, HELD_OUT, [recipe, "--weights", str(one.folder)])
        )
        for one in before
    }
    after[last.progress.stage] = share(found[HELD_OUT])
    return Trained(recipe, MetricsFile(run / "metrics.jsonl").read(), found, after)


def answers(folders: Folders, kind: Kind, model: Sequence[str]) -> list[Answered]:
    """What a model says to all test pictures of a kind."""
    file = folders.data / f"{kind.name}.json"
    records = json.loads(file.read_text(encoding="utf-8"))
    said = _triptych("run", *model, "--batch", str(file), show=False).splitlines()
    return [
        Answered(
            folders.data / record["image"],
            record["conversations"][-1]["value"],
            json.loads(line)["text"],
        )
        for record, line in zip(records, said, strict=True)
    ]


def ask(folders: Folders, staged: Trained) -> None:
    """Ask the artefact about a few pictures, one by one, as a user would."""
    for kind in FLOORS:
        for one in staged.answers[kind][:ASKED]:
            picture = ("--image", str(one.picture), "--prompt", QUESTION)
            _triptych("run", str(folders.artefact), *picture)


def verdict(staged: Trained, control: Trained) -> bool:
    """Print the share of right answers to each kind; whether all are as high as they should be."""
    for kind, floor in FLOORS.items():
        found = share(staged.answers[kind])
        click.secho(
            f"{found:7.1%} of {len(staged.answers[kind])} {kind.title}"
            f" (at least {floor:.0%}; without stages {share(control.answers[kind]):.1%})",
            fg="green" if found >= floor else "red",
        )
    low = [kind.title for kind, floor in FLOORS.items() if share(staged.answers[kind]) < floor]
    if low:
        click.echo(f"The model is not as good as it should be on {' and on '.join(low)}.", err=True)
    return not low


def _say(text: str) -> None:
    click.secho(text, bold=True)


def _triptych(*arguments: str, show: bool = True) -> str:
    """Call the command line in a process of its own; what it prints, unless that is shown."""
    click.secho(f"$ {shlex.join(['triptych', *arguments])}", dim=True)
    done = subprocess.run(
        [sys.executable, "-m", "triptych", *arguments],
        stdout=None if show else subprocess.PIPE,
        text=True,
        check=False,
    )
    if done.returncode:
        raise click.ClickException(f"triptych {arguments[0]} ended with {done.returncode}")
    return (done.stdout or "").strip()

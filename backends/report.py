"""What a training run shows: metrics as JSON lines, the loss as a picture, and a page.

The page is one self-contained file: curves by stage, which part was trained when, the samples
that could not be used, and what the model says to a few of them at the end.
"""

from __future__ import annotations

import base64
import io
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from .checkpoint import Progress, write_text
from .data import Bad

# One colour an objective, in the order in which they first appear in the run; these four stay
# apart for the colour-blind (Okabe and Ito, 2008).
_COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7")


@dataclass(frozen=True, slots=True)
class Metrics:
    """One optimizer step, as it stands in a line of metrics.jsonl."""

    stage: str
    step: int
    loss: float
    """The loss that was differentiated: the sum of `losses`."""
    losses: dict[str, float]
    rate: float
    norm: float
    """The L2 norm of all gradients before clipping."""
    sequences: int
    tokens: int
    """Of the stage so far, paddings not counted; visual tokens count."""
    seconds: float
    """Of the stage so far, reading of the data included."""

    @classmethod
    def of(
        cls, progress: Progress, losses: Mapping[str, float], rate: float, norm: float
    ) -> Metrics:
        """The line of the step that `progress` has just come to; `losses` as a step yields them."""
        return cls(
            stage=progress.stage,
            step=progress.step,
            loss=losses["loss"],
            losses={
                name.removeprefix("loss."): value
                for name, value in losses.items()
                if name != "loss"
            },
            rate=rate,
            norm=norm,
            sequences=progress.sequences,
            tokens=progress.tokens,
            seconds=round(progress.seconds, 3),
        )


class MetricsFile:
    """RUN/metrics.jsonl: grows by a line a step, and forgets what a resumed run will repeat."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, metrics: Metrics) -> None:
        """Add a line."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(asdict(metrics)) + "\n")

    def read(self) -> list[Metrics]:
        """All lines; a torn last one, left by a process that was killed, is no line."""
        if not self._path.exists():
            return []
        whole, _, _ = self._path.read_text(encoding="utf-8").rpartition("\n")
        return [Metrics(**json.loads(line)) for line in whole.splitlines()]

    def cut(self, stage: str, step: int) -> None:
        """Drop what comes after that step of that stage, and with step 0 the stage altogether."""
        kept: list[Metrics] = []
        for line in self.read():
            if line.stage == stage and line.step > step:
                break
            kept.append(line)
        write_text(self._path, "".join(json.dumps(asdict(line)) + "\n" for line in kept))


class BadFile:
    """RUN/bad_samples.jsonl: each sample that could not be used, once."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._named = set(self.read())

    def read(self) -> list[Bad]:
        """All of them, in the order in which they were met."""
        if not self._path.exists():
            return []
        whole, _, _ = self._path.read_text(encoding="utf-8").rpartition("\n")
        return [Bad(**json.loads(line)) for line in whole.splitlines()]

    def add(self, bad: Sequence[Bad]) -> None:
        """Write down those that are new."""
        new = [one for one in dict.fromkeys(bad) if one not in self._named]
        if new:
            self._named.update(new)
            with self._path.open("a", encoding="utf-8") as file:
                file.writelines(json.dumps(asdict(one)) + "\n" for one in new)


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage as the report's table has it."""

    name: str
    trained: Mapping[str, int]
    """Part -> parameters that the stage trains."""
    frozen: Mapping[str, int]
    finished: bool = False


@dataclass(frozen=True, slots=True)
class Prediction:
    """What the trained model says to a sample, beside what the data says."""

    prompt: str
    expected: str
    said: str
    picture: bytes | None = None
    """The picture as PNG."""

    @property
    def right(self) -> bool:
        """Whether both are the same, white space at the ends aside."""
        return self.said.strip() == self.expected.strip()


@dataclass(frozen=True, slots=True)
class Page:
    """All that the report says."""

    title: str
    facts: Mapping[str, str]
    """Name -> value, for the lines under the title."""
    stages: Sequence[StageRow]
    metrics: Sequence[Metrics]
    bad: Sequence[Bad] = ()
    notices: Sequence[str] = ()
    predictions: Sequence[Prediction] = ()
    predicted_from: str = ""
    """Where the samples of the predictions were taken from."""
    assumed: Sequence[str] = field(default=())
    """Settings that the recipe assumes, as no paper gives them."""


def curves(metrics: Sequence[Metrics], *, smooth: int = 25) -> bytes:
    """The loss of every stage side by side as a PNG: each step faint, their running mean strong."""
    from matplotlib.figure import Figure

    stages = list(dict.fromkeys(line.stage for line in metrics))
    names = list(dict.fromkeys(name for line in metrics for name in line.losses))
    width, height = max(5.0, 3.4 * len(stages)), 3.2
    figure = Figure(figsize=(width, height), dpi=110)
    # Margins in inches: matplotlib's own layout engines draw everything twice to find them.
    figure.subplots_adjust(0.6 / width, 0.5 / height, 1 - 0.15 / width, 1 - 0.35 / height, 0.2)
    axes = figure.subplots(1, max(1, len(stages)), squeeze=False)[0]
    for axis, stage in zip(axes, stages, strict=False):
        lines = [line for line in metrics if line.stage == stage]
        for name, colour in zip(names, _COLOURS * len(names), strict=False):
            points = [(line.step, line.losses[name]) for line in lines if name in line.losses]
            if not points:
                continue
            steps, losses = zip(*points, strict=True)
            axis.plot(steps, losses, color=colour, alpha=0.25, linewidth=0.8)
            axis.plot(steps, _running_mean(losses, smooth), color=colour, linewidth=1.6, label=name)
        axis.set_title(stage, fontsize=10)
        axis.set_xlabel("step", fontsize=8)
        axis.set_ylim(bottom=0)
        axis.tick_params(labelsize=8)
        axis.grid(alpha=0.2)
        axis.spines[["top", "right"]].set_visible(False)
        axis.legend(fontsize=8, frameon=False)
    axes[0].set_ylabel("loss", fontsize=8)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def write_report(path: Path, page: Page, picture: bytes) -> None:
    """Write the page, whole or not at all; `picture` shows the curves."""
    environment = Environment(
        loader=PackageLoader("triptych.backends", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters["data_uri"] = _data_uri
    template = environment.get_template("report.html.jinja")
    parts = list(dict.fromkeys(part for row in page.stages for part in (*row.trained, *row.frozen)))
    text = template.render(
        page=page,
        parts=parts,
        rows=[_row(row, page.metrics) for row in page.stages],
        curves=picture,
    )
    write_text(path, text)


def _row(row: StageRow, metrics: Sequence[Metrics]) -> dict[str, Any]:
    lines = [line for line in metrics if line.stage == row.name]
    tail = lines[-max(1, len(lines) // 20) :]
    return {
        "stage": row,
        "last": lines[-1] if lines else None,
        "first_loss": lines[0].loss if lines else None,
        "last_loss": sum(line.loss for line in tail) / len(tail) if lines else None,
    }


def _running_mean(values: Sequence[float], width: int) -> list[float]:
    sums = [0.0]
    for value in values:
        sums.append(sums[-1] + value)
    starts = [max(0, end - width) for end in range(1, len(sums))]
    return [(sums[end] - sums[start]) / (end - start) for end, start in enumerate(starts, 1)]


def _data_uri(png: bytes) -> str:
    return f"data:image/png;base64,{base64.b64encode(png).decode()}"

"""The page that the demo leaves behind: one file with its pictures inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ..dsl.load import load_recipe
from .scenes import Kind

if TYPE_CHECKING:
    from ..backends.report import Metrics
    from ..compiler.plan import StagePlan

SHOWN = 18
"""Pictures of each kind."""
MISTAKES = 6
"""More pictures of each kind, of those that were described wrongly."""


@dataclass(frozen=True, slots=True)
class Answered:
    """A picture, what should be said of it, and what was."""

    picture: Path
    expected: str
    said: str

    @property
    def right(self) -> bool:
        """Whether it was said word for word."""
        return self.said == self.expected


def share(answers: Sequence[Answered]) -> float:
    """The share of right answers."""
    return sum(one.right for one in answers) / len(answers)


@dataclass(frozen=True, slots=True)
class Trained:
    """A training run, and how its model answers."""

    recipe: str
    metrics: Sequence[Metrics]
    """Every step."""
    answers: Mapping[Kind, Sequence[Answered]]
    after: Mapping[str, float]
    """The share of held-out scenes that were described rightly at the end of each stage."""

    @property
    def ends(self) -> Mapping[str, Metrics]:
        """The last step of each stage."""
        return {line.stage: line for line in self.metrics}

    @property
    def seconds(self) -> float:
        """What training took."""
        return sum(line.seconds for line in self.ends.values())

    @property
    def steps(self) -> int:
        """Of all stages."""
        return sum(line.step for line in self.ends.values())


@dataclass(frozen=True, slots=True)
class StageRow:
    """One stage as the page's table has it."""

    plan: StagePlan
    end: Metrics
    loss: float
    """The mean over the last twentieth of its steps."""
    share: float
    """Of right answers at its end."""

    @property
    def trained(self) -> str:
        """The parts that it trained."""
        from ..compiler.plan import by_part

        return ", ".join(by_part(self.plan.trained))

    @property
    def frozen(self) -> str:
        """The parts that it left alone."""
        from ..compiler.plan import by_part

        return ", ".join(by_part(self.plan.coverage.frozen)) or "nothing"


def write_page(path: Path, staged: Trained, control: Trained, floors: Mapping[Kind, float]) -> None:
    """Write the page, whole or not at all."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    from ..backends.checkpoint import write_text
    from ..backends.report import curves
    from ..compiler.picture import picture
    from ..compiler.pipeline import model
    from ..compiler.plan import plan

    recipe = load_recipe(staged.recipe)
    environment = Environment(
        loader=PackageLoader("triptych.cli", "."), autoescape=True, undefined=StrictUndefined
    )
    environment.filters |= {"png": _png, "svg": _svg, "share": share, "percent": "{:.1%}".format}
    text = environment.get_template("demo.html.jinja").render(
        staged=staged,
        control=control,
        floors=floors,
        samples={kind: _samples(staged.answers[kind]) for kind in floors},
        plan=plan(recipe),
        runs=[(one.recipe, curves(one.metrics), _rows(one)) for one in (staged, control)],
        graph=picture({"model": model(recipe)}),
        out=path.parent.as_posix(),
    )
    write_text(path, text)


def _samples(answers: Sequence[Answered]) -> list[Answered]:
    """The first of all, so that nobody has chosen them, and the first mistakes of the rest."""
    rest = [one for one in answers[SHOWN:] if not one.right]
    return [*answers[:SHOWN], *rest[:MISTAKES]]


def _rows(trained: Trained) -> list[StageRow]:
    from ..compiler.plan import plan

    rows = []
    for stage in plan(load_recipe(trained.recipe)).stages:
        losses = [line.loss for line in trained.metrics if line.stage == stage.name]
        last = losses[-max(1, len(losses) // 20) :]
        rows.append(
            StageRow(
                stage, trained.ends[stage.name], sum(last) / len(last), trained.after[stage.name]
            )
        )
    return rows


def _png(content: bytes | Path) -> str:
    data = content.read_bytes() if isinstance(content, Path) else content
    return f"data:image/png;base64,{base64.b64encode(data).decode()}"


def _svg(content: str) -> str:
    """As a picture of its own, so that its styles stay its own."""
    return f"data:image/svg+xml;base64,{base64.b64encode(content.encode()).decode()}"

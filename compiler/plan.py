"""What each stage does: what it trains at which rate, what it keeps, and what it hands on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from ..dsl.assumed import assumed
from ..dsl.recipe import Recipe
from ..dsl.stages import Stage
from .build import build
from .coverage import Coverage, coverage
from .ops import Param


@dataclass(frozen=True)
class StagePlan:
    """One stage, with every list resolved to the names of parameters.

    `settings` is the stage as the recipe has it. `recomputed` names the parameters whose layers
    keep no activations. `handed` names those that the stage before trains too, whose optimizer
    state goes on; `given_up` is what else it trains, whose state does not. A low-rank change is
    part of its matrix by then: another one starts anew, with a state of its own. `assumed` lists
    the settings that no publication gives.
    """

    name: str
    settings: Stage
    coverage: Coverage
    recomputed: frozenset[str]
    handed: frozenset[str]
    given_up: Mapping[str, Param]
    assumed: tuple[str, ...]

    @property
    def trained(self) -> Mapping[str, Param]:
        """All that gets a gradient, by name: added matrices included."""
        return self.coverage.learnt

    @property
    def spared(self) -> frozenset[str]:
        """The trained parameters that weight decay leaves alone by name."""
        chosen = self.settings.optim.no_decay
        return frozenset(n for n in self.trained if any(one.matches(n) for one in chosen))

    @property
    def groups(self) -> dict[float, tuple[str, ...]]:
        """The trained parameters by learning rate, in units of the stage's."""
        found = dict[float, list[str]]()
        for name in self.trained:
            found.setdefault(self.coverage.factors.get(name, 1.0), []).append(name)
        return {factor: tuple(names) for factor, names in found.items()}

    def to_json(self) -> dict[str, Any]:
        """Counts by part and all settings; names of parameters are left to `show`."""
        covered = self.coverage
        return {
            "name": self.name,
            "after": self.settings.after,
            "trained": by_part(covered.trained),
            "frozen": by_part(covered.frozen),
            "added": by_part(covered.added),
            "adapted": sorted({lora.target.text for lora in covered.adapted.values()}),
            "rates": {
                str(factor): count({name: self.trained[name] for name in names})
                for factor, names in self.groups.items()
            },
            "recomputed": [selector.text for selector in self.settings.checkpoint],
            "optimizer_state_kept": count(
                {name: param for name, param in self.trained.items() if name in self.handed}
            ),
            "optimizer_state_given_up": by_part(self.given_up),
            "settings": self.settings.model_dump(mode="json"),
            "assumed": list(self.assumed),
        }


@dataclass(frozen=True)
class Plan:
    """A recipe's parameters, and its stages in the order in which they run."""

    recipe: str
    parameters: Mapping[str, Param]
    stages: tuple[StagePlan, ...]
    assumed: tuple[str, ...]

    @cached_property
    def total(self) -> int:
        """How many numbers the model holds; a tied head counts once."""
        return count(self.parameters)

    def __getitem__(self, stage: str) -> StagePlan:
        return next(plan for plan in self.stages if plan.name == stage)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for other programs."""
        return {
            "recipe": self.recipe,
            "total": self.total,
            "tensors": len(self.parameters),
            "parts": by_part(self.parameters),
            "stages": [stage.to_json() for stage in self.stages],
            "assumed": list(self.assumed),
        }


def plan(recipe: Recipe) -> Plan:
    """What becomes of a recipe's parameters, stage by stage; RecipeError as from `coverage`."""
    parameters = build(recipe).parameters()
    covered = {name: coverage(recipe, name) for name in recipe.stages}
    handed = {name: _handed(covered, name, stage.after) for name, stage in recipe.stages.items()}
    stages = tuple(
        StagePlan(
            name,
            stage,
            covered[name],
            recomputed=frozenset(
                parameter
                for parameter in parameters
                if any(selector.matches(parameter) for selector in stage.checkpoint)
            ),
            handed=handed[name],
            given_up={
                parameter: param
                for parameter, param in (covered[stage.after].learnt if stage.after else {}).items()
                if parameter not in handed[name]
            },
            assumed=tuple(assumed(recipe, name)),
        )
        for name, stage in recipe.stages.items()
    )
    return Plan(recipe.name, parameters, stages, tuple(assumed(recipe)))


def _handed(covered: Mapping[str, Coverage], stage: str, after: str | None) -> frozenset[str]:
    """The parameters whose optimizer state a stage goes on with."""
    return frozenset(covered[stage].trained.keys() & covered[after].trained if after else ())


def count(parameters: Mapping[str, Param]) -> int:
    """How many numbers these parameters hold."""
    return sum(param.count for param in parameters.values())


def by_part(parameters: Mapping[str, Param]) -> dict[str, int]:
    """How many numbers each part of the model has among these: `vit`, `merger`, `lm`."""
    found = dict[str, int]()
    for name, param in parameters.items():
        part = name.partition(".")[0]
        found[part] = found.get(part, 0) + param.count
    return found

"""A stage ahead of time: what is compiled of it.

Where a batch is computed in one part, forward, backward and AdamW are one method, `train_step`.
Where a stage cuts it (`accumulate`), `gradients` runs for each part and `update` once. What is
frozen keeps the methods that it has in any case.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import Dim, ExportedProgram

from ..compiler.graph import Program
from ..compiler.lower import Lowered, MethodModule
from ..compiler.pipeline import for_training
from ..compiler.plan import StagePlan, plan
from ..compiler.text import text_of_methods
from ..compiler.types import Bounds, Size, Symbol, bounds, evaluate, symbols
from ..dsl.recipe import Recipe
from .base import BackendError, Limit, Method, Port
from .exporting import Functional, dynamic, examples
from .optim import MOMENTS, SCALES
from .step_programs import AddGradients, Rule, Update, WholeStep, export_step
from .training_stage import lowered_stage

WIDEST = 2**24
"""As large as a size is taken to be where the recipe sets no limit to it."""


@dataclass(frozen=True)
class StageJob:
    """What is compiled of a stage.

    `lowered` lies on the device "meta", each weight in the precision that it is computed in. `cut`
    says that a batch is computed in parts.
    """

    recipe: str
    stage: str
    lowered: Lowered
    trained: tuple[str, ...]
    rule: Rule
    cut: bool

    @classmethod
    def of(cls, recipe: str, program: Program, plan: StagePlan) -> StageJob:
        """What a planned stage comes to."""
        optim = plan.settings.optim
        return cls(
            recipe,
            plan.name,
            lowered_stage(program, plan),
            tuple(plan.trained),
            Rule(optim.betas, optim.eps, optim.clip),
            cut=plan.settings.accumulate > 1 and "pairs" not in program.spec,
        )

    @cached_property
    def sizes(self) -> dict[str, Size]:
        """The sizes that vary in the methods' inputs: symbols, and what comes of them."""
        return {
            str(size): size
            for method in self.lowered.methods.values()
            for feed in method.signature.values()
            for size in feed.sizes
            if not isinstance(size, int)
        }

    @cached_property
    def limits(self) -> dict[str, Limit]:
        """The range of each of them."""
        known = dict(self._known)
        return {name: _limit(bounds(size, known)) for name, size in self.sizes.items()}

    @cached_property
    def methods(self) -> dict[str, Method]:
        """The outsides of all methods, in the order in which they run."""
        modules = dict(self.lowered.methods)
        step = modules.pop("step")
        found = {name: _outside(name, module) for name, module in modules.items()}
        fed, losses = _outside("step", step).inputs, tuple(step.outputs)
        used = tuple(dict.fromkeys([*step.state_dict(), *self.trained]))
        if not self.cut:
            made = Method("train_step", {**fed, **self._state}, (*losses, "norm"), used)
            return found | {made.name: made}
        sums = {f"{name}/gradient": self._port(name) for name in self.trained}
        whole = {"loss": Port((), torch.float32), **sums, **self._state}
        return found | {
            "gradients": Method("gradients", {**fed, **sums}, losses, used),
            "update": Method("update", whole, ("norm",), self.trained),
        }

    @property
    def updated(self) -> dict[str, tuple[str, ...]]:
        """What each method changes in place, of its parameters and of its inputs."""
        moved = (*self.trained, *(name for name in self._state if name != SCALES))
        sums = tuple(f"{name}/gradient" for name in self.trained)
        changed = {"train_step": moved, "gradients": sums, "update": moved}
        return {name: changed.get(name, ()) for name in self.methods}

    @property
    def digest(self) -> str:
        """Names what is compiled: the methods and all that is constant in them."""
        again = (p for p, one in self.lowered.module.named_modules() if vars(one).get("checkpoint"))
        parts = {
            "methods": text_of_methods(dict(self.lowered.program.methods)),
            "limits": {name: str(limit) for name, limit in self.limits.items()},
            "weights": {name: str(one.dtype) for name, one in self._weights.items()},
            "trained": self.trained,
            "recomputed": list(again),
            "rule": [self.rule.betas, self.rule.eps, self.rule.clip],
            "cut": self.cut,
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def program(self, name: str) -> ExportedProgram:
        """The program of a method, from weights that hold nothing.

        BackendError where torch cannot leave a size free.
        """
        method = self.methods[name]
        with FakeTensorMode():
            weights = {
                one: torch.empty(self._weights[one].shape, dtype=self._weights[one].dtype)
                for one in method.parameters
            }
            inputs = {
                feed: torch.empty(port.shape(self._examples), dtype=port.dtype)
                for feed, port in method.inputs.items()
            }
        free = {feed: self._free(port) for feed, port in method.inputs.items()}
        try:
            return export_step(
                self._function(name), (weights, inputs), ({one: {} for one in weights}, free)
            )
        except torch._dynamo.exc.UserError as problem:
            raise BackendError(
                f"{name} of stage {self.stage} of {self.recipe} cannot be compiled ahead of time: "
                f"{problem}\ntrain it with --backend inductor or eager"
            ) from problem

    def _function(self, name: str) -> nn.Module:
        kinds = {"train_step": WholeStep, "gradients": AddGradients, "update": Update}
        if name not in kinds:
            return Functional(self.lowered.methods[name])
        return kinds[name](self.lowered.methods["step"], self.trained, self.rule)

    def _free(self, port: Port) -> dict[int, Any]:
        """What is free of an input. Of a size that others decide, torch finds out what it is."""
        named = {n: limit for n, limit in self.limits.items() if isinstance(self.sizes[n], Symbol)}
        dims = dynamic(named)
        computed = dict.fromkeys(self.sizes.keys() - named.keys(), Dim.AUTO)
        chosen = {**dims, **computed}
        return {place: chosen[str(n)] for place, n in enumerate(port.sizes) if n in chosen}

    @cached_property
    def _weights(self) -> dict[str, Tensor]:
        return self.lowered.module.state_dict()

    @cached_property
    def _known(self) -> dict[str, Bounds]:
        """The bounds of every symbol."""
        used = (name for size in self.sizes.values() for name in symbols(size))
        return {name: Bounds(1, None) for name in used} | dict(self.lowered.program.limits)

    @cached_property
    def _examples(self) -> dict[str, int]:
        """An ordinary value of each size that varies."""
        values = examples({name: _limit(known) for name, known in self._known.items()})
        return {name: evaluate(size, values) for name, size in self.sizes.items()}

    @cached_property
    def _state(self) -> dict[str, Port]:
        """What AdamW is given: numbers of the step, moments, and masters where weights are not."""
        ports = {SCALES: Port((3, len(self.trained)), torch.float32)}
        for name in self.trained:
            ports |= {f"{name}/{moment}": self._port(name) for moment in MOMENTS}
            if self._weights[name].dtype != torch.float32:
                ports[f"{name}/master"] = self._port(name)
        return ports

    def _port(self, name: str) -> Port:
        return Port(tuple(self._weights[name].shape), torch.float32)


def stage_job(recipe: Recipe, stage: str) -> StageJob:
    """What a stage of a recipe comes to. BackendError when it has no such stage."""
    if stage not in recipe.stages:
        known = ", ".join(recipe.stages) or "none"
        raise BackendError(f"{recipe.name} has no stage {stage!r}; its stages: {known}")
    return StageJob.of(recipe.name, for_training(recipe, stage), plan(recipe)[stage])


def _outside(name: str, module: MethodModule) -> Method:
    inputs = {
        feed: Port(tuple(s if isinstance(s, int) else str(s) for s in given.sizes), given.dtype)
        for feed, given in module.signature.items()
    }
    return Method(name, inputs, tuple(module.outputs), tuple(module.state_dict()))


def _limit(known: Bounds) -> Limit:
    low = max(known.least, known.step)
    return Limit(low, max(low, known.most or WIDEST), known.step)

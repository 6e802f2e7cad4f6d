"""One stage of a run: the weights in the form that it computes with, and its step.

Precision: `f32` computes in float32. `bf16` computes with bfloat16 weights, as the model will run
later, while each trained weight has a float32 master that the optimizer moves; gradients are summed
and AdamW's moments kept in float32. Frozen weights are kept as they came and only read as bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

from ..compiler.graph import Program
from ..compiler.lower import PRECISIONS, Lowered, MethodModule, lower
from ..compiler.plan import StagePlan
from ..compiler.precision import coarsest, of_part
from .ahead import AheadStep
from .base import Executable
from .compiled_method import CompiledMethod
from .features import PREFIX, Kept, Store, key_of
from .foreseen import Foreseen
from .gradients import Gradients, Method, Replica
from .just_in_time import JustInTime
from .optim import MOMENTS, Optimizer, clip
from .options import Backend

Code: TypeAlias = Callable[[Mapping[str, Tensor]], Executable]
"""Compiled methods of a stage, for the weights that they are to compute with."""

Form: TypeAlias = Callable[[Mapping[str, MethodModule]], Mapping[str, Method]]
"""What becomes of the methods of a stage before they are called."""


class NotFiniteError(ArithmeticError):
    """The loss or the gradient of a step is infinite or no number."""


class StageRun:
    """What a stage computes with, from `weights` (every parameter of the program, by name) on."""

    def __init__(
        self,
        program: Program,
        plan: StagePlan,
        weights: Mapping[str, Tensor],
        *,
        device: str = "cpu",
        workers: int = 1,
        compiled: bool = False,
        code: Code | None = None,
        store: Store | None = None,
    ) -> None:
        """`store` is where values of the parts that the stage keeps are read and written.

        With `code`, compiled ahead of time, one worker computes every step: it uses all cores.
        """
        optim = plan.settings.optim
        self._masters = {
            name: weights[name].to(device, torch.float32, copy=True).contiguous()
            for name in plan.trained
        }
        dtypes = {
            name: PRECISIONS[of_part(plan.settings.precision, name.partition(".")[0])]
            for name in weights
        }
        self._live = {name: master.to(dtypes[name]) for name, master in self._masters.items()}
        # What no method uses is kept as it was given, and nowhere else.
        names = {name for graph in program.methods.values() for name in graph.parameters()}
        used = {name: weights[name] for name in names} | self._live
        self._used = {name: value.to(device, dtypes[name]) for name, value in used.items()}
        self._program, self._plan, self._device, self._store = program, plan, device, store
        self._workers = 1 if code else workers
        self.weights = {**weights, **self._masters}
        """Every parameter as it is now: trained ones in float32, others as they were given."""
        self.optimizer = Optimizer(
            self._masters,
            betas=optim.betas,
            eps=optim.eps,
            weight_decay=optim.weight_decay,
            decay=optim.decay,
            spared=plan.spared,
            factors=plan.coverage.factors,
        )
        self._limit = optim.clip
        self._beta = optim.betas[0]
        self._dtype = PRECISIONS[coarsest(plan.settings.precision)]
        self._gradients: Gradients | JustInTime = Gradients(())
        self._just_in_time: JustInTime | None = None
        self._waited = 0.0
        self._ahead: AheadStep | None = None
        if code:
            self._compute_ahead(code)
        elif compiled:
            self._compute_just_in_time()
        else:
            self.compute_by_eager()

    def step(
        self, shards: Sequence[Mapping[str, Tensor]], rate: float
    ) -> tuple[dict[str, float], float]:
        """Move the trained weights once; the losses by name, and the gradient's norm.

        StepError when it cannot be compiled, or when what was compiled for this batch makes
        something else of it than eager does; nothing has moved then, but ahead of time.
        NotFiniteError when there is nothing sensible to move them by; they are then left alone.
        """
        if self._ahead:
            losses, norm = self._ahead.step(shards, self.optimizer.scales(rate))
            _expect_finite(losses["loss"], norm)
            self.optimizer.count()
            return losses, norm
        losses, gradients = self._gradients.of(shards)
        norm = clip(gradients, self._limit)
        _expect_finite(losses["loss"], norm)
        self.optimizer.step(gradients, rate)
        for name, master in self._masters.items():
            if self._live[name] is not master:
                self._live[name].copy_(master)
        return losses, norm

    def result(self) -> dict[str, Tensor]:
        """What the stage hands on: its weights, low-rank changes added to their matrices."""
        merged = dict(self.weights)
        for name, lora in self._program.adapted.items():
            stem = name.removesuffix(".weight")
            into, out = merged.pop(f"{stem}.lora_a"), merged.pop(f"{stem}.lora_b")
            merged[name] = merged[name].to(into) + lora.scale * (out @ into)
        return merged

    @property
    def backend(self) -> Backend:
        """How a step is computed."""
        return "aot" if self._ahead else "inductor" if self._just_in_time else "eager"

    @property
    def recompiles(self) -> int:
        """Graphs of methods beyond those that they need."""
        return self._just_in_time.recompiles if self._just_in_time else 0

    @property
    def compiling(self) -> float:
        """Seconds that steps have waited for a compiler."""
        return self._waited + (self._just_in_time.seconds if self._just_in_time else 0.0)

    def compute_by_eager(self) -> None:
        """Compute operation by operation, from now on."""
        self.close()
        self._waited, self._just_in_time = self.compiling, None
        self.replicas = self._replicas(dict, self._keys(compiled=False))
        self._gradients = Gradients(self.replicas)

    def close(self) -> None:
        """Let the workers go."""
        self._gradients.close()

    def _compute_just_in_time(self) -> None:
        made: list[list[CompiledMethod]] = []

        def compiled(methods: Mapping[str, MethodModule]) -> dict[str, Method]:
            own = {name: CompiledMethod(method) for name, method in methods.items()}
            made.append(list(own.values()))
            return dict(own)

        self.replicas = self._replicas(compiled, self._keys(compiled=True))
        self._just_in_time = JustInTime(
            Gradients(self.replicas),
            made,
            lambda: Gradients([self._replica(dict)]),
            self._dtype,
        )
        self._gradients = self._just_in_time

    def _compute_ahead(self, code: Code) -> None:
        keys = self._keys(compiled=True)
        self.replicas = [self._replica(dict)]
        self._gradients = Gradients(self.replicas)
        made = code({name: one.contiguous() for name, one in self._used.items()})
        methods = self._kept({name: partial(made.run, name) for name in keys}, keys)
        if "prefix" in made.methods:
            methods["prefix"] = partial(made.run, "prefix")
        self._ahead = AheadStep(
            made, list(methods.values()), self._moved, self._live, self._foreseen, self._dtype
        )

    def _keys(self, *, compiled: bool) -> dict[str, str]:
        """The digests under which values of the parts that the stage keeps lie on the disk, where
        what other weights or forms made is removed."""
        keys = {
            name: key_of(self._program, name, self._used, self._device, compiled)
            for name in self._program.methods
            if name.startswith(PREFIX)
        }
        if self._store is not None:
            self._store.open(keys)
        return keys

    def _kept(self, methods: Mapping[str, Method], keys: Mapping[str, str]) -> dict[str, Method]:
        """The methods; those that `keys` has are computed for what is not in the store."""
        if self._store is None:
            return dict(methods)
        graphs = self._program.methods
        return {
            name: Kept(method, graphs[name], self._store, name, keys[name])
            if name in keys
            else method
            for name, method in methods.items()
        }

    def _replicas(self, form: Form, keys: Mapping[str, str]) -> list[Replica]:
        """One for each worker, whose methods come in this form."""
        return [self._replica(form, keys) for _ in range(self._workers)]

    def _replica(self, form: Form, keys: Mapping[str, str] | None = None) -> Replica:
        """The methods of a stage over parameters of their own, in the memory of the weights."""
        lowered = lowered_stage(self._program, self._plan)
        wanted = lowered.module.state_dict()
        lowered.module.load_state_dict({name: self._used[name] for name in wanted}, assign=True)
        lowered.module.requires_grad_(False)
        trained = {
            name: lowered.module.get_parameter(name).requires_grad_(True)
            for name in self._plan.trained
        }
        methods = self._kept(form(lowered.methods), keys or {})
        before = [method for name, method in methods.items() if name != "step"]
        return Replica(methods["step"], tuple(before), trained)

    def _foreseen(self, shards: Sequence[Mapping[str, Tensor]]) -> Foreseen:
        """What the step is to do to the first moments, by eager."""
        losses, gradients = self._gradients.of(shards)
        norm, state = clip(gradients, self._limit), self.optimizer.state()
        moments = {
            name: torch.lerp(state[f"{name}/exp_avg"], one, 1 - self._beta)
            for name, one in gradients.items()
        }
        self._gradients, self.replicas = Gradients(()), []  # and their memory
        return Foreseen(losses["loss"], norm, moments)

    @property
    def _moved(self) -> dict[str, Tensor]:
        """What moves beside the weights that are computed with: moments and masters."""
        state = self.optimizer.state()
        masters = {
            f"{name}/master": master
            for name, master in self._masters.items()
            if self._live[name] is not master
        }
        return {
            f"{n}/{kind}": state[f"{n}/{kind}"] for n in self._masters for kind in MOMENTS
        } | masters


def lowered_stage(program: Program, plan: StagePlan) -> Lowered:
    """The methods of a stage on the device "meta", each weight in the precision that it is computed
    in; what is not kept for the backward pass is marked."""
    settings = plan.settings
    lowered = lower(program, dtype=PRECISIONS[coarsest(settings.precision)], device="meta")
    held = {
        name: one.to(PRECISIONS[of_part(settings.precision, name.partition(".")[0])])
        for name, one in lowered.module.state_dict().items()
    }
    lowered.module.load_state_dict(held, assign=True)
    lowered.module.requires_grad_(False)
    for path, module in lowered.module.named_modules():
        if hasattr(module, "checkpoint"):
            module.checkpoint = any(name.startswith(f"{path}.") for name in plan.recomputed)
    return lowered


def _expect_finite(loss: float, norm: float) -> None:
    if not (math.isfinite(loss) and math.isfinite(norm)):
        raise NotFiniteError(f"the loss is {loss}, the norm of its gradient {norm}")

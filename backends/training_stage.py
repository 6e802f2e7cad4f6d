"""One stage of a run: the weights in the form that it computes with, and its step.

Precision: `f32` computes in float32. `bf16` computes with bfloat16 weights, as the model will run
later, while each trained weight has a float32 master that the optimizer moves; gradients are summed
and AdamW's moments kept in float32. Frozen weights are kept as they came and only read as bfloat16.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from ..compiler.graph import Program
from ..compiler.lower import PRECISIONS, MethodModule, lower
from ..compiler.plan import StagePlan
from ..compiler.precision import coarsest, of_part
from .features import PREFIX, Kept, Store, key_of
from .gradients import Gradients, Method, Replica
from .optim import Optimizer, clip


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
        store: Store | None = None,
    ) -> None:
        """`store` is where values of the parts that the stage keeps are read and written."""
        optim = plan.settings.optim
        self._masters = {
            name: weights[name].to(device, torch.float32, copy=True) for name in plan.trained
        }
        dtypes = {
            name: PRECISIONS[of_part(plan.settings.precision, name.partition(".")[0])]
            for name in weights
        }
        self._live = {name: master.to(dtypes[name]) for name, master in self._masters.items()}
        used = {name: self._live.get(name, value) for name, value in weights.items()}
        used = {name: value.to(device, dtypes[name]) for name, value in used.items()}
        keys = {
            name: key_of(program, name, used, device, compiled)
            for name in program.methods
            if name.startswith(PREFIX)
        }
        if store is not None:
            store.open(keys)
        self.replicas = [
            _replica(program, plan, used, compiled, store, keys) for _ in range(workers)
        ]
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
        self._adapted = program.adapted
        self._limit = optim.clip
        self._gradients = Gradients(self.replicas)

    def step(
        self, shards: Sequence[Mapping[str, Tensor]], rate: float
    ) -> tuple[dict[str, float], float]:
        """Move the trained weights once; the losses by name, and the gradient's norm.

        NotFiniteError when there is nothing sensible to move them by; they are then left alone.
        """
        losses, gradients = self._gradients.of(shards)
        norm = clip(gradients, self._limit)
        if not (math.isfinite(losses["loss"]) and math.isfinite(norm)):
            raise NotFiniteError(f"the loss is {losses['loss']}, the norm of its gradient {norm}")
        self.optimizer.step(gradients, rate)
        for name, master in self._masters.items():
            if self._live[name] is not master:
                self._live[name].copy_(master)
        return losses, norm

    def result(self) -> dict[str, Tensor]:
        """What the stage hands on: its weights, low-rank changes added to their matrices."""
        merged = dict(self.weights)
        for name, lora in self._adapted.items():
            stem = name.removesuffix(".weight")
            into, out = merged.pop(f"{stem}.lora_a"), merged.pop(f"{stem}.lora_b")
            merged[name] = merged[name].to(into) + lora.scale * (out @ into)
        return merged

    def close(self) -> None:
        """Let the workers go."""
        self._gradients.close()


def _replica(
    program: Program,
    plan: StagePlan,
    weights: Mapping[str, Tensor],
    compiled: bool,
    store: Store | None,
    keys: Mapping[str, str],
) -> Replica:
    """The methods of a stage over parameters of their own, which share the memory of `weights`.

    Those that `keys` has are computed for what is not in the store.
    """
    dtype = PRECISIONS[coarsest(plan.settings.precision)]
    lowered = lower(program, dtype=dtype, device="meta")
    wanted = lowered.module.state_dict()
    lowered.module.load_state_dict({name: weights[name] for name in wanted}, assign=True)
    lowered.module.requires_grad_(False)
    for path, module in lowered.module.named_modules():
        if hasattr(module, "checkpoint"):
            module.checkpoint = any(name.startswith(f"{path}.") for name in plan.recomputed)
    trained = {
        name: lowered.module.get_parameter(name).requires_grad_(True) for name in plan.trained
    }
    methods: dict[str, Method] = {
        name: _Compiled(method) if compiled else method for name, method in lowered.methods.items()
    }
    if store is not None:
        for name, key in keys.items():
            methods[name] = Kept(methods[name], program.methods[name], store, name, key)
    before = [method for name, method in methods.items() if name != "step"]
    return Replica(methods["step"], tuple(before), trained)


class _Compiled:
    """A method compiled at its first call, as one graph for all sizes that its signature varies."""

    def __init__(self, method: MethodModule) -> None:
        self._signature = method.signature
        # Not `dynamic=True`: that takes numbers such as a temperature for variables too, finds out
        # at the end that they are not, and compiles everything twice.
        self._run: Method = torch.compile(  # type: ignore[call-overload]  # stubs lack the last one
            method, fullgraph=True, dynamic=False, isolate_recompiles=True
        )

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # What the method does not take is left out: it would be guarded as well.
        taken = {name: inputs[name] for name in self._signature}
        for name, feed in self._signature.items():
            for dim, size in enumerate(feed.sizes):
                if not isinstance(size, int):
                    torch._dynamo.maybe_mark_dynamic(taken[name], dim)
        return self._run(taken)

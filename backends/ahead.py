"""The steps of a stage on methods that were compiled ahead of time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import torch
from torch import Tensor

from .base import Executable
from .foreseen import Foreseen
from .gradients import Method
from .optim import SCALES

Shards: TypeAlias = Sequence[Mapping[str, Tensor]]


class AheadStep:
    """Moves weights by the compiled `train_step`, or by `gradients` for each part and `update`.

    `before` are the methods of what is frozen, in order. `state` has AdamW's moments, and the
    masters of weights that are not float32 themselves: `NAME/exp_avg`, `NAME/exp_avg_sq`,
    `NAME/master`. It is moved in place, as the parameters of `code` are. The first batch is also
    computed by eager, which `foresee` does; `dtype` is the coarsest that any part computes in.
    """

    def __init__(
        self,
        code: Executable,
        before: Sequence[Method],
        state: Mapping[str, Tensor],
        trained: Mapping[str, Tensor],
        foresee: Callable[[Shards], Foreseen],
        dtype: torch.dtype,
    ) -> None:
        self._code = code
        self._before = tuple(before)
        self._state = dict(state)
        self._trained = tuple(trained)
        self._dtype = dtype
        self._foresee: Callable[[Shards], Foreseen] | None = foresee
        self._sums: dict[str, Tensor] = {}
        if "gradients" in code.methods:
            self._sums = {
                f"{name}/gradient": torch.empty_like(one, dtype=torch.float32)
                for name, one in trained.items()
            }
        for name, one in {**trained, **state, **self._sums}.items():
            assert one.is_contiguous(), f"compiled code would misread {name}"

    def step(self, shards: Shards, scales: Tensor) -> tuple[dict[str, float], float]:
        """The losses by name, and the gradient's norm; where one of them is infinite or no number,
        nothing has moved. `scales` is what `Optimizer.scales` gives.

        StepError when the first step is not what eager makes of it.
        """
        foreseen = None
        if self._foresee is not None:
            # What is drawn by chance is drawn twice, and must be the same.
            with torch.random.fork_rng(devices=[]):
                foreseen = self._foresee(shards)
            self._foresee = None
        losses, norm = self._run(shards, scales)
        if foreseen is not None:
            moments = {name: self._state[f"{name}/exp_avg"] for name in self._trained}
            foreseen.expect(losses["loss"], norm, moments, self._dtype)
        return losses, norm

    def _run(self, shards: Shards, scales: Tensor) -> tuple[dict[str, float], float]:
        moving = {SCALES: scales, **self._state}
        if not self._sums:
            (shard,) = shards
            losses = self._code.run("train_step", {**self._fed(shard), **moving})
            norm = losses.pop("norm")
        else:
            torch._foreach_zero_(list(self._sums.values()))
            losses = {}
            for shard in shards:
                more = self._code.run("gradients", {**self._fed(shard), **self._sums})
                losses = {name: losses[name] + x if losses else x for name, x in more.items()}
            given = {"loss": losses["loss"], **self._sums, **moving}
            norm = self._code.run("update", given)["norm"]
        return {name: loss.item() for name, loss in losses.items()}, norm.item()

    def _fed(self, shard: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        for method in self._before:
            shard = {**shard, **method(shard)}
        return shard

"""The steps of a stage on methods that were compiled ahead of time."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from .base import BackendError, Executable
from .gradients import Method
from .optim import SCALES

Shards: TypeAlias = Sequence[Mapping[str, Tensor]]

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 5e-2}
"""How far the first step may be from eager: the loss and the norm as a share of themselves, a first
moment as a share of its largest number."""
FAINT = 1e-3
"""Moments that are smaller than this share of the largest of all are held against that share."""


@dataclass(frozen=True, slots=True)
class Foreseen:
    """What eager makes of a batch: the loss, the gradient's norm, and each first moment behind it,
    by the name of its weight."""

    loss: float
    norm: float
    moments: Mapping[str, Tensor]


class AheadStep:
    """Moves weights by the compiled `train_step`, or by `gradients` for each part and `update`.

    `before` are the methods of what is frozen, in order. `state` has AdamW's moments, and the
    masters of weights that are not float32 themselves: `NAME/exp_avg`, `NAME/exp_avg_sq`,
    `NAME/master`. It is moved in place, as the parameters of `code` are. The first batch is also
    computed by eager, which `foresee` does.
    """

    def __init__(
        self,
        code: Executable,
        before: Sequence[Method],
        state: Mapping[str, Tensor],
        trained: Mapping[str, Tensor],
        foresee: Callable[[Shards], Foreseen],
    ) -> None:
        self._code = code
        self._before = tuple(before)
        self._state = dict(state)
        self._dtypes = {name: one.dtype for name, one in trained.items()}
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

        BackendError when the first step is not what eager makes of it.
        """
        foreseen = None
        if self._foresee is not None:
            # What is drawn by chance is drawn twice, and must be the same.
            with torch.random.fork_rng(devices=[]):
                foreseen = self._foresee(shards)
            self._foresee = None
        losses, norm = self._run(shards, scales)
        if foreseen is not None:
            self._compare(foreseen, losses["loss"], norm)
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

    def _compare(self, foreseen: Foreseen, loss: float, norm: float) -> None:
        if not math.isfinite(foreseen.loss + foreseen.norm):
            return  # the run stops at such a batch, and says so
        coarsest = max(TOLERANCE[dtype] for dtype in self._dtypes.values())
        for what, found, wanted in (
            ("loss", loss, foreseen.loss),
            ("norm of the gradient", norm, foreseen.norm),
        ):
            if not abs(found - wanted) <= coarsest * max(abs(wanted), 1e-6):
                raise _differs(f"the {what} is {found:.6g}, and {wanted:.6g}")
        largest = max(one.abs().max().item() for one in foreseen.moments.values())
        for name, wanted_moment in foreseen.moments.items():
            scale = max(wanted_moment.abs().max().item(), FAINT * largest)
            off = (self._state[f"{name}/exp_avg"] - wanted_moment).abs().max().item()
            if not off <= TOLERANCE[self._dtypes[name]] * scale:
                raise _differs(f"the gradient of {name} is off by {off:.2g}, of {scale:.2g}")


def _differs(how: str) -> BackendError:
    return BackendError(
        f"the compiled step differs from eager: {how} in eager. This is a defect of the compiler, "
        "please report it; --backend inductor and eager train without it"
    )

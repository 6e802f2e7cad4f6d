"""How trained weights move: the rate at each step, the groups of AdamW, the clipped gradient."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

MOMENTS = ("exp_avg", "exp_avg_sq")
"""AdamW's state of a weight, beside its count of steps."""

SCALES = "adamw.scales"
"""The name by which compiled code takes what `Optimizer.scales` gives."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """The learning rate as a function of the steps taken and of the share of the stage done.

    A stage may stop after steps, tokens, samples or epochs, so the fall after the warm-up is
    written over the share of the stage that is done: for a stop in steps it is the usual formula,
    `minimum + (peak - minimum) * (1 + cos(pi * t)) / 2` with
    `t = (step - warmup) / (steps - warmup)`, or `t = step / steps` where the fall is `whole`: it
    counts from the start of the stage, behind the warm-up.

    The warm-up takes `warmup` steps or the share `ratio` of the stage. It rises from `start`; where
    that is None, from one part of the rise. Stairs fall to factors of the peak at shares `stairs`.

    >>> half = Schedule("linear", peak=1.0, warmup=2)
    >>> [round(half.rate(step, step / 6, warm=2 / 6), 6) for step in range(6)]
    [0.5, 1.0, 1.0, 0.75, 0.5, 0.25]
    >>> stairs = Schedule("step", peak=1.0, stairs=((0.5, 0.3), (0.75, 0.1)))
    >>> [stairs.rate(step, step / 4) for step in range(4)]
    [1.0, 1.0, 0.3, 0.1]
    """

    kind: Literal["constant", "linear", "cosine", "step"]
    peak: float
    warmup: int = 0
    ratio: float = 0.0
    start: float | None = None
    minimum: float = 0.0
    whole: bool = False
    stairs: tuple[tuple[float, float], ...] = ()

    def rate(self, step: int, done: float, warm: float = 0.0) -> float:
        """The rate of the step after `step` steps, when the share `done` (0..1) of the stage is
        behind it; `warm` is the share that was done when a warm-up in steps ended.
        """
        start = self.start or 0.0
        if step < self.warmup:
            risen = step + (self.start is None)
            return start + (self.peak - start) * risen / self.warmup
        if done < self.ratio:
            return start + (self.peak - start) * done / self.ratio
        if self.kind == "constant":
            return self.peak
        if self.kind == "step":
            passed = [factor for place, factor in self.stairs if place <= done]
            return self.peak * passed[-1] if passed else self.peak
        warm = 0.0 if self.whole else max(warm, self.ratio)
        along = min(1.0, (done - warm) / (1.0 - warm)) if warm < 1.0 else 1.0
        share = 1.0 - along if self.kind == "linear" else (1.0 + math.cos(math.pi * along)) / 2
        return self.minimum + (self.peak - self.minimum) * share


Decayed = Literal["matrices", "ndim", "all"]


def decays(weight: Tensor, which: Decayed = "matrices") -> bool:
    """Whether weight decay applies: to all, or not to biases, norms and others of one dimension.

    Among `matrices` sizes of 1 do not count, so a class token of shape [1, 1, width] is spared as
    well; by `ndim` it is not.
    """
    match which:
        case "all":
            return True
        case "ndim":
            return weight.ndim >= 2
        case "matrices":
            return sum(size > 1 for size in weight.shape) >= 2


class Optimizer:
    """AdamW (Loshchilov and Hutter, 2019) over a stage's trained weights, held by their names.

    The state goes in and out by the weights' names, so that it follows a weight from stage to
    stage and through a checkpoint whatever the groups are.
    """

    def __init__(
        self,
        weights: Mapping[str, Tensor],
        *,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decay: Decayed = "matrices",
        spared: Set[str] = frozenset(),
        factors: Mapping[str, float] | None = None,
    ) -> None:
        """Weights that `decay` speaks of decay, but for those that are `spared`; `factors` are
        multiples of the rate.
        """
        self.weights = dict(weights)
        self._betas = betas
        self._eps = eps
        self._state = {
            f"{name}/{moment}": torch.zeros_like(weight)
            for name, weight in weights.items()
            for moment in MOMENTS
        }
        self._state |= {
            f"{name}/step": torch.zeros((), device=weight.device)
            for name, weight in weights.items()
        }
        # (multiple of the rate, weight decay) -> the names of its weights
        self._groups: dict[tuple[float, float], list[str]] = {}
        for name, weight in weights.items():
            shrinks = name not in spared and decays(weight, decay)
            key = ((factors or {}).get(name, 1.0), weight_decay if shrinks else 0.0)
            self._groups.setdefault(key, []).append(name)

    @torch.no_grad()
    def step(self, gradients: Mapping[str, Tensor], rate: float) -> None:
        """Move every weight once; `gradients` has one tensor for each weight."""
        for (factor, decay), names in self._groups.items():
            steps = self._of(names, "step")
            torch._foreach_add_(steps, 1)
            # What torch.optim.AdamW(fused=True) calls: one pass over each weight, 4 to 6 times
            # faster than its loops. Called directly, as that class takes 2 s to import its parts.
            torch._fused_adamw_(
                [self.weights[name] for name in names],
                [gradients[name] for name in names],
                self._of(names, "exp_avg"),
                self._of(names, "exp_avg_sq"),
                [],
                steps,
                lr=rate * factor,
                beta1=self._betas[0],
                beta2=self._betas[1],
                weight_decay=decay,
                eps=self._eps,
                amsgrad=False,
                maximize=False,
            )

    def scales(self, rate: float) -> Tensor:
        """[3, weights] what the next step does to each weight, in the order of `weights`.

        The rate over what corrects the first moment, the root of what corrects the second, and the
        share of the weight that its decay leaves.
        """
        first, second = self._betas
        found: dict[str, tuple[float, float, float]] = {}
        for (factor, decay), names in self._groups.items():
            for name, counted in zip(names, self._of(names, "step"), strict=True):
                steps, own = counted.item() + 1, rate * factor
                root = math.sqrt(1 - second**steps)
                found[name] = own / (1 - first**steps), root, 1 - own * decay
        return torch.tensor([found[name] for name in self.weights]).T.contiguous()

    @torch.no_grad()
    def count(self) -> None:
        """One more step was taken of every weight, by code that was given `scales`."""
        torch._foreach_add_(self._of(tuple(self.weights), "step"), 1)

    def state(self) -> dict[str, Tensor]:
        """The moments and step counts as `NAME/exp_avg`, `NAME/exp_avg_sq`, `NAME/step`."""
        return dict(self._state)

    def load(self, state: Mapping[str, Tensor]) -> frozenset[str]:
        """Take over the state of the weights that it names; which weights found theirs."""
        for key in self._state.keys() & state.keys():
            self._state[key].copy_(state[key])
        return frozenset(name for name in self.weights if f"{name}/step" in state)

    def _of(self, names: Sequence[str], moment: str) -> list[Tensor]:
        return [self._state[f"{name}/{moment}"] for name in names]


def clip(gradients: Mapping[str, Tensor], limit: float | None) -> float:
    """Scale all gradients in place so that their common L2 norm is at most `limit`; the norm
    before that.
    """
    every = list(gradients.values())
    norm = float(torch.nn.utils.get_total_norm(every))
    if limit is not None and norm > limit:
        for gradient in every:
            gradient.mul_(limit / (norm + 1e-6))
    return norm

"""What eager makes of a batch, and how near to it a compiled step must come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import BackendError

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 5e-2}
"""How far a step may be from eager, by the coarsest numbers that are computed with: loss
and norm as a share of themselves, a gradient as a share of its largest number."""
FAINT = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 1e-2}
"""Gradients that are smaller than this share of the largest of all are held against that share: the
smallest may be nothing but rounding."""


class StepError(BackendError):
    """A step cannot be compiled, or does something else when it is: `why` says which."""

    def __init__(self, why: str) -> None:
        super().__init__(
            f"{why}. This is a defect of the compiler, please report it; --backend eager trains "
            "without it"
        )
        self.why = why


@dataclass(frozen=True, slots=True)
class Distance:
    """How far a gradient is off what it is held against, and the largest number there."""

    name: str
    off: float
    scale: float

    @property
    def share(self) -> float:
        """The one by the other; infinite where it is no number."""
        if self.off == 0:
            return 0.0
        share = self.off / self.scale if self.scale else math.inf
        return share if math.isfinite(share) else math.inf


@dataclass(frozen=True, slots=True)
class Foreseen:
    """The loss, the norm of the gradient, and the clipped gradient of each weight by its name, or
    what becomes of AdamW's first moment by it."""

    loss: float
    norm: float
    gradients: Mapping[str, Tensor]

    def expect(
        self,
        loss: float,
        norm: float,
        found: Mapping[str, Tensor],
        dtype: torch.dtype,
    ) -> None:
        """StepError where a compiled step has found something else. `dtype` is the coarsest that
        any part computes in: gradients come through all of them."""
        if not math.isfinite(self.loss + self.norm):
            return  # the run stops at such a batch, and says so
        tolerance = TOLERANCE[dtype]
        for what, number, wanted in (
            ("loss", loss, self.loss),
            ("norm of the gradient", norm, self.norm),
        ):
            if not abs(number - wanted) <= tolerance * max(abs(wanted), 1e-6):
                raise _differs(f"the {what} is {number:.6g}, and {wanted:.6g}")
        one = self.furthest(found, dtype)
        if one.share > tolerance:
            raise _differs(
                f"the gradient of {one.name} is off by {one.off:.2g}, of {one.scale:.2g}"
            )

    def furthest(self, found: Mapping[str, Tensor], dtype: torch.dtype = torch.float32) -> Distance:
        """The gradient that is furthest off, as a share of the largest number in it."""
        largest = max(one.abs().max().item() for one in self.gradients.values())
        every = (
            Distance(
                name,
                (found[name] - gradient).abs().max().item(),
                max(gradient.abs().max().item(), FAINT[dtype] * largest),
            )
            for name, gradient in self.gradients.items()
        )
        return max(every, key=lambda one: one.share)


def _differs(how: str) -> StepError:
    return StepError(f"the compiled step differs from eager: {how} in eager")

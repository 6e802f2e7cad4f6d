"""What eager makes of the first batch of a run, and how near to it a compiled step must come."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from .base import BackendError

TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 5e-2}
"""How far the first step may be from eager, by the coarsest numbers that are computed with: loss
and norm as a share of themselves, a gradient as a share of its largest number."""
FAINT = {torch.float32: 1e-3, torch.bfloat16: 0.1, torch.float16: 1e-2}
"""Gradients that are smaller than this share of the largest of all are held against that share: the
smallest may be nothing but rounding."""


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
        """BackendError where a compiled step has found something else. `dtype` is the coarsest that
        any part computes in: gradients come through all of them."""
        if not math.isfinite(self.loss + self.norm):
            return  # the run stops at such a batch, and says so
        tolerance = TOLERANCE[dtype]
        for what, one, wanted in (
            ("loss", loss, self.loss),
            ("norm of the gradient", norm, self.norm),
        ):
            if not abs(one - wanted) <= tolerance * max(abs(wanted), 1e-6):
                raise _differs(f"the {what} is {one:.6g}, and {wanted:.6g}")
        largest = max(one.abs().max().item() for one in self.gradients.values())
        for name, gradient in self.gradients.items():
            scale = max(gradient.abs().max().item(), FAINT[dtype] * largest)
            off = (found[name] - gradient).abs().max().item()
            if not off <= tolerance * scale:
                raise _differs(f"the gradient of {name} is off by {off:.2g}, of {scale:.2g}")


def _differs(how: str) -> BackendError:
    return BackendError(
        f"the compiled step differs from eager: {how} in eager. This is a defect of the compiler, "
        "please report it; --backend eager trains without it"
    )

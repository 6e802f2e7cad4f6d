"""Low-rank adaptation (Hu et al., 2021, arXiv 2106.09685): a linear layer learns beside itself.

Shape suffixes: I width that goes in, O width that comes out, R rank.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from .linear import Linear


class AdaptedLinear(Linear):
    """A linear layer plus scale * B A: `lora_a` [R, I], `lora_b` [O, R] (zero at the start)."""

    def __init__(self, into: int, out: int, *, bias: bool, rank: int, scale: float) -> None:
        super().__init__(into, out, bias=bias)
        self.scale = scale
        self.lora_a = nn.Parameter(torch.empty(rank, into))
        self.lora_b = nn.Parameter(torch.zeros(out, rank))

    def forward(self, x_I: Tensor) -> Tensor:
        """From [..., I] to [..., O]."""
        low_R = functional.linear(x_I, self.lora_a)
        return super().forward(x_I) + self.scale * functional.linear(low_R, self.lora_b)

    def merged(self) -> Tensor:
        """The matrix that computes alone what the layer computes with its adaptation, [O, I]."""
        return self.weight + self.scale * (self.lora_b @ self.lora_a)

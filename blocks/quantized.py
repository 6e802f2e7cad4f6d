"""Linear layers whose weights are kept in 8 bits, and computed with in the layer's own precision.

Shape suffixes: I width that goes in, O width that comes out.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

LARGEST = 127
"""Weights are whole numbers from its negative to this: a scale that is the same on both sides."""


class Int8Linear(nn.Module):
    """A linear layer of whole numbers `weight` [O, I], times a float32 `scale` of each output, [O].

    The sum is brought back to the precision of what goes in.
    """

    weight: Tensor
    scale: Tensor

    def __init__(self, linear: nn.Linear) -> None:
        """The weights of `linear`, each brought to the nearest of 255 steps."""
        super().__init__()
        exact_OI = linear.weight.detach().float()
        largest_O = exact_OI.abs().amax(1)
        scale_O = torch.where(largest_O > 0, largest_O / LARGEST, torch.ones_like(largest_O))
        whole_OI = (exact_OI / scale_O[:, None]).round().clamp(-LARGEST, LARGEST)
        self.register_buffer("weight", whole_OI.to(torch.int8))
        self.register_buffer("scale", scale_O)
        self.bias = linear.bias

    def forward(self, x_I: Tensor) -> Tensor:
        """From [..., I] to [..., O]."""
        y_O = functional.linear(x_I, self.weight.to(x_I.dtype)) * self.scale
        return (y_O if self.bias is None else y_O + self.bias).to(x_I.dtype)

"""Linear layers: torch's, in the form that a backend asks for.

Shape suffixes: I width that goes in, O width that comes out.
"""

import torch
from torch import Tensor, nn

from .activations import ACTIVATIONS
from .matrices import FUSED
from .operators import fuses, linear


class Linear(nn.Linear):
    """As torch's, but a backend says how it is computed: see `operators.lowering`."""

    def forward(self, x_I: Tensor) -> Tensor:
        """From [..., I] to [..., O]."""
        return linear(x_I, self.weight, self.bias)


def activated(layer: nn.Module, x_I: Tensor, act: str) -> Tensor:
    """What a linear layer yields, through an activation: [..., O].

    One operator in compiled code that asks for it, so that sums are not written and read again.
    """
    if type(layer) is Linear and fuses(layer.weight):
        number = 1 + FUSED.index(act)
        made: Tensor = torch.ops.triptych.activated_linear(x_I, layer.weight, layer.bias, number)
        return made
    return ACTIVATIONS[act](layer(x_I))

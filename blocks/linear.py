"""Linear layers: torch's, in the form that a backend asks for.

Shape suffixes: I width that goes in, O width that comes out.
"""

from typing import TypeGuard

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


def added(layer: nn.Module, x_I: Tensor, residual_O: Tensor | None) -> Tensor:
    """What a linear layer yields, added to a residual if there is one: [..., O].

    One operator in compiled code that asks for it, so that sums are not written and read again.
    """
    made: Tensor
    if residual_O is not None and _fuses(layer):
        made = torch.ops.triptych.residual_linear(x_I, layer.weight, layer.bias, residual_O)
        return made
    made = layer(x_I)
    del x_I  # what only this layer read is gone before there is a sum
    return made if residual_O is None else residual_O + made


def feed_forward(
    x_I: Tensor,
    up: nn.Module,
    down: nn.Module,
    act: str,
    residual_O: Tensor | None = None,
    gate: nn.Module | None = None,
) -> Tensor:
    """Two layers round an activation, [..., O], added to a residual if there is one.

    With a gate, a layer without a bias, that is what is activated, and multiplies what the first
    layer yields. As `added`, one operator: what is between the layers is written for the second.
    """
    if _fuses(up) and _fuses(down) and (gate is None or _fuses(gate)):
        made: Tensor = torch.ops.triptych.feed_forward(
            x_I,
            None if gate is None else gate.weight,
            up.weight,
            up.bias,
            down.weight,
            down.bias,
            1 + FUSED.index(act),
            residual_O,
        )
        return made
    return added(down, _between(x_I, up, act, gate), residual_O)


def _between(x_I: Tensor, up: nn.Module, act: str, gate: nn.Module | None) -> Tensor:
    if gate is None:
        return ACTIVATIONS[act](up(x_I))
    made: Tensor = ACTIVATIONS[act](gate(x_I)) * up(x_I)
    return made


def _fuses(layer: nn.Module) -> TypeGuard[Linear]:
    """Whether compiled code has one operator for this layer and what stands beside it."""
    return type(layer) is Linear and fuses(layer.weight)

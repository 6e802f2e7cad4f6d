"""Linear layers whose weights are kept in few bits, and computed with in that of what goes in.

Shape suffixes: I width that goes in, O width that comes out, P = I / 2 bytes, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor, nn

from .operators import linear_int4, linear_int8


class QuantizedLinear(nn.Module):
    """A linear layer that holds these tensors in place of its matrix."""

    bias: nn.Parameter | None

    def __init__(self, held: Mapping[str, Tensor], bias: nn.Parameter | None) -> None:
        """`held` by the names that `forward` uses; the bias stays as it is."""
        super().__init__()
        for name, tensor in held.items():
            self.register_buffer(name, tensor)
        self.bias = bias


class Int8Linear(QuantizedLinear):
    """Whole numbers `weight` [O, I] in int8, times a float32 `scale` [O] of each output."""

    weight: Tensor
    scale: Tensor

    def forward(self, x_I: Tensor) -> Tensor:
        """From [..., I] to [..., O]."""
        return linear_int8(x_I, self.weight, self.scale, self.bias)


class Int4Linear(QuantizedLinear):
    """Numbers of 0 to 15, two a byte: `weight` [O, P] in uint8, as `matrices.unpacked` reads them.

    Each group of inputs has a bfloat16 `scale` [O, G] and a `zero` [O, G], of 0 to 15 in uint8.
    """

    weight: Tensor
    scale: Tensor
    zero: Tensor

    def forward(self, x_I: Tensor) -> Tensor:
        """From [..., I] to [..., O]."""
        return linear_int4(x_I, self.weight, self.scale, self.zero, self.bias)

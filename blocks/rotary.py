"""Rotary positions: turning queries and keys by angles that the host has computed.

Shape suffix: D head width.
"""

import torch
from torch import Tensor


def rotate(x_D: Tensor, cos_D: Tensor, sin_D: Tensor, dtype: torch.dtype | None = None) -> Tensor:
    """Turns the pairs (j, j + D/2) of the innermost size by the given angles (Su et al., 2021).

    `cos` and `sin` broadcast against `x` and repeat their first half; the result has the dtype that
    torch promotes `x`, `cos` and `sin` to, or is rounded to `dtype`.
    """
    left, right = x_D.chunk(2, dim=-1)
    if torch.compiler.is_compiling():
        # The same numbers, half by half: a compiler writes each where it belongs, at once.
        cos_left, cos_right = cos_D.chunk(2, dim=-1)
        sin_left, sin_right = sin_D.chunk(2, dim=-1)
        halves = (left * cos_left - right * sin_left, right * cos_right + left * sin_right)
        return torch.cat([half.to(dtype or half.dtype) for half in halves], dim=-1)
    turned = x_D * cos_D + torch.cat((-right, left), dim=-1) * sin_D
    return turned.to(dtype or turned.dtype)

"""Rotary positions: turning queries and keys by angles that the host has computed.

Shape suffix: D head width.
"""

import torch
from torch import Tensor


def rotate(x_D: Tensor, cos_D: Tensor, sin_D: Tensor) -> Tensor:
    """Turns the pairs (j, j + D/2) of the innermost size by the given angles (Su et al., 2021).

    `cos` and `sin` broadcast against `x` and repeat their first half; the result has the dtype that
    torch promotes `x`, `cos` and `sin` to.
    """
    left, right = x_D.chunk(2, dim=-1)
    return x_D * cos_D + torch.cat((-right, left), dim=-1) * sin_D

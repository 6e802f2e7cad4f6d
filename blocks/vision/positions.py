"""Learned positions: a row of a table for each patch of a picture.

Shape suffixes: M pictures, P patches, T tokens (the class token and the patches), W width, R rows
and C columns of the grid of patches.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional


class Positions(nn.Module):
    """Puts the class token first, if there is one, and adds a learned row to each token.

    Where the grid of the pictures is not that of the table, its rows for patches are resized.
    """

    def __init__(
        self, width: int, table: tuple[int, int], grid: tuple[int, int], class_token: bool
    ) -> None:
        super().__init__()
        self.sizes, self.grid = table, grid
        rows = table[0] * table[1] + class_token
        self.table = nn.Parameter(torch.zeros(1, rows, width))
        self.class_token = nn.Parameter(torch.zeros(1, 1, width)) if class_token else None

    def forward(self, x_MPW: Tensor) -> Tensor:
        """From [M, P, W] to [M, T, W]."""
        table_1TW = resized(self.table, self.sizes, self.grid)
        if self.class_token is None:
            return x_MPW + table_1TW
        class_M1W = self.class_token.expand(x_MPW.shape[0], -1, -1)
        return torch.cat((class_M1W, x_MPW), dim=1) + table_1TW


class MapPositions(nn.Module):
    """Adds a learned vector to each cell of a map of patches, which are given row by row."""

    def __init__(self, width: int, grid: tuple[int, int]) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.zeros(1, *grid, width))

    def forward(self, x_MPW: Tensor) -> Tensor:
        """From [M, P, W] to [M, P, W]."""
        return x_MPW + self.table.flatten(1, 2)


def resized(table_1TW: Tensor, sizes: tuple[int, int], grid: tuple[int, int]) -> Tensor:
    """A table of `sizes` (rows, columns) for another grid: bicubic, in float32, not antialiased.

    What stands before the patches, the row of a class token, is kept.
    """
    if sizes == grid:
        return table_1TW
    before = table_1TW.shape[1] - sizes[0] * sizes[1]
    if before:
        patches_1PW = resized(table_1TW[:, before:], sizes, grid)
        return torch.cat((table_1TW[:, :before], patches_1PW), dim=1)
    table_1WRC = table_1TW.mT.unflatten(2, sizes).float()
    table_1WRC = functional.interpolate(table_1WRC, grid, mode="bicubic", align_corners=False)
    return table_1WRC.flatten(2).mT.to(table_1TW.dtype)

"""Pixel shuffle: fewer visual tokens, each of them wider.

Shape suffixes: M pictures, P patches, W their width, R rows and C columns of windows, F the side of
a window, S windows.
"""

from torch import Tensor, nn


class PixelShuffle(nn.Module):
    """Joins each window of `factor` by `factor` patches, row by row, into one token."""

    def __init__(self, grid: tuple[int, int], factor: int) -> None:
        super().__init__()
        self.grid, self.factor = grid, factor

    def forward(self, x_MPW: Tensor) -> Tensor:
        """From [M, P, W] to [M, S, F * F * W]; the windows go row by row too."""
        rows, columns = (side // self.factor for side in self.grid)
        x_MRFCFW = x_MPW.unflatten(1, (rows, self.factor, columns, self.factor))
        return x_MRFCFW.transpose(2, 3).flatten(3).flatten(1, 2)

"""Pixel shuffle: fewer visual tokens, each of them wider.

Shape suffixes: M pictures, P patches, W their width, S squares of patches, V the width of all
patches of a square.
"""

from torch import Tensor

from .merge import windows


def pixel_shuffle(x_MPW: Tensor, grid: tuple[int, int], factor: int) -> Tensor:
    """Joins each square of `factor` by `factor` patches into one token, [M, S, V].

    Squares, and the patches inside one, go row by row (the second version of InternVL's).
    """
    return windows(x_MPW, grid, (factor, factor)).unflatten(1, (-1, factor**2)).flatten(2)

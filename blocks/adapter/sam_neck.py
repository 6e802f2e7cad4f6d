"""From the maps of a SAM tower to tokens on a coarser grid, as in DeepSeek-VL.

Shape suffixes: M pictures, R rows and C columns of a map, P its patches, row by row, W width of
the tower, K channels, T tokens, D width of the tokens.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..norms import NORMS


class Neck(nn.Module):
    """Two convolutions, each with a norm over channels behind it (Kirillov et al., 2023)."""

    def __init__(self, width: int, channels: int, norm: str, eps: float) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(width, channels, kernel_size=1, bias=False)
        self.norm1 = NORMS[norm](channels, eps)
        self.conv2 = nn.Conv2d(channels, channels, kernel_size=3, padding=1, bias=False)
        self.norm2 = NORMS[norm](channels, eps)

    def forward(self, x_MRCW: Tensor) -> Tensor:
        """From [M, R, C, W] to [M, K, R, C]."""
        x_MRCK = self.conv1(x_MRCW.movedim(-1, 1)).movedim(1, -1)
        x_MKRC = self.conv2(self.norm1(x_MRCK).movedim(-1, 1))
        return self.norm2(x_MKRC.movedim(1, -1)).movedim(-1, 1)


class SamNeck(nn.Module):
    """Several maps, each through a neck of its own, then all through the same strided convolutions.

    The first map counts in full, each further one by a learned factor of `gate`.
    """

    def __init__(
        self,
        maps: int,
        width: int,
        from_grid: tuple[int, int],
        channels: int,
        norm: str,
        eps: float,
        grid: tuple[int, int],
        strided: tuple[int, ...],
    ) -> None:
        super().__init__()
        self.from_grid, self.grid = from_grid, grid
        self.necks = nn.ModuleList(Neck(width, channels, norm, eps) for _ in range(maps))
        sizes = (channels, *strided)
        self.strided = nn.ModuleList(
            nn.Conv2d(into, out, kernel_size=3, stride=2, padding=1, bias=False)
            for into, out in zip(sizes, strided, strict=False)
        )
        self.gate = nn.Parameter(torch.zeros(maps - 1)) if maps > 1 else None

    def forward(self, *maps_MPW: Tensor) -> Tensor:
        """From maps [M, P, W] to [M, T, D], row by row."""
        first, *others = [
            self._coarser(neck(map_MPW.unflatten(1, self.from_grid)))
            for neck, map_MPW in zip(self.necks, maps_MPW, strict=True)
        ]
        if self.gate is not None:
            for factor, other in zip(self.gate, others, strict=True):
                first = first + other * factor
        return first.flatten(2).mT

    def _coarser(self, x_MKRC: Tensor) -> Tensor:
        """On the grid that the strided convolutions start from, in float32, then through them."""
        x_MKRC = functional.interpolate(
            x_MKRC.float(), self.grid, mode="bilinear", align_corners=False
        ).to(x_MKRC.dtype)
        for convolution in self.strided:
            x_MKRC = convolution(x_MKRC)
        return x_MKRC

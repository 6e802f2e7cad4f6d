"""The blocks of SAM's image encoder (Kirillov et al., 2023): most attend inside windows of a map.

Shape suffixes: M maps (or windows of maps), R rows and C columns of a map, P its patches, row by
row, W width, T cells that attend to each other, H heads, D head width, L length of a side,
G windows along a side.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..feed_forward import FeedForward
from ..norms import NORMS
from ..operators import map_attention
from ..regions import region
from .encoder import run_blocks


class MapAttention(nn.Module):
    """Multi-head attention inside maps of one size, with learned positions by row and by column.

    The tables hold a vector for each distance, from -(L - 1) to L - 1.
    """

    def __init__(self, width: int, heads: int, sides: tuple[int, int], qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)
        rows, columns = sides
        self.rel_pos_h = nn.Parameter(torch.zeros(2 * rows - 1, width // heads))
        self.rel_pos_w = nn.Parameter(torch.zeros(2 * columns - 1, width // heads))

    def forward(self, x_MRCW: Tensor) -> Tensor:
        """From [M, R, C, W] to [M, R, C, W]."""
        rows, columns = x_MRCW.shape[1:3]
        qkv_MT3HD = self.qkv(x_MRCW).flatten(1, 2).unflatten(-1, (3, self.heads, -1))
        q_MHTD, k_MHTD, v_MHTD = qkv_MT3HD.permute(2, 0, 3, 1, 4).unbind(0)
        out_MHTD = map_attention(
            q_MHTD, k_MHTD, v_MHTD, _by_distance(self.rel_pos_h), _by_distance(self.rel_pos_w)
        )
        return self.proj(out_MHTD.transpose(1, 2).flatten(2).unflatten(1, (rows, columns)))


class SamBlock(nn.Module):
    """Attention and feed-forward, each behind its norm and beside a residual.

    With a `window`, attention stays inside squares of this side. A map that they do not tile is
    filled up with zeros behind the norm; these cells are attended to like any other, as in SAM.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        ffn: int,
        act: str,
        norm: str,
        eps: float,
        *,
        qkv_bias: bool,
        grid: tuple[int, int],
        window: int | None,
    ) -> None:
        super().__init__()
        self.grid, self.window = grid, window
        self.norm1 = NORMS[norm](width, eps)
        self.attn = MapAttention(width, heads, (window, window) if window else grid, qkv_bias)
        self.norm2 = NORMS[norm](width, eps)
        self.mlp = FeedForward(width, ffn, act)
        self.checkpoint = False

    @region
    def forward(self, x_MPW: Tensor) -> Tensor:
        """From [M, P, W] to [M, P, W]."""
        x_MRCW = self.norm1(x_MPW).unflatten(1, self.grid)
        x_MPW = x_MPW + self._attended(x_MRCW).flatten(1, 2)
        return self.mlp(self.norm2(x_MPW), x_MPW)

    def _attended(self, x_MRCW: Tensor) -> Tensor:
        if self.window is None:
            return self.attn(x_MRCW)
        rows, columns = x_MRCW.shape[1:3]
        down, right = -rows % self.window, -columns % self.window
        x_MRCW = functional.pad(x_MRCW, (0, 0, 0, right, 0, down))
        x_MGLGLW = x_MRCW.unflatten(2, (-1, self.window)).unflatten(1, (-1, self.window))
        windows_MLLW = x_MGLGLW.transpose(2, 3).flatten(0, 2)
        grid = (x_MRCW.shape[0], x_MGLGLW.shape[1], x_MGLGLW.shape[3])
        x_MGLGLW = self.attn(windows_MLLW).unflatten(0, grid).transpose(2, 3)
        return x_MGLGLW.flatten(3, 4).flatten(1, 2)[:, :rows, :columns]


class SamBlocks(nn.ModuleList):
    """The blocks of a tower over maps; those that `attend_all` counts, from 0, have no window.

    `taps` counts blocks too: what these yield is kept, and blocks behind the last do not run.
    """

    def __init__(
        self,
        depth: int,
        width: int,
        heads: int,
        ffn: int,
        act: str,
        norm: str,
        eps: float,
        *,
        qkv_bias: bool,
        grid: tuple[int, int],
        window: int,
        attend_all: tuple[int, ...],
        taps: tuple[int, ...] = (),
    ) -> None:
        super().__init__(
            SamBlock(
                width,
                heads,
                ffn,
                act,
                norm,
                eps,
                qkv_bias=qkv_bias,
                grid=grid,
                window=None if index in attend_all else window,
            )
            for index in range(depth)
        )
        self.taps = taps

    def forward(self, x_MPW: Tensor, span: tuple[int, ...] = ()) -> Tensor:
        """From [M, P, W] to the same; with taps, what each of them yields, stacked.

        `span` names the first block that runs, and the one behind the last.
        """
        return run_blocks(self, x_MPW, taps=self.taps, span=span)


def _by_distance(table_D: Tensor) -> Tensor:
    """From a row for each distance, [2 L - 1, D], to one for each query and key, [L, L, D]."""
    length = (len(table_D) + 1) // 2
    places = torch.arange(length, device=table_D.device)
    return table_D[places[:, None] - places[None, :] + length - 1]

"""A resampler: learned queries attend to a picture once, and yield as many tokens as they are.

Qwen-VL's (Bai et al., 2023, arXiv 2308.12966): each query has a place on a grid laid over the
picture.

Shape suffixes: M pictures, Q queries, S patches of a picture, D width, C width of the tower,
O width that comes out.
"""

import torch
from torch import Tensor, nn

from ..attention import Attention
from ..norms import NORMS
from ..vision.positions import resized


class Resampler(nn.Module):
    """One cross-attention between norms, then a linear layer.

    `table` holds the places of the queries, which stand as a grid of `queries` (rows, columns);
    resized to the `grid` of the patches it holds the places of the keys. Values carry no places.
    """

    def __init__(
        self,
        queries: tuple[int, int],
        grid: tuple[int, int],
        into: int,
        width: int,
        heads: int,
        out: int,
        norm: str,
        eps: float,
    ) -> None:
        super().__init__()
        self.queries, self.grid = queries, grid
        rows, columns = queries
        self.query = nn.Parameter(torch.empty(1, rows * columns, width))
        self.table = nn.Parameter(torch.empty(1, rows * columns, width), requires_grad=False)
        self.kv = nn.Linear(into, width, bias=False)
        self.norm_q = NORMS[norm](width, eps)
        self.norm_kv = NORMS[norm](width, eps)
        self.attn = Attention(width, heads)
        self.norm = NORMS[norm](width, eps)
        self.proj = nn.Linear(width, out, bias=False)

    def forward(self, x_MSC: Tensor) -> Tensor:
        """From [M, S, C] to [M, Q, O]."""
        value_MSD = self.norm_kv(self.kv(x_MSC))
        key_MSD = value_MSD + resized(self.table, self.queries, self.grid)
        query_1QD = self.norm_q(self.query) + self.table
        query_MQD = query_1QD.expand(x_MSC.shape[0], -1, -1)
        return self.proj(self.norm(self.attn(query_MQD, key_MSD, value_MSD)))


def sines(rows: int, columns: int, width: int) -> Tensor:
    """The places of a grid, [1, rows * columns, width]: half for the column, half for the row.

    Each half holds sines and then cosines at frequencies from 1 down to nearly 1 / 10000.
    """
    frequency = 10000.0 ** -(torch.arange(width // 4, dtype=torch.float64) / (width // 4))
    row, column = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    angles = [place.flatten()[:, None] * frequency for place in (column, row)]
    waves = [wave(x) for x in angles for wave in (torch.sin, torch.cos)]
    return torch.cat(waves, dim=1).float()[None]

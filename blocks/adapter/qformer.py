"""The Q-Former of BLIP-2 (Li et al., 2023, arXiv 2301.12597), as it is used behind a tower.

Shape suffixes: M pictures, Q queries, S tokens of a picture, W width, C width of the tower.
"""

import torch
from torch import Tensor, nn

from ..attention import Attention
from ..feed_forward import FeedForward
from ..norms import NORMS
from ..recompute import through


class QFormerBlock(nn.Module):
    """Attention, cross-attention (if it has one) and feed-forward, each with its norm behind.

    The norm is behind the residual, as in BERT. With `checkpoint`, the block keeps only its inputs
    for the backward pass, and runs again there.
    """

    def __init__(
        self,
        width: int,
        into: int | None,
        heads: int,
        ffn: int,
        act: str,
        norm: str,
        eps: float,
    ) -> None:
        super().__init__()
        self.attn = Attention(width, heads)
        self.norm1 = NORMS[norm](width, eps)
        self.crosses = into is not None
        if self.crosses:
            self.cross = Attention(width, heads, into)
            self.cross_norm = NORMS[norm](width, eps)
        self.mlp = FeedForward(width, ffn, act)
        self.norm2 = NORMS[norm](width, eps)
        self.checkpoint = False

    def forward(self, x_MQW: Tensor, seen_MSC: Tensor, mask_M1S: Tensor | None = None) -> Tensor:
        """From [M, Q, W] to [M, Q, W]; `mask` is True at the tokens that may be seen."""
        x_MQW = self.norm1(x_MQW + self.attn(x_MQW, x_MQW, x_MQW))
        if self.crosses:
            x_MQW = self.cross_norm(x_MQW + self.cross(x_MQW, seen_MSC, seen_MSC, mask_M1S))
        return self.norm2(self.mlp(x_MQW, x_MQW))


class QFormerBlocks(nn.ModuleList):
    """Blocks one after another, of which the first of every `cross_every` look at the tower."""

    def __init__(
        self,
        depth: int,
        width: int,
        into: int,
        heads: int,
        ffn: int,
        act: str,
        norm: str,
        eps: float,
        cross_every: int,
    ) -> None:
        super().__init__(
            QFormerBlock(width, None if index % cross_every else into, heads, ffn, act, norm, eps)
            for index in range(depth)
        )

    def forward(self, x_MQW: Tensor, seen_MSC: Tensor, mask_M1S: Tensor | None = None) -> Tensor:
        """From [M, Q, W] to [M, Q, W]."""
        for block in self:
            x_MQW = through(block, x_MQW, seen_MSC, mask_M1S)
        return x_MQW


class QFormer(nn.Module):
    """Learned queries, a norm over them, and blocks in which they look at a picture."""

    def __init__(
        self,
        queries: int,
        depth: int,
        width: int,
        into: int,
        heads: int,
        ffn: int,
        act: str,
        norm: str,
        eps: float,
        cross_every: int,
    ) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.empty(1, queries, width))
        self.norm = NORMS[norm](width, eps)
        self.blocks = QFormerBlocks(depth, width, into, heads, ffn, act, norm, eps, cross_every)

    def forward(self, seen_MSC: Tensor, mask_MS: Tensor | None = None) -> Tensor:
        """From [M, S, C] to [M, Q, W]; without a mask all tokens of a picture are seen."""
        query_MQW = self.norm(self.query).expand(seen_MSC.shape[0], -1, -1)
        return self.blocks(query_MQW, seen_MSC, None if mask_MS is None else mask_MS[:, None])

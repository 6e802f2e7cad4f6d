"""The decoder: embeddings and blocks.

Shape suffixes: B batch, T tokens, S keys a query may see, W width, D head width.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from ..feed_forward import GatedFeedForward
from ..norms import NORMS
from ..recompute import through
from ..regions import region
from .attention import DecoderAttention, LayerCache, written


class Embed(nn.Module):
    """A row of a table for each id."""

    def __init__(self, vocab: int, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(vocab, width))

    def forward(self, ids: Tensor) -> Tensor:
        """From [...] to [..., W]."""
        return functional.embedding(ids, self.weight)


class DecoderBlock(nn.Module):
    """Attention and gated feed-forward, each behind its norm and beside a residual.

    With `checkpoint`, it keeps only its inputs for the backward pass, and runs again there.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        ffn: int,
        act: str,
        norm: str,
        eps: float,
        qkv_bias: bool,
    ) -> None:
        super().__init__()
        self.norm1 = NORMS[norm](width, eps)
        self.attn = DecoderAttention(width, heads, kv_heads, head_dim, qkv_bias)
        self.norm2 = NORMS[norm](width, eps)
        self.mlp = GatedFeedForward(width, ffn, act)
        self.checkpoint = False

    def forward(
        self,
        x_BTW: Tensor,
        cos_BTD: Tensor,
        sin_BTD: Tensor,
        seen_BTS: Tensor | None,
        cache: LayerCache | None = None,
        start_B: Tensor | None = None,
        scale_BT: Tensor | None = None,
    ) -> Tensor:
        """From [B, T, W] to [B, T, W]."""
        q_BHTD, *keys = self.heads(x_BTW, cos_BTD, sin_BTD, scale_BT)
        return self._mixed(x_BTW, q_BHTD, *written(keys, cache, start_B), seen_BTS)

    @region
    def heads(
        self, x_BTW: Tensor, cos_BTD: Tensor, sin_BTD: Tensor, scale_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """The queries, keys and values of what comes in, up to where keys may be kept."""
        return self.attn.heads(self.norm1(x_BTW), cos_BTD, sin_BTD, scale_BT)

    @region
    def _mixed(
        self, x_BTW: Tensor, q_BHTD: Tensor, k: Tensor, v: Tensor, seen_BTS: Tensor | None
    ) -> Tensor:
        x_BTW = self.attn(q_BHTD, k, v, seen_BTS, x_BTW)
        return self.mlp(self.norm2(x_BTW), x_BTW)


class DecoderBlocks(nn.ModuleList):
    """The blocks of a decoder, one after another."""

    def __init__(
        self,
        depth: int,
        width: int,
        heads: int,
        kv_heads: int,
        head_dim: int,
        ffn: int,
        act: str,
        norm: str,
        eps: float,
        qkv_bias: bool,
    ) -> None:
        super().__init__(
            DecoderBlock(width, heads, kv_heads, head_dim, ffn, act, norm, eps, qkv_bias)
            for _ in range(depth)
        )

    def forward(
        self,
        x_BTW: Tensor,
        cos_BTD: Tensor,
        sin_BTD: Tensor,
        seen_BTS: Tensor,
        caches: Sequence[LayerCache] | None = None,
        start_B: Tensor | None = None,
        scale_BT: Tensor | None = None,
    ) -> Tensor:
        """From [B, T, W] to [B, T, W]; `caches` has a pair a layer, written from slot `start`."""
        for index, block in enumerate(self):
            if caches is not None:
                x_BTW = block(x_BTW, cos_BTD, sin_BTD, seen_BTS, caches[index], start_B, scale_BT)
            else:
                x_BTW = through(block, x_BTW, cos_BTD, sin_BTD, seen_BTS)
        return x_BTW

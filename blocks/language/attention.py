"""Grouped-query attention over a sequence, or over a cache that holds what came before.

Shape suffixes: B batch, T queries, S keys (tokens of the sequence, or slots of the cache), W width,
H heads, K key-value heads, D head width.
"""

from collections.abc import Sequence
from typing import TypeAlias

import torch
from torch import Tensor, nn

from ..linear import Linear, added
from ..operators import attend, kv_update
from ..rotary import rotate

LayerCache: TypeAlias = tuple[Tensor, Tensor]
"""Keys and values of one layer, [B, K, S, D] each, updated in place."""


def cache_span(slot_BT: Tensor, first_B: Tensor) -> tuple[Tensor, Tensor]:
    """[B, T] each: the first and the last slot that the query in a slot sees, from `first` to its
    own.

    A query of the left padding, before `first`, sees itself alone: its row must not be empty, since
    a NaN among the values would reach every row of the product.
    """
    return torch.minimum(slot_BT, first_B[:, None]), slot_BT


class DecoderAttention(nn.Module):
    """Attention of one decoder block: rotary positions in the dtype of the model."""

    def __init__(
        self, width: int, heads: int, kv_heads: int, head_dim: int, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.head_dim = head_dim
        self.q = Linear(width, heads * head_dim, bias=qkv_bias)
        self.k = Linear(width, kv_heads * head_dim, bias=qkv_bias)
        self.v = Linear(width, kv_heads * head_dim, bias=qkv_bias)
        self.o = Linear(heads * head_dim, width, bias=False)

    def heads(
        self, x_BTW: Tensor, cos_BTD: Tensor, sin_BTD: Tensor, scale_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Queries [B, H, T, D], keys and values [B, K, T, D], turned by their places.

        With `scale`, each query is multiplied by that of its place.
        """
        q_BHTD, k_BKTD, v_BKTD = (
            project(x_BTW).unflatten(-1, (-1, self.head_dim)).transpose(1, 2)
            for project in (self.q, self.k, self.v)
        )
        # The published model casts its tables before it multiplies; in bfloat16 that shows.
        cos_B1TD, sin_B1TD = (table[:, None].to(q_BHTD.dtype) for table in (cos_BTD, sin_BTD))
        q_BHTD, k_BKTD = (rotate(x, cos_B1TD, sin_B1TD) for x in (q_BHTD, k_BKTD))
        if scale_BT is not None:
            q_BHTD = q_BHTD * scale_BT[:, None, :, None].to(q_BHTD.dtype)
        return q_BHTD, k_BKTD, v_BKTD

    def forward(
        self,
        q_BHTD: Tensor,
        k_BKSD: Tensor,
        v_BKSD: Tensor,
        seen_BTS: Tensor | None,
        residual_BTW: Tensor,
    ) -> Tensor:
        """What the queries find among the keys that they see, added to a residual: [B, T, W]."""
        out_BHTD = attend(q_BHTD, k_BKSD, v_BKSD, seen_BTS)
        return added(self.o, out_BHTD.transpose(1, 2).flatten(2), residual_BTW)


def written(keys: Sequence[Tensor], cache: LayerCache | None, start_B: Tensor | None) -> LayerCache:
    """The keys and values to attend over; with a cache, all of it, the new ones from `start` on.

    The queries then attend over the cache, never over the new keys alone: a compiler that saw a
    cache written and not read could leave it stale.
    """
    k_BKTD, v_BKTD = keys
    if cache is None:
        return k_BKTD, v_BKTD
    assert start_B is not None
    for kept, new in zip(cache, (k_BKTD, v_BKTD), strict=True):
        kv_update(kept, new, start_B)
    return cache

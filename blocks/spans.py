"""Attention to a stretch of keys: each query sees those from its first to its last.

So it is over a cache, in which a query sees what was written before it. `attended` is attention
under a mask, as eager runs and TensorRT have it; `triptych::cache_attention` is told first and last
keys, as an operator that a compiler does not look into. What stands here is its meaning, in plain
torch; on a CPU, a kernel in C++ takes its place where it is loaded (backends/native.py), which
reads no more keys than are seen.

Shape suffixes: B batch, T queries, S keys, H heads, K key-value heads, D head width, 2 the first
and the last.
"""

import torch
from torch import Tensor
from torch.nn import functional


def span_mask(first_BT: Tensor, last_BT: Tensor, keys: int) -> Tensor:
    """[B, T, S]: True from the first to the last key of each query."""
    key_S = torch.arange(keys, device=last_BT.device)
    return (key_S >= first_BT[..., None]) & (key_S <= last_BT[..., None])


def attended(
    q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_BTS: Tensor | None, *, products: bool
) -> Tensor:
    """Softmax attention, [B, H, T, D], of which H / K neighbouring queries share a key-value head;
    as two products and a softmax between, or in torch's one kernel."""
    group = q_BHTD.shape[1] // k_BKSD.shape[1]
    if not products:
        return functional.scaled_dot_product_attention(
            q_BHTD,
            k_BKSD,
            v_BKSD,
            attn_mask=None if mask_BTS is None else mask_BTS[:, None],
            enable_gqa=group > 1,
        )
    q = q_BHTD.unflatten(1, (-1, group))
    k, v = k_BKSD[:, :, None], v_BKSD[:, :, None]
    mask = None if mask_BTS is None else mask_BTS[:, None, None]
    return attention_products(q, k, v, mask).flatten(1, 2)


def attention_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over the two innermost sizes; the softmax is in float32."""
    scores = (q @ k.mT).float() * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(v.dtype) @ v


def masked_cache(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_BTS: Tensor) -> Tensor:
    """Attention to a cache under a mask, [B, T, H, D]: as the layer behind it takes it."""
    products = q_BHTD.shape[2] == 1
    return attended(q_BHTD, k_BKSD, v_BKSD, mask_BTS, products=products).transpose(1, 2)


def cache_attention(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, span_BT2: Tensor) -> Tensor:
    """What the operator computes."""
    first_BT, last_BT = span_BT2.unbind(-1)
    mask_BTS = span_mask(first_BT, last_BT, k_BKSD.shape[2])
    return masked_cache(q_BHTD, k_BKSD, v_BKSD, mask_BTS).contiguous()


def _shaped(q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, span_BT2: Tensor) -> Tensor:
    batch, heads, length, width = q_BHTD.shape
    return q_BHTD.new_empty(batch, length, heads, width)


# Not `torch.library.custom_op`, as in `matrices.py`.
_LIBRARY = torch.library.Library("triptych", "FRAGMENT")
_LIBRARY.define(
    "cache_attention(Tensor q, Tensor k, Tensor v, Tensor span) -> Tensor",
    tags=(torch.Tag.pt2_compliant_tag,),
)
_LIBRARY.impl("cache_attention", cache_attention, "CompositeExplicitAutograd")
torch.library.register_fake("triptych::cache_attention", _shaped, lib=_LIBRARY)

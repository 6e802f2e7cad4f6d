"""The operations that each backend lowers in its own way.

`segment_attention` lets patches attend inside their own picture or frame, and `kv_update` writes
keys and values into a cache in place: both are torch operators (`triptych::...`), of which a
compiler sees one node and no loop over data. `attend` and `embed_patches` are plain tensor code. A
backend that wants another form traces inside `lowering(...)`.

Shape suffixes: N patches, H heads, D head width, B batch, T queries, S keys (or slots of a cache),
K key-value heads, G segments of one length, L that length, Q a slice of it.
"""

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

QUERY_SLICE = 1024
"""Queries whose scores are held at once in the backward of `segment_attention`."""


@dataclass(frozen=True, slots=True)
class Forms:
    """How each operation is computed, and appears in a traced program."""

    segment_attention: Literal["operator", "masked"] = "operator"
    kv_update: Literal["operator", "scatter"] = "operator"
    published: bool = False


_forms = Forms()


@contextmanager
def lowering(
    *,
    segment_attention: Literal["operator", "masked"] | None = None,
    kv_update: Literal["operator", "scatter"] | None = None,
    published: bool | None = None,
) -> Iterator[None]:
    """Inside, the named operations take the given form; None leaves a form as it is.

    "operator" is the opaque node (in eager runs the loop or the write itself), "masked" attends
    over all rows and masks foreign segments, "scatter" writes with `scatter_`. `published` computes
    in the order of the published models, bit for bit: attention as two products and a softmax,
    patches by a convolution. It is for eager runs, and slower.
    """
    global _forms
    before = _forms
    _forms = Forms(
        segment_attention or before.segment_attention,
        kv_update or before.kv_update,
        before.published if published is None else published,
    )
    try:
        yield
    finally:
        _forms = before


def segment_attention(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, segment_id_N: Tensor) -> Tensor:
    """Full attention inside each run of equal ids, none across; scores scaled by D ** -0.5.

    Rows of one segment stand together. Returns [N, H, D].
    """
    if _forms.published:
        return _by_segments(_products, q_NHD, k_NHD, v_NHD, segment_id_N)
    if _forms.segment_attention == "masked":
        return _masked_attention(q_NHD, k_NHD, v_NHD, segment_id_N)
    if torch.compiler.is_compiling():
        return _segment_attention(q_NHD, k_NHD, v_NHD, segment_id_N)
    return attend_segments(q_NHD, k_NHD, v_NHD, segment_id_N)


def attend_segments(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, segment_id_N: Tensor) -> Tensor:
    """What the operator `triptych::segment_attention` computes, whoever calls it; never itself."""
    return _by_segments(functional.scaled_dot_product_attention, q_NHD, k_NHD, v_NHD, segment_id_N)


def embed_patches(patches_NP: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution whose kernel [W, C, F, P, P] covers one row of patches each, [N, W]."""
    if _forms.published:
        rows = patches_NP.unflatten(1, kernel.shape[1:])
        return functional.conv3d(rows, kernel, bias, stride=kernel.shape[2:]).flatten(1)
    return functional.linear(patches_NP, kernel.flatten(1), bias)


def attend(
    q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, mask_BTS: Tensor, *, group: int
) -> Tensor:
    """Softmax attention where the mask is True, [B, H, T, D]; scores scaled by D ** -0.5.

    `group` = H / K neighbouring queries share a key-value head. A single query always goes through
    plain products: on a CPU they are some 25 times faster than the fused kernel with a long cache.
    """
    if q_BHTD.shape[2] > 1 and not _forms.published:
        return functional.scaled_dot_product_attention(
            q_BHTD,
            k_BKSD,
            v_BKSD,
            attn_mask=mask_BTS[:, None],
            enable_gqa=group > 1,
        )
    q = q_BHTD.unflatten(1, (-1, group))
    k, v = k_BKSD[:, :, None], v_BKSD[:, :, None]
    return _products(q, k, v, mask_BTS[:, None, None]).flatten(1, 2)


def kv_update(cache_BHSD: Tensor, new_BHTD: Tensor, start_B: Tensor) -> None:
    """Writes `new` into the slots `start[b] .. start[b] + T - 1` of row b of `cache`, in place."""
    if _forms.kv_update == "operator" and torch.compiler.is_compiling():
        _kv_update(cache_BHSD, new_BHTD, start_B)
    else:
        _scatter_slots(cache_BHSD, new_BHTD, start_B)


def _products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention over the two innermost sizes; the softmax is in float32."""
    scores = (q @ k.mT).float() * q.shape[-1] ** -0.5
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf"))
    return scores.softmax(-1).to(v.dtype) @ v


def _by_segments(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor],
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    segment_id_N: Tensor,
) -> Tensor:
    pieces = []
    for rows, length in _batches(segment_id_N):
        q, k, v = (_batched(x_NHD, rows, length) for x_NHD in (q_NHD, k_NHD, v_NHD))
        pieces.append(attention(q, k, v).transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces)


def _masked_attention(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, segment_id_N: Tensor) -> Tensor:
    mask_NN = segment_id_N[:, None] == segment_id_N[None, :]
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q_NHD, k_NHD, v_NHD))
    out_1HND = functional.scaled_dot_product_attention(q, k, v, attn_mask=mask_NN)
    return out_1HND.squeeze(0).transpose(0, 1)


def _scatter_slots(cache_BHSD: Tensor, new_BHTD: Tensor, start_B: Tensor) -> None:
    slot_BT = start_B[:, None] + torch.arange(new_BHTD.shape[2], device=start_B.device)
    cache_BHSD.scatter_(2, slot_BT[:, None, :, None].expand_as(new_BHTD), new_BHTD)


@torch.library.custom_op("triptych::kv_update", mutates_args={"cache"})
def _kv_update(cache: Tensor, new: Tensor, start: Tensor) -> None:
    _scatter_slots(cache, new, start)


@_kv_update.register_fake
def _(cache: Tensor, new: Tensor, start: Tensor) -> None:
    return None


def _batches(segment_id_N: Tensor) -> Iterator[tuple[slice, int]]:
    """Rows of neighbouring segments of equal length, and that length: one batched attention."""
    lengths = torch.unique_consecutive(segment_id_N, return_counts=True)[1].tolist()
    begin = 0
    for length, group in itertools.groupby(lengths):
        end = begin + length * sum(1 for _ in group)
        yield slice(begin, end), length
        begin = end


def _batched(x_NHD: Tensor, rows: slice, length: int) -> Tensor:
    """The rows as [G, H, L, D]."""
    return x_NHD[rows].unflatten(0, (-1, length)).transpose(1, 2)


@torch.library.custom_op("triptych::segment_attention", mutates_args=())
def _segment_attention(q: Tensor, k: Tensor, v: Tensor, segment_id: Tensor) -> Tensor:
    return attend_segments(q, k, v, segment_id)


@_segment_attention.register_fake
def _(q: Tensor, k: Tensor, v: Tensor, segment_id: Tensor) -> Tensor:
    return q.new_empty(q.shape)


@torch.library.custom_op("triptych::segment_attention_backward", mutates_args=())
def _segment_attention_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, segment_id: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Recomputes the probabilities slice by slice of the queries; float32 inside the softmax."""
    grad_q, grad_k, grad_v = (x.new_zeros(x.shape) for x in (q, k, v))
    scale = q.shape[-1] ** -0.5
    for rows, length in _batches(segment_id):
        k_GHLD, v_GHLD = _batched(k, rows, length), _batched(v, rows, length)
        views = [_batched(x, rows, length) for x in (q, grad, grad_q)]
        grad_k_GHLD, grad_v_GHLD = _batched(grad_k, rows, length), _batched(grad_v, rows, length)
        for q_GHQD, grad_GHQD, grad_q_GHQD in zip(
            *(x.split(QUERY_SLICE, dim=2) for x in views), strict=True
        ):
            scores_GHQL = (q_GHQD @ k_GHLD.mT).float() * scale
            p_GHQL = scores_GHQL.softmax(-1)
            grad_v_GHLD += p_GHQL.to(q.dtype).mT @ grad_GHQD
            grad_p_GHQL = (grad_GHQD @ v_GHLD.mT).float()
            inner_GHQ1 = (grad_p_GHQL * p_GHQL).sum(-1, keepdim=True)
            grad_scores_GHQL = ((grad_p_GHQL - inner_GHQ1) * p_GHQL * scale).to(q.dtype)
            grad_q_GHQD.copy_(grad_scores_GHQL @ k_GHLD)
            grad_k_GHLD += grad_scores_GHQL.mT @ q_GHQD
    return grad_q, grad_k, grad_v


@_segment_attention_backward.register_fake
def _(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, segment_id: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    return q.new_empty(q.shape), k.new_empty(k.shape), v.new_empty(v.shape)


def _remember(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    output: Tensor,
) -> None:
    ctx.save_for_backward(*inputs)


def _backward(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor
) -> tuple[Tensor, Tensor, Tensor, None]:
    return *_segment_attention_backward(grad, *ctx.saved_tensors), None  # type: ignore[attr-defined]


_segment_attention.register_autograd(_backward, setup_context=_remember)

"""The operations that each backend lowers in its own way.

`segment_attention` lets patches attend inside their own picture or frame, `kv_update` writes keys
and values into a cache in place, `attend` may read no more of a cache than `seen` says, and of a
row no more than `in_segments` says, and `linear` may read its matrix as a stream: these are torch
operators (`triptych::...`), of which a compiler sees one node and no loop over data.
`picture_attention`, `map_attention` and `embed_patches` are plain tensor code. A backend that wants
another form traces inside `lowering(...)`.

Shape suffixes: N patches, or tokens of all rows, H heads, D head width, B batch, T queries, S keys
(or slots of a cache), K key-value heads, G segments of one length, L that length, Q a slice of it;
M pictures, then T tokens of a picture, or I rows and J columns of a map, whose T = I * J cells are
its tokens. Of matrices: R rows, I width that goes in, O width that comes out, P bytes of a row, G
groups of a row.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional

from .causal import causal_attention, segment_mask, segments_apart
from .matrices import GROUPS, int4_linear, int8_linear
from .segments import QUERY_SLICE, batched, batches
from .spans import attended, attention_products, span_mask


@dataclass(frozen=True, slots=True)
class Forms:
    """How each operation is computed, and appears in a traced program."""

    kv_update: Literal["operator", "indexed"] = "operator"
    cache_attention: Literal["operator", "masked"] = "masked"
    linear: Literal["torch", "operator"] = "torch"
    few_bits: Literal["torch", "operator"] = "torch"
    beside: Literal["apart", "fused"] = "apart"
    published: bool = False


_forms = Forms()


@contextmanager
def lowering(
    *,
    kv_update: Literal["operator", "indexed"] | None = None,
    cache_attention: Literal["operator", "masked"] | None = None,
    linear: Literal["torch", "operator"] | None = None,
    few_bits: Literal["torch", "operator"] | None = None,
    beside: Literal["apart", "fused"] | None = None,
    published: bool | None = None,
) -> Iterator[None]:
    """Inside, the named operations take the given form; None leaves a form as it is.

    "operator" is the opaque node (in eager runs the write itself, or attention under a mask),
    "indexed" writes by indices, "masked" attends to the whole cache under a mask, "torch" is
    torch's own linear layer (`few_bits`: plain tensor code where weights are in few bits), "fused"
    puts what stands beside a layer into it: an activation, a gate, a residual. `published` computes
    in the order of the published models, bit for bit: attention as two products and a softmax,
    patches by a convolution. It is for eager runs, and slower.
    """
    global _forms
    before = _forms
    _forms = Forms(
        kv_update or before.kv_update,
        cache_attention or before.cache_attention,
        linear or before.linear,
        few_bits or before.few_bits,
        beside or before.beside,
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
        return _by_segments(attention_products, q_NHD, k_NHD, v_NHD, segment_id_N)
    if torch.compiler.is_compiling():
        return _segment_attention(q_NHD, k_NHD, v_NHD, segment_id_N)
    return attend_segments(q_NHD, k_NHD, v_NHD, segment_id_N)


def attend_segments(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, segment_id_N: Tensor) -> Tensor:
    """What the operator `triptych::segment_attention` computes, whoever calls it; never itself."""
    return _by_segments(functional.scaled_dot_product_attention, q_NHD, k_NHD, v_NHD, segment_id_N)


def compiled_segments(q_NHD: Tensor, k_NHD: Tensor, v_NHD: Tensor, segment_id_N: Tensor) -> Tensor:
    """The same for compiled code: in bfloat16 by the tiles of AMX, where the library of our own
    kernels is loaded and has them."""
    if q_NHD.dtype == torch.bfloat16 and hasattr(torch.ops.triptych, "tile_attention"):
        return torch.ops.triptych.tile_attention(q_NHD, k_NHD, v_NHD, segment_id_N)
    return attend_segments(q_NHD, k_NHD, v_NHD, segment_id_N)


def fuses(weight_OI: Tensor) -> bool:
    """Whether a compiled layer with this matrix computes what stands beside it too."""
    return (
        _forms.beside == "fused"
        and torch.compiler.is_compiling()
        and weight_OI.dtype == torch.bfloat16
    )


def picture_attention(q_MTHD: Tensor, k_MTHD: Tensor, v_MTHD: Tensor) -> Tensor:
    """Full attention inside each picture; scores scaled by D ** -0.5. Returns [M, T, H, D]."""
    q, k, v = (x.transpose(1, 2) for x in (q_MTHD, k_MTHD, v_MTHD))
    if _forms.published:
        return _scaled_products(q, k, v).transpose(1, 2)
    return functional.scaled_dot_product_attention(q, k, v).transpose(1, 2)


def map_attention(
    q_MHTD: Tensor, k_MHTD: Tensor, v_MHTD: Tensor, rows_IID: Tensor, columns_JJD: Tensor
) -> Tensor:
    """Full attention inside each map, its cells told apart by how far off they are, [M, H, T, D].

    A score is D ** -0.5 q k + q rows[i, i'] + q columns[j, j'] for a query in cell (i, j) and a key
    in (i', j'). The last two terms become I + J more numbers of each query, against keys that say
    which row and column they are in: so no score matrix is added to, or kept.
    """
    grid = (rows_IID.shape[0], columns_JJD.shape[0])
    q_MHIJD = q_MHTD.unflatten(2, grid)
    by_row = torch.einsum("mhijd,ikd->mhijk", q_MHIJD, rows_IID)
    by_column = torch.einsum("mhijd,jkd->mhijk", q_MHIJD, columns_JJD)
    if _forms.published:
        bias = by_row[..., :, None] + by_column[..., None, :]
        return _scaled_products(q_MHTD, k_MHTD, v_MHTD, bias.flatten(4).flatten(2, 3))
    rows_I, columns_J = (torch.arange(side, device=k_MHTD.device) for side in grid)
    cells_T1 = torch.arange(k_MHTD.shape[2], device=k_MHTD.device)[:, None]
    here = torch.cat((cells_T1 // grid[1] == rows_I, cells_T1 % grid[1] == columns_J), dim=1)
    q = torch.cat(
        (q_MHTD * q_MHTD.shape[-1] ** -0.5, by_row.flatten(2, 3), by_column.flatten(2, 3)), dim=-1
    )
    k = torch.cat((k_MHTD, here.to(k_MHTD.dtype).expand(*k_MHTD.shape[:2], -1, -1)), dim=-1)
    return functional.scaled_dot_product_attention(q, k, v_MHTD, scale=1.0)


def embed_patches(patches_P: Tensor, kernel: Tensor, bias: Tensor | None) -> Tensor:
    """A convolution whose kernel [W, C, (F,) P, P] covers one row of patches each, [..., W]."""
    if not _forms.published:
        return functional.linear(patches_P, kernel.flatten(1), bias)
    rows = patches_P.flatten(0, -2).unflatten(1, kernel.shape[1:])
    convolve = functional.conv3d if kernel.dim() == 5 else functional.conv2d
    embedded = convolve(rows, kernel, bias, stride=kernel.shape[2:]).flatten(1)
    return embedded.unflatten(0, patches_P.shape[:-1])


def attend(
    q_BHTD: Tensor, k_BKSD: Tensor, v_BKSD: Tensor, seen_BTS: Tensor | None = None
) -> Tensor:
    """Softmax attention to what is `seen`, [B, H, T, D]; scores scaled by D ** -0.5.

    A mask has one row for each query, or one for all of them, and is True where a key is seen;
    without one every query sees every key. Else it is what `seen` or `in_segments` yields. H / K
    neighbouring queries share a key-value head. A single query goes through plain products: on a
    CPU they are some 25 times faster than torch's kernel with a long cache.
    """
    if seen_BTS is not None and seen_BTS.dim() == 1:
        return causal_attention(q_BHTD, k_BKSD, v_BKSD, seen_BTS)
    if seen_BTS is not None and seen_BTS.dtype != torch.bool:
        out_BTHD = torch.ops.triptych.cache_attention(q_BHTD, k_BKSD, v_BKSD, seen_BTS)
        return out_BTHD.transpose(1, 2)
    products = q_BHTD.shape[2] == 1 or _forms.published
    return attended(q_BHTD, k_BKSD, v_BKSD, seen_BTS, products=products)


def seen(first_BT: Tensor, last_BT: Tensor, k_BKSD: Tensor) -> Tensor:
    """What `attend` is told where each query sees the keys from its first to its last: a mask, or
    for the operator both as they are, [B, T, 2]."""
    known = k_BKSD.dtype in (torch.bfloat16, torch.float32)
    if known and _forms.cache_attention == "operator" and torch.compiler.is_compiling():
        return torch.stack((first_BT, last_BT), dim=-1)
    return span_mask(first_BT, last_BT, k_BKSD.shape[2])


def in_segments(segment_id_BT: Tensor) -> Tensor:
    """What `attend` is told where each query of a row sees its own segment, up to itself: the ids,
    [N], or as published a mask."""
    return segment_mask(segment_id_BT) if _forms.published else segments_apart(segment_id_BT)


def kv_update(cache_BHSD: Tensor, new_BHTD: Tensor, start_B: Tensor) -> None:
    """Writes `new` into the slots `start[b] .. start[b] + T - 1` of row b of `cache`, in place."""
    if _forms.kv_update == "operator" and torch.compiler.is_compiling():
        _kv_update(cache_BHSD, new_BHTD, start_B)
    else:
        write_slots(cache_BHSD, new_BHTD, start_B)


def linear(x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None = None) -> Tensor:
    """`x @ weight.T + bias`, [R, O], whatever stands for the rows.

    The operator is for bfloat16: torch's layer reads a matrix at a half to two thirds of the speed
    of memory where rows are few (docs/performance.md).
    """
    streams = _forms.linear == "operator" and x_RI.dtype == torch.bfloat16
    if streams and torch.compiler.is_compiling():
        return torch.ops.triptych.linear(x_RI, weight_OI, bias_O)
    return functional.linear(x_RI, weight_OI, bias_O)


def linear_int8(
    x_RI: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None
) -> Tensor:
    """As `linear`, of whole numbers times the float32 scale of their output."""
    if _streams_few_bits(x_RI):
        return torch.ops.triptych.linear_int8(x_RI, weight_OI, scale_O, bias_O)
    return int8_linear(x_RI, weight_OI, scale_O, bias_O)


def linear_int4(
    x_RI: Tensor,
    packed_OP: Tensor,
    scale_OG: Tensor,
    zero_OG: Tensor,
    bias_O: Tensor | None = None,
) -> Tensor:
    """As `linear`, of two weights a byte that share a scale and a zero with their group of inputs;
    `matrices.unpacked` says how."""
    if _streams_few_bits(x_RI) and 2 * packed_OP.shape[1] // scale_OG.shape[1] in GROUPS:
        return torch.ops.triptych.linear_int4(x_RI, packed_OP, scale_OG, zero_OG, bias_O)
    return int4_linear(x_RI, packed_OP, scale_OG, zero_OG, bias_O)


def _streams_few_bits(x_RI: Tensor) -> bool:
    known = x_RI.dtype in (torch.bfloat16, torch.float32)
    return known and _forms.few_bits == "operator" and torch.compiler.is_compiling()


def _scaled_products(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None) -> Tensor:
    """As `attention_products`, but it is the queries that are scaled, and all is in their dtype."""
    scores = (q * q.shape[-1] ** -0.5) @ k.mT
    return (scores if bias is None else scores + bias).softmax(-1) @ v


def _by_segments(
    attention: Callable[[Tensor, Tensor, Tensor], Tensor],
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    segment_id_N: Tensor,
) -> Tensor:
    pieces = []
    for rows, length in batches(segment_id_N):
        q, k, v = (batched(x_NHD, rows, length) for x_NHD in (q_NHD, k_NHD, v_NHD))
        pieces.append(attention(q, k, v).transpose(1, 2).flatten(0, 1))
    return torch.cat(pieces)


def masked_segments(
    q_NHD: Tensor,
    k_NHD: Tensor,
    v_NHD: Tensor,
    segment_id_N: Tensor,
    attention: Callable[..., Tensor] = functional.scaled_dot_product_attention,
) -> Tensor:
    """The same over all rows at once, foreign segments masked: a graph without a loop over data."""
    mask_NN = segment_id_N[:, None] == segment_id_N[None, :]
    q, k, v = (x.transpose(0, 1).unsqueeze(0) for x in (q_NHD, k_NHD, v_NHD))
    out_1HND = attention(q, k, v, mask_NN)
    return out_1HND.squeeze(0).transpose(0, 1)


def write_slots(cache_BHSD: Tensor, new_BHTD: Tensor, start_B: Tensor) -> None:
    """What the operator `triptych::kv_update` does, in plain tensor code.

    Not by `scatter_`: torch's compiler copies the whole cache for it, and writes the copy back.
    """
    device = start_B.device
    row_B1 = torch.arange(cache_BHSD.shape[0], device=device)[:, None]
    slot_BT = start_B[:, None] + torch.arange(new_BHTD.shape[2], device=device)
    cache_BHSD[row_B1, :, slot_BT] = new_BHTD.transpose(1, 2)


@torch.library.custom_op("triptych::kv_update", mutates_args={"cache"})
def _kv_update(cache: Tensor, new: Tensor, start: Tensor) -> None:
    write_slots(cache, new, start)


@_kv_update.register_fake
def _(cache: Tensor, new: Tensor, start: Tensor) -> None:
    return None


@torch.library.custom_op("triptych::segment_attention", mutates_args=())
def _segment_attention(q: Tensor, k: Tensor, v: Tensor, segment_id: Tensor) -> Tensor:
    return compiled_segments(q, k, v, segment_id)


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
    for rows, length in batches(segment_id):
        k_GHLD, v_GHLD = batched(k, rows, length), batched(v, rows, length)
        views = [batched(x, rows, length) for x in (q, grad, grad_q)]
        grad_k_GHLD, grad_v_GHLD = batched(grad_k, rows, length), batched(grad_v, rows, length)
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

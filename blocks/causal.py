"""Causal attention inside segments: a token sees those of its own segment, up to itself.

So a decoder is trained on rows, each of one sample with its padding, or of several. What a token
sees is a stretch that ends with it, so the ids of segments say all that a mask would: nothing is
made or kept that grows with the square of a row. For the way back stay queries, keys, values, what
they yield, and a number for each query and head, by which its scores are computed again (Dao et
al., 2022, arXiv 2205.14135).

`triptych::causal_attention` is an operator, as where segments begin is in the data: a compiler sees
one node and no loop. `kernel_for` says by what code it is computed.

Shape suffixes: B rows, T tokens of a row, N tokens of all rows, H heads, K key-value heads, R heads
that share one, D head width; G segments of one length, L that length, Q a slice of its queries, S
the keys up to its end.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from .segments import QUERY_SLICE, batched, batches

Kernel: TypeAlias = Literal["flash", "varlen", "slices"]
"""torch's fused attention on a CPU, segment by segment; that of CUDA, over all segments at once; or
plain products, a slice of the queries at a time."""


def kernel_for(
    device: str, dtype: torch.dtype, width: int, capability: tuple[int, int] = (0, 0)
) -> tuple[Kernel, str]:
    """What computes heads of a width, and why it is not the fused code of the device, if it is not.

    >>> kernel_for("cuda", torch.float32, 128, (9, 0))
    ('slices', 'torch fuses it in 16 bits alone there, and this is float32')
    """
    if device == "cpu":
        return "flash", ""
    if device != "cuda":
        return "slices", f"torch fuses it on no {device}"
    if dtype not in (torch.bfloat16, torch.float16):
        name = str(dtype).removeprefix("torch.")
        return "slices", f"torch fuses it in 16 bits alone there, and this is {name}"
    if width % 8 or width > 192:
        return "slices", f"heads are {width} wide, which is no multiple of 8 up to 192"
    if capability < (8, 0):
        return "slices", "the GPU is older than compute capability 8.0"
    return "varlen", ""


def segments_apart(segment_id_BT: Tensor) -> Tensor:
    """Ids of segments of which no two rows share one, [N]: as `causal_attention` takes them.

    They lie on the host, which reads them for every block.
    """
    batch, length = segment_id_BT.shape
    row_B1 = torch.arange(batch, device=segment_id_BT.device)[:, None]
    return (segment_id_BT + row_B1 * (length + 1)).flatten().cpu()


def segment_mask(segment_id_BT: Tensor) -> Tensor:
    """[B, T, T]: True where a query may see a key: not after it, and of its own segment.

    Padding, segment 0, sees padding: no row is empty, and no sample is touched.
    """
    length = segment_id_BT.shape[1]
    position_T = torch.arange(length, device=segment_id_BT.device)
    same_BTT = segment_id_BT[:, :, None] == segment_id_BT[:, None, :]
    return same_BTT & (position_T[:, None] >= position_T)


def causal_attention(
    q_BHTD: Tensor, k_BKTD: Tensor, v_BKTD: Tensor, segment_id_N: Tensor
) -> Tensor:
    """What each query finds in its segment up to itself, [B, H, T, D]; scores times D ** -0.5.

    H / K neighbouring queries share a key-value head. Tokens of a segment stand together.
    """
    rows = q_BHTD.shape[0], q_BHTD.shape[2]
    given = (x.transpose(1, 2).flatten(0, 1) for x in (q_BHTD, k_BKTD, v_BKTD))
    out_NHD, _ = torch.ops.triptych.causal_attention(*given, segment_id_N)
    return out_NHD.unflatten(0, rows).transpose(1, 2)


def forward(q: Tensor, k: Tensor, v: Tensor, segment_id: Tensor) -> tuple[Tensor, Tensor]:
    """What the operator computes: [N, H, D], and the logarithm of the sum of the exponentials of
    each query's scores, [N, H] in float32."""
    kernel = _kernel(q)
    q, k, v = (_side_by_side(x) for x in (q, k, v))
    if kernel == "varlen":
        return varlen(q, k, v, segment_id)
    attention = _flash if kernel == "flash" else _sliced
    out, logsumexp = _by_segments(attention, (q, k, v), segment_id)
    return out, logsumexp


def backward(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    segment_id: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of queries, keys and values."""
    kernel = _kernel(q)
    grad, q, k, v = (_side_by_side(x) for x in (grad, q, k, v))
    if kernel == "varlen":
        return varlen_back(grad, q, k, v, out, logsumexp, segment_id)
    attention = _flash_back if kernel == "flash" else _sliced_back
    given = (grad, q, k, v, out, logsumexp)
    grad_q, grad_k, grad_v = _by_segments(attention, given, segment_id)
    return grad_q, grad_k, grad_v


def _kernel(q: Tensor) -> Kernel:
    capability = torch.cuda.get_device_capability(q.device) if q.is_cuda else (0, 0)
    kernel, why = kernel_for(q.device.type, q.dtype, q.shape[-1], capability)
    if why:
        warnings.warn(
            f"attention is trained by plain products, which is slower: {why}", stacklevel=2
        )
    return kernel


def _side_by_side(x_NHD: Tensor) -> Tensor:
    """With the numbers of a head in neighbouring memory, as torch's kernels read them."""
    return x_NHD if x_NHD.stride(-1) == 1 else x_NHD.contiguous()


def _by_segments(
    attention: Callable[..., Sequence[Tensor]], given: Sequence[Tensor], segment_id_N: Tensor
) -> list[Tensor]:
    """What `attention` makes of each batch of segments, put together in the order of the rows."""
    wholes: list[Tensor] = []
    for rows, length in batches(segment_id_N):
        pieces = attention(*(batched(x, rows, length) for x in given))
        if rows.stop - rows.start == len(segment_id_N):
            return [piece.transpose(1, 2).flatten(0, 1).contiguous() for piece in pieces]
        if not wholes:
            sizes = [(len(segment_id_N), one.shape[1], *one.shape[3:]) for one in pieces]
            wholes = [one.new_empty(size) for one, size in zip(pieces, sizes, strict=True)]
        for whole, piece in zip(wholes, pieces, strict=True):
            batched(whole, rows, length).copy_(piece)
        del pieces, piece
    return wholes


def _flash(q_GHLD: Tensor, k_GKLD: Tensor, v_GKLD: Tensor) -> Sequence[Tensor]:
    made: Sequence[Tensor] = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
        q_GHLD, k_GKLD, v_GKLD, is_causal=True
    )
    return made


def _flash_back(
    grad_GHLD: Tensor,
    q_GHLD: Tensor,
    k_GKLD: Tensor,
    v_GKLD: Tensor,
    out_GHLD: Tensor,
    logsumexp_GHL: Tensor,
) -> Sequence[Tensor]:
    back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward
    made: Sequence[Tensor] = back(
        grad_GHLD, q_GHLD, k_GKLD, v_GKLD, out_GHLD, logsumexp_GHL, 0.0, True
    )
    return made


def _sliced(q_GHLD: Tensor, k_GKLD: Tensor, v_GKLD: Tensor) -> Sequence[Tensor]:
    out_GHLD = torch.empty_like(q_GHLD)
    logsumexp_GHL = q_GHLD.new_empty(q_GHLD.shape[:3], dtype=torch.float32)
    for queries, scores_GKRQS in _scores(q_GHLD, k_GKLD):
        sum_GKRQ1 = scores_GKRQS.logsumexp(-1, keepdim=True)
        p_GKRQS = (scores_GKRQS - sum_GKRQ1).exp().to(v_GKLD.dtype)
        out_GHLD[:, :, queries] = (p_GKRQS @ v_GKLD[:, :, None, : queries.stop]).flatten(1, 2)
        logsumexp_GHL[:, :, queries] = sum_GKRQ1.squeeze(-1).flatten(1, 2)
    return out_GHLD, logsumexp_GHL


def _sliced_back(
    grad_GHLD: Tensor,
    q_GHLD: Tensor,
    k_GKLD: Tensor,
    v_GKLD: Tensor,
    out_GHLD: Tensor,
    logsumexp_GHL: Tensor,
) -> Sequence[Tensor]:
    grad_q_GHLD = torch.empty_like(q_GHLD)
    grad_k_GKLD, grad_v_GKLD = (torch.zeros_like(x, dtype=torch.float32) for x in (k_GKLD, v_GKLD))
    inner_GHL1 = (grad_GHLD.float() * out_GHLD.float()).sum(-1, keepdim=True)
    shared = k_GKLD.shape[1]
    for queries, scores_GKRQS in _scores(q_GHLD, k_GKLD):
        q_GKRQD, grad_GKRQD, inner_GKRQ1, sum_GKRQ1 = (
            x[:, :, queries].unflatten(1, (shared, -1))
            for x in (q_GHLD, grad_GHLD, inner_GHL1, logsumexp_GHL[..., None])
        )
        k_GK1SD, v_GK1SD = (x[:, :, None, : queries.stop] for x in (k_GKLD, v_GKLD))
        p_GKRQS = (scores_GKRQS - sum_GKRQ1).exp()
        grad_p_GKRQS = (grad_GKRQD @ v_GK1SD.mT).float()
        grad_scores_GKRQS = (grad_p_GKRQS - inner_GKRQ1) * p_GKRQS * q_GHLD.shape[-1] ** -0.5
        grad_scores_GKRQS = grad_scores_GKRQS.to(q_GHLD.dtype)
        grad_q_GHLD[:, :, queries] = (grad_scores_GKRQS @ k_GK1SD).flatten(1, 2)
        grad_k_GKLD[:, :, : queries.stop] += (grad_scores_GKRQS.mT @ q_GKRQD).sum(2)
        grad_v_GKLD[:, :, : queries.stop] += (p_GKRQS.to(q_GHLD.dtype).mT @ grad_GKRQD).sum(2)
    return grad_q_GHLD, grad_k_GKLD.to(k_GKLD.dtype), grad_v_GKLD.to(v_GKLD.dtype)


def _scores(q_GHLD: Tensor, k_GKLD: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Slices of the queries, and their scores in float32, [G, K, R, Q, S]: against the keys up to
    their end, those behind a query out of reach."""
    length, width = q_GHLD.shape[2:]
    for begin in range(0, length, QUERY_SLICE):
        queries = slice(begin, min(begin + QUERY_SLICE, length))
        q_GKRQD = q_GHLD[:, :, queries].unflatten(1, (k_GKLD.shape[1], -1))
        scores_GKRQS = (q_GKRQD @ k_GKLD[:, :, None, : queries.stop].mT).float() * width**-0.5
        place_S = torch.arange(queries.stop, device=q_GHLD.device)
        yield queries, scores_GKRQS.masked_fill(place_S > place_S[begin:, None], -torch.inf)


def varlen(q: Tensor, k: Tensor, v: Tensor, segment_id: Tensor) -> tuple[Tensor, Tensor]:
    """`forward` in one call of torch's attention over several lengths."""
    import torch.nn.attention.varlen  # defines it; imports much of torch's compiler

    bound, longest = _bounds(segment_id, q.device)
    out, logsumexp_HN, _ = torch.ops.torch_attn._varlen_attn(
        q, k, v, bound, bound, longest, longest, True, None, _BEFORE, True
    )
    return out, logsumexp_HN.T.contiguous()


def varlen_back(
    grad: Tensor,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    out: Tensor,
    logsumexp: Tensor,
    segment_id: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """`backward` in one call of torch's attention over several lengths."""
    import torch.nn.attention.varlen

    bound, longest = _bounds(segment_id, q.device)
    chance = torch.zeros(2, dtype=torch.uint64, device=q.device)
    given = (grad, q, k, v, out, logsumexp.T.contiguous(), bound, bound, longest, longest)
    made: tuple[Tensor, Tensor, Tensor] = torch.ops.torch_attn._varlen_attn_backward(
        *given, True, chance, None, _BEFORE
    )
    return made


_BEFORE = [-1, 0]
"""How many tokens a query sees before it and behind it: all, and none."""


def _bounds(segment_id_N: Tensor, device: torch.device) -> tuple[Tensor, int]:
    """Where segments begin, and at last where they end; and the longest."""
    lengths = torch.unique_consecutive(segment_id_N, return_counts=True)[1]
    bound = functional.pad(lengths.cumsum(0), (1, 0)).to(device, torch.int32)
    return bound, int(lengths.max())


def _shaped(q: Tensor, k: Tensor, v: Tensor, segment_id: Tensor) -> tuple[Tensor, Tensor]:
    return q.new_empty(q.shape), q.new_empty(q.shape[:2], dtype=torch.float32)


def _shaped_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor
) -> tuple[Tensor, ...]:
    return tuple(x.new_empty(x.shape) for x in (q, k, v))


def _remember(
    ctx: torch.autograd.function.FunctionCtx,
    inputs: tuple[Tensor, Tensor, Tensor, Tensor],
    output: tuple[Tensor, Tensor],
) -> None:
    *given, segment_id = inputs
    ctx.save_for_backward(*given, *output, segment_id)
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)


def _differentiated(
    ctx: torch.autograd.function.FunctionCtx, grad: Tensor, _: None
) -> tuple[Tensor, Tensor, Tensor, None]:
    saved = ctx.saved_tensors  # type: ignore[attr-defined]
    return *torch.ops.triptych.causal_attention_backward(grad, *saved), None


# Not `torch.library.custom_op`, as in `matrices.py`.
_LIBRARY = torch.library.Library("triptych", "FRAGMENT")
for _name, _signature, _computed, _fake in (
    (
        "causal_attention",
        "(Tensor q, Tensor k, Tensor v, Tensor segment_id) -> (Tensor, Tensor)",
        forward,
        _shaped,
    ),
    (
        "causal_attention_backward",
        "(Tensor grad, Tensor q, Tensor k, Tensor v, Tensor out, Tensor logsumexp, "
        "Tensor segment_id) -> (Tensor, Tensor, Tensor)",
        backward,
        _shaped_back,
    ),
):
    _LIBRARY.define(f"{_name}{_signature}", tags=(torch.Tag.pt2_compliant_tag,))
    _LIBRARY.impl(_name, _computed, "CompositeExplicitAutograd")
    torch.library.register_fake(f"triptych::{_name}", _fake, lib=_LIBRARY)
torch.library.register_autograd(
    "triptych::causal_attention", _differentiated, setup_context=_remember, lib=_LIBRARY
)

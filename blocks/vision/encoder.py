"""The blocks of a vision tower, over packed patches or over whole pictures.

Packed, pictures of any size stand side by side and are kept apart by segment ids; dense, all have
one size, and each is a sequence of its own.

Shape suffixes: N packed patches, M pictures, T tokens of a picture, W width, H heads, D head width,
X whatever stands before the width: N, or M and T.
"""

from typing import Any

import torch
from torch import Tensor, nn

from ..feed_forward import FeedForward
from ..linear import Linear, added
from ..norms import NORMS
from ..operators import picture_attention, segment_attention
from ..recompute import through
from ..regions import region
from ..rotary import rotate


class VisionAttention(nn.Module):
    """Multi-head attention inside segments or inside pictures.

    `qk_norm` goes over the full width, so that all heads share one scale (InternViT-6B). With
    `qkv_bias` and without `k_bias`, queries and values have a bias of their own (EVA, BEiT).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        qkv_bias: bool,
        k_bias: bool,
        qk_norm: str | None,
        qk_eps: float,
    ) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = Linear(width, 3 * width, bias=qkv_bias and k_bias)
        apart = qkv_bias and not k_bias
        self.q_bias = nn.Parameter(torch.zeros(width)) if apart else None
        self.v_bias = nn.Parameter(torch.zeros(width)) if apart else None
        self.q_norm = NORMS[qk_norm](width, qk_eps) if qk_norm else None
        self.k_norm = NORMS[qk_norm](width, qk_eps) if qk_norm else None
        self.proj = Linear(width, width)

    def forward(
        self,
        x_XW: Tensor,
        segment_id_N: Tensor | None = None,
        cos_ND: Tensor | None = None,
        sin_ND: Tensor | None = None,
        *,
        residual_XW: Tensor | None = None,
    ) -> Tensor:
        """From [N, W] to [N, W], or without segment ids from [M, T, W] to [M, T, W].

        Packed patches turn by `cos` and `sin`, in float32, where these are given. What comes out is
        added to a residual, where there is one.
        """
        q_XHD, k_XHD, v_XHD = (x_XW.unflatten(-1, (self.heads, -1)) for x_XW in self._qkv(x_XW))
        if segment_id_N is None:
            found_XW = picture_attention(q_XHD, k_XHD, v_XHD).flatten(-2)
            return added(self.proj, found_XW, residual_XW)
        if cos_ND is not None and sin_ND is not None:
            cos_N1D, sin_N1D = cos_ND[:, None], sin_ND[:, None]
            q_XHD, k_XHD = (
                rotate(x.float(), cos_N1D, sin_N1D, v_XHD.dtype) for x in (q_XHD, k_XHD)
            )
        found_NW = segment_attention(q_XHD, k_XHD, v_XHD, segment_id_N).flatten(1)
        return added(self.proj, found_NW, residual_XW)

    def _qkv(self, x_XW: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q_XW, k_XW, v_XW = self.qkv(x_XW).chunk(3, dim=-1)
        if self.q_bias is not None and self.v_bias is not None:
            q_XW, v_XW = q_XW + self.q_bias, v_XW + self.v_bias
        if self.q_norm is not None and self.k_norm is not None:
            q_XW, k_XW = self.q_norm(q_XW), self.k_norm(k_XW)
        return q_XW, k_XW, v_XW


class VisionBlock(nn.Module):
    """Attention and feed-forward, each behind its norm and beside a residual.

    With `layer_scale`, each branch is multiplied by a learned factor a channel (Touvron et al.,
    2021). With `checkpoint`, a block keeps only its inputs for the backward pass, and runs again
    there.
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
        k_bias: bool,
        qk_norm: str | None,
        qk_eps: float,
        layer_scale: bool,
    ) -> None:
        super().__init__()
        self.norm1 = NORMS[norm](width, eps)
        self.attn = VisionAttention(
            width, heads, qkv_bias=qkv_bias, k_bias=k_bias, qk_norm=qk_norm, qk_eps=qk_eps
        )
        self.ls1 = nn.Parameter(torch.ones(width)) if layer_scale else None
        self.norm2 = NORMS[norm](width, eps)
        self.mlp = FeedForward(width, ffn, act)
        self.ls2 = nn.Parameter(torch.ones(width)) if layer_scale else None
        self.checkpoint = False

    @region
    def forward(self, x_XW: Tensor, *segments: Tensor, kept: Tensor | None = None) -> Tensor:
        """As it came; `segments` are the ids of packed patches, then the cosines and sines.

        `kept`, [2, N] or [2, M], is what each branch counts; without it, each counts 1.
        """
        if self.ls1 is None and kept is None:
            x_XW = self.attn(self.norm1(x_XW), *segments, residual_XW=x_XW)
            return self.mlp(self.norm2(x_XW), x_XW)
        kept1_X, kept2_X = (None, None) if kept is None else kept.unbind(0)
        x_XW = _residual(x_XW, self.attn(self.norm1(x_XW), *segments), self.ls1, kept1_X)
        return _residual(x_XW, self.mlp(self.norm2(x_XW)), self.ls2, kept2_X)


class VisionBlocks(nn.ModuleList):
    """The blocks of a tower, one after another.

    `taps` counts blocks from 0: what these yield is kept, and blocks behind the last do not run.
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
        qkv_bias: bool,
        *,
        k_bias: bool = True,
        qk_norm: str | None = None,
        qk_eps: float = 0.0,
        layer_scale: bool = False,
        taps: tuple[int, ...] = (),
    ) -> None:
        super().__init__(
            VisionBlock(
                width,
                heads,
                ffn,
                act,
                norm,
                eps,
                qkv_bias=qkv_bias,
                k_bias=k_bias,
                qk_norm=qk_norm,
                qk_eps=qk_eps,
                layer_scale=layer_scale,
            )
            for _ in range(depth)
        )
        self.taps = taps

    def forward(
        self,
        x_XW: Tensor,
        *segments: Tensor,
        kept: Tensor | None = None,
        span: tuple[int, ...] = (),
    ) -> Tensor:
        """From [N, W] (and segment ids, float32 cosines and sines) or [M, T, W] to the same.

        With taps, what each of them yields, stacked: [taps, N, W] or [taps, M, T, W]. `kept`,
        [blocks, 2, N] or [blocks, 2, M], is what each branch counts (drop path). `span` names the
        first block that runs, and the one behind the last.
        """
        return run_blocks(self, x_XW, *segments, taps=self.taps, kept=kept, span=span)


def run_blocks(
    blocks: nn.ModuleList,
    x_XW: Tensor,
    *rest: Tensor,
    taps: tuple[int, ...] = (),
    kept: Tensor | None = None,
    span: tuple[int, ...] = (),
) -> Tensor:
    """One block after another; with `taps`, what each of those yields, stacked in their order.

    Where there is `kept`, each block is given its part of it. With `span`, only blocks from its
    first number to before its second run.
    """
    tapped: dict[int, Tensor] = {}
    for index, block in enumerate(blocks):
        if span and index not in range(*span):
            continue
        drop: dict[str, Any] = {} if kept is None else {"kept": kept[index]}
        x_XW = through(block, x_XW, *rest, **drop)
        if index in taps:
            tapped[index] = x_XW
        if len(tapped) == len(taps) > 0:
            break
    return torch.stack([tapped[index] for index in taps]) if taps else x_XW


def _residual(
    x_XW: Tensor, branch_XW: Tensor, scale_W: Tensor | None, kept_X: Tensor | None
) -> Tensor:
    if scale_W is not None:
        branch_XW = branch_XW * scale_W
    if kept_X is not None:
        # One number for each packed patch, or for each picture.
        branch_XW = branch_XW * kept_X.to(branch_XW).view(-1, *[1] * (branch_XW.dim() - 1))
    return x_XW + branch_XW

"""A vision tower over packed patches: pictures of any size side by side, kept apart by segment ids.

Shape suffixes: N patches, W width, H heads, D head width.
"""

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from ..feed_forward import FeedForward
from ..norms import NORMS
from ..operators import segment_attention
from ..rotary import rotate


class SegmentAttention(nn.Module):
    """Multi-head attention inside segments, with rotary positions in float32."""

    def __init__(self, width: int, heads: int, qkv_bias: bool) -> None:
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width, bias=qkv_bias)
        self.proj = nn.Linear(width, width)

    def forward(self, x_NW: Tensor, segment_id_N: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
        """From [N, W] to [N, W]."""
        qkv_N3HD = self.qkv(x_NW).unflatten(-1, (3, self.heads, -1))
        q_NHD, k_NHD, v_NHD = qkv_N3HD.unbind(1)
        cos_N1D, sin_N1D = cos_ND[:, None], sin_ND[:, None]
        q_NHD, k_NHD = (rotate(x.float(), cos_N1D, sin_N1D).to(v_NHD.dtype) for x in (q_NHD, k_NHD))
        return self.proj(segment_attention(q_NHD, k_NHD, v_NHD, segment_id_N).flatten(1))


class VisionBlock(nn.Module):
    """Attention and feed-forward, each behind its norm and beside a residual.

    With `checkpoint`, it keeps only its inputs for the backward pass, and runs again there.
    """

    def __init__(
        self, width: int, heads: int, ffn: int, act: str, norm: str, eps: float, qkv_bias: bool
    ) -> None:
        super().__init__()
        self.norm1 = NORMS[norm](width, eps)
        self.attn = SegmentAttention(width, heads, qkv_bias)
        self.norm2 = NORMS[norm](width, eps)
        self.mlp = FeedForward(width, ffn, act)
        self.checkpoint = False

    def forward(self, x_NW: Tensor, segment_id_N: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
        """From [N, W] to [N, W]."""
        x_NW = x_NW + self.attn(self.norm1(x_NW), segment_id_N, cos_ND, sin_ND)
        return x_NW + self.mlp(self.norm2(x_NW))


class VisionBlocks(nn.ModuleList):
    """The blocks of a tower, one after another."""

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
    ) -> None:
        super().__init__(
            VisionBlock(width, heads, ffn, act, norm, eps, qkv_bias) for _ in range(depth)
        )

    def forward(self, x_NW: Tensor, segment_id_N: Tensor, cos_ND: Tensor, sin_ND: Tensor) -> Tensor:
        """From [N, W] to [N, W]; `cos` and `sin` are float32."""
        for block in self:
            if block.checkpoint:
                x_NW = checkpoint(block, x_NW, segment_id_N, cos_ND, sin_ND, use_reentrant=False)
            else:
                x_NW = block(x_NW, segment_id_N, cos_ND, sin_ND)
        return x_NW

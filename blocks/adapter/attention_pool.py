"""Pooling by attention: one vector of a sequence, whose query is the sequence's own mean.

Shape suffixes: M sequences, S tokens of one, C width, O width that comes out.
"""

import torch
from torch import Tensor, nn

from ..norms import NORMS
from ..operators import attend


class PoolAttention(nn.Module):
    """Multi-head attention whose biases stand apart from its matrices, as in BEiT."""

    def __init__(self, width: int, heads: int, out: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width, bias=False)
        self.k = nn.Linear(width, width, bias=False)
        self.v = nn.Linear(width, width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.k_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))
        self.proj = nn.Linear(width, out)

    def forward(self, q_M1C: Tensor, k_MSC: Tensor, v_MSC: Tensor) -> Tensor:
        """From [M, 1, C] to [M, 1, O]."""
        q, k, v = (
            (project(x) + bias).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for x, project, bias in (
                (q_M1C, self.q, self.q_bias),
                (k_MSC, self.k, self.k_bias),
                (v_MSC, self.v, self.v_bias),
            )
        )
        return self.proj(attend(q, k, v).transpose(1, 2).flatten(2))


class AttentionPool(nn.Module):
    """The mean of the tokens looks at the tokens, behind a norm for each of query, key and value.

    InternVL's (Chen et al., 2023, arXiv 2312.14238): no residual, and no feed-forward behind it.
    """

    def __init__(self, width: int, heads: int, out: int, norm: str, eps: float) -> None:
        super().__init__()
        self.norm_q = NORMS[norm](width, eps)
        self.norm_k = NORMS[norm](width, eps)
        self.norm_v = NORMS[norm](width, eps)
        self.attn = PoolAttention(width, heads, out)

    def forward(self, x_MSC: Tensor) -> Tensor:
        """From [M, S, C] to [M, O]."""
        mean_M1C = self.norm_q(x_MSC.mean(1, keepdim=True))
        return self.attn(mean_M1C, self.norm_k(x_MSC), self.norm_v(x_MSC)).squeeze(1)

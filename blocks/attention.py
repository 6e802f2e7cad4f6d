"""Attention of one sequence to another, or to itself, with a matrix for each of q, k and v.

Shape suffixes: B batch, T queries, S keys, W width of the queries, C width of the keys, H heads,
D head width.
"""

from torch import Tensor, nn

from .operators import attend


class Attention(nn.Module):
    """Multi-head attention (Vaswani et al., 2017), all layers with a bias.

    `into` is the width of what is attended to, that of the queries if not given.
    """

    def __init__(self, width: int, heads: int, into: int | None = None) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.k = nn.Linear(into or width, width)
        self.v = nn.Linear(into or width, width)
        self.o = nn.Linear(width, width)

    def forward(
        self, q_BTW: Tensor, k_BSC: Tensor, v_BSC: Tensor, mask_BTS: Tensor | None = None
    ) -> Tensor:
        """From [B, T, W] to [B, T, W]; without a mask every query sees every key."""
        q_BHTD, k_BHSD, v_BHSD = (
            project(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for project, x in ((self.q, q_BTW), (self.k, k_BSC), (self.v, v_BSC))
        )
        out_BHTD = attend(q_BHTD, k_BHSD, v_BHSD, mask_BTS)
        return self.o(out_BHTD.transpose(1, 2).flatten(2))

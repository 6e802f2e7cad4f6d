"""Pictures and texts told apart by one another: similarities, losses, and negatives to learn from.

With several processes the pictures and texts of all of them count; each process has its own rows.

Shape suffixes: B pairs of this process, N pairs of all, D width, R rows of a match, Q queries,
W width of a query.
"""

from typing import Any

import torch
from torch import Tensor, distributed, nn
from torch.autograd import Function
from torch.nn import functional


class Scale(nn.Module):
    """A learned factor of similarities, kept as its logarithm (Radford et al., 2021)."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(()))

    def forward(self) -> Tensor:
        """The logarithm, []."""
        return self.weight


def similarities(one_BD: Tensor, other_ND: Tensor, scale: Tensor | None = None) -> Tensor:
    """[B, N] cosines in float32, times exp(scale) where one is given."""
    one_BD, other_ND = (functional.normalize(x.float(), dim=-1) for x in (one_BD, other_ND))
    cosine_BN = one_BD @ other_ND.mT
    return cosine_BN if scale is None else scale.float().exp() * cosine_BN


def unit_sum(*vectors_BD: Tensor) -> Tensor:
    """The sum of several vectors, each brought to length 1 first."""
    return torch.stack([functional.normalize(x, dim=-1) for x in vectors_BD]).sum(0)


def contrastive(
    image_BD: Tensor,
    text_BD: Tensor,
    scale: Tensor,
    group_B: Tensor,
    weight_B: Tensor,
    *,
    smoothing: float,
) -> Tensor:
    """Symmetric cross entropy of the pairs (Radford et al., 2021), a weighted sum over the rows.

    Pairs of one `group` are right answers to one another, in equal shares. A row of weight 0 is not
    scored, and stays as an answer that others may give. With `smoothing`, that share of the target
    is spread over all answers.
    """
    image_ND, text_ND, group_N = (gathered(x) for x in (image_BD, text_BD, group_B))
    right_BN = (group_B[:, None] == group_N).float()
    target_BN = right_BN / right_BN.sum(1, keepdim=True)
    target_BN = (1 - smoothing) * target_BN + smoothing / group_N.shape[0]
    losses = [
        -(similarities(one_BD, other_ND, scale).log_softmax(1) * target_BN).sum(1)
        for one_BD, other_ND in ((image_BD, text_ND), (text_BD, image_ND))
    ]
    return (torch.stack(losses).mean(0) * weight_B).sum()


def hard_negatives(one_BD: Tensor, other_BD: Tensor, scale: Tensor, group_B: Tensor) -> Tensor:
    """[B] for each row one of the others, the likelier the more similar; none of its own group.

    One draw a row from the softmax of the similarities, as BLIP-2 does (Li et al., 2023). Where a
    batch is one group, every other row is as good.
    """
    with torch.no_grad():
        share_BB = similarities(one_BD, other_BD, scale).softmax(1) + 1e-4
        share_BB = share_BB.masked_fill(group_B[:, None] == group_B, 0.0)
        other_BB = 1.0 - torch.eye(group_B.shape[0], device=share_BB.device)
        alone_B1 = share_BB.sum(1, keepdim=True) == 0
        return torch.where(alone_B1, other_BB, share_BB).multinomial(1)[:, 0]


class _Gather(Function):
    """All processes' rows; backward, what all of them want of this one's."""

    @staticmethod
    def forward(ctx: Any, x_B: Tensor) -> Tensor:
        rows = [torch.empty_like(x_B) for _ in range(distributed.get_world_size())]
        distributed.all_gather(rows, x_B.contiguous())
        return torch.cat(rows)

    @staticmethod
    def backward(ctx: Any, grad_N: Tensor) -> Tensor:
        grad_N = grad_N.contiguous()
        distributed.all_reduce(grad_N)
        return grad_N.chunk(distributed.get_world_size())[distributed.get_rank()]


def gathered(x_B: Tensor) -> Tensor:
    """The rows of all processes, by rank; of this one alone where there is no other.

    The gradient of a row is summed over the losses of all processes.
    """
    if not (distributed.is_available() and distributed.is_initialized()):
        return x_B
    found: Tensor = _Gather.apply(x_B)  # type: ignore[no-untyped-call]
    return found

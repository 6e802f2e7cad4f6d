"""Feature vectors through linear layers, one token at a time.

Shape suffixes: W width of the features, D width of the model, whatever stands before them.
"""

import torch
from torch import Tensor, nn

from ..activations import ACTIVATIONS
from ..linear import Linear, feed_forward
from ..norms import NORMS


class MLP(nn.Module):
    """Two linear layers round an activation, behind a norm if there is one."""

    def __init__(
        self, width: int, hidden: int, out: int, act: str, norm: str | None, eps: float
    ) -> None:
        super().__init__()
        self.act = act
        self.norm = NORMS[norm](width, eps) if norm else None
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, out)

    def forward(self, x_W: Tensor) -> Tensor:
        """From [..., W] to [..., D]."""
        if self.norm is not None:
            x_W = self.norm(x_W)
        return feed_forward(x_W, self.fc1, self.fc2, self.act)


class SplitMLP(nn.Module):
    """Joins the tokens of several towers place by place: a linear layer each, then one for all."""

    def __init__(self, widths: tuple[int, ...], each: int, out: int, act: str) -> None:
        super().__init__()
        self.act = ACTIVATIONS[act]
        self.up = nn.ModuleList(Linear(width, each) for width in widths)
        self.fc2 = Linear(each * len(widths), out)

    def forward(self, *sources_W: Tensor) -> Tensor:
        """From several [..., W] to [..., D]; the first source stands first."""
        ups = [up(x_W) for up, x_W in zip(self.up, sources_W, strict=True)]
        return self.fc2(self.act(torch.cat(ups, dim=-1)))

"""Feed-forward networks of transformer blocks.

Shape suffix: W width, whatever stands before it.
"""

from torch import Tensor, nn

from .linear import Linear, feed_forward


class FeedForward(nn.Module):
    """Two linear layers round an activation."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.act = act
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x_W: Tensor, residual_W: Tensor | None = None) -> Tensor:
        """From [..., W] to [..., W]; added to a residual, where one is given."""
        return feed_forward(x_W, self.fc1, self.fc2, self.act, residual_W)


class GatedFeedForward(nn.Module):
    """down(act(gate(x)) * up(x)) without biases: SwiGLU where `act` is silu (Shazeer, 2020)."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.act = act
        self.gate = Linear(width, hidden, bias=False)
        self.up = Linear(width, hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x_W: Tensor, residual_W: Tensor | None = None) -> Tensor:
        """From [..., W] to [..., W]; added to a residual, where one is given."""
        return feed_forward(x_W, self.up, self.down, self.act, residual_W, self.gate)

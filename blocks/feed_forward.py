"""Feed-forward networks of transformer blocks.

Shape suffix: W width, whatever stands before it.
"""

from torch import Tensor, nn

from .linear import Linear, activated


class FeedForward(nn.Module):
    """Two linear layers round an activation."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.act = act
        self.fc1 = Linear(width, hidden)
        self.fc2 = Linear(hidden, width)

    def forward(self, x_W: Tensor) -> Tensor:
        """From [..., W] to [..., W]."""
        return self.fc2(activated(self.fc1, x_W, self.act))


class GatedFeedForward(nn.Module):
    """down(act(gate(x)) * up(x)) without biases: SwiGLU where `act` is silu (Shazeer, 2020)."""

    def __init__(self, width: int, hidden: int, act: str) -> None:
        super().__init__()
        self.act = act
        self.gate = Linear(width, hidden, bias=False)
        self.up = Linear(width, hidden, bias=False)
        self.down = Linear(hidden, width, bias=False)

    def forward(self, x_W: Tensor) -> Tensor:
        """From [..., W] to [..., W]."""
        return self.down(activated(self.gate, x_W, self.act) * self.up(x_W))

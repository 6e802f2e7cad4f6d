"""The adapter of Qwen2-VL: neighbouring patches become one token of the language model.

Shape suffixes: N patches, A patches of a window, W width of the tower, M tokens, D width of the
model.
"""

from torch import Tensor, nn

from ..activations import ACTIVATIONS
from ..norms import NORMS


class MergeMLP(nn.Module):
    """Norm per patch, then `area` neighbours side by side through two linear layers.

    Packed patches bring the patches of a window one after another, so no row has to move.
    """

    def __init__(
        self, area: int, width: int, hidden: int, out: int, act: str, norm: str, eps: float
    ) -> None:
        super().__init__()
        self.area = area
        self.act = ACTIVATIONS[act]
        self.norm = NORMS[norm](width, eps)
        self.fc1 = nn.Linear(area * width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x_NW: Tensor) -> Tensor:
        """From [N, W] to [M, D] with N = M * area."""
        x_MAW = self.norm(x_NW).unflatten(0, (-1, self.area))
        return self.fc2(self.act(self.fc1(x_MAW.flatten(1))))

"""The adapter of Qwen2-VL: neighbouring patches become one token of the language model.

Shape suffixes: P pictures, N patches, A patches of a window, W width of the tower, M tokens, D
width of the model.
"""

from torch import Tensor, nn

from ..linear import Linear, feed_forward
from ..norms import NORMS


def windows(x_PNW: Tensor, grid: tuple[int, int], window: tuple[int, int]) -> Tensor:
    """Raster patches of whole pictures reordered, [P, N, W]: those of a window follow one another.

    It is the order that packed patches come in.
    """
    (rows, columns), (down, across) = grid, window
    cut = (rows // down, down, columns // across, across)
    return x_PNW.unflatten(1, cut).transpose(2, 3).flatten(1, 4)


class MergeMLP(nn.Module):
    """Norm per patch, then `area` neighbours side by side through two linear layers.

    Packed patches bring the patches of a window one after another, so no row has to move.
    """

    def __init__(
        self, area: int, width: int, hidden: int, out: int, act: str, norm: str, eps: float
    ) -> None:
        super().__init__()
        self.area = area
        self.act = act
        self.norm = NORMS[norm](width, eps)
        self.fc1 = Linear(area * width, hidden)
        self.fc2 = Linear(hidden, out)

    def forward(self, x_NW: Tensor) -> Tensor:
        """From [..., N, W] to [..., M, D] with N = M * area."""
        x_MAW = self.norm(x_NW).unflatten(-2, (-1, self.area))
        return feed_forward(x_MAW.flatten(-2), self.fc1, self.fc2, self.act)

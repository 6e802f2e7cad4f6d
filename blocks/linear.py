"""Linear layers of a decoder: torch's, in the form that a backend asks for.

Shape suffixes: I width that goes in, O width that comes out.
"""

from torch import Tensor, nn

from .operators import linear


class Linear(nn.Linear):
    """As torch's, but a backend says how it is computed: see `operators.lowering`."""

    def forward(self, x_I: Tensor) -> Tensor:
        """From [..., I] to [..., O]."""
        return linear(x_I, self.weight, self.bias)

"""Norms by the names that recipes use; both compute in float32 and cast back.

Shape suffix: W width, whatever stands before it.
"""

from collections.abc import Mapping
from types import MappingProxyType

import torch
from torch import Tensor, nn
from torch.nn import functional


class LayerNorm(nn.Module):
    """Layer normalisation (Ba et al., 2016) with weight and bias."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x_W: Tensor) -> Tensor:
        """Over the innermost size; torch's kernel keeps its sums in float32."""
        return functional.layer_norm(x_W, self.weight.shape, self.weight, self.bias, self.eps)


class RMSNorm(nn.Module):
    """Root mean square normalisation (Zhang and Sennrich, 2019) with weight."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x_W: Tensor) -> Tensor:
        """Over the innermost size; cast back before the weight is applied, as in Qwen2."""
        x32_W = x_W.float()
        scale = torch.rsqrt(x32_W.square().mean(-1, keepdim=True) + self.eps)
        return self.weight * (x32_W * scale).to(x_W.dtype)


NORMS: Mapping[str, type[LayerNorm] | type[RMSNorm]] = MappingProxyType(
    {"layernorm": LayerNorm, "rmsnorm": RMSNorm}
)

"""Patch embedding: one row of pixels, one vector.

Shape suffixes: N patches, P pixels of a patch, W width.
"""

import torch
from torch import Tensor, nn

from ..operators import embed_patches


class PatchEmbed(nn.Module):
    """A 3D convolution whose kernel equals its stride, as one matrix product over packed patches.

    A row holds its patch in the order of the kernel: channel, frame, row, column. It may also hold
    one frame only, which then stands for all `frames` alike (a still picture): the kernel is summed
    over them first, which halves the work for `frames = 2` and yields the same up to rounding.
    """

    def __init__(self, channels: int, frames: int, patch: int, width: int, bias: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width, channels, frames, patch, patch))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def forward(self, patches_NP: Tensor) -> Tensor:
        """From [N, P] to [N, W], in the dtype of the kernel."""
        width, _, frames = self.weight.shape[:3]
        one_frame = patches_NP.shape[1] * frames * width == self.weight.numel()
        kernel = self.weight.sum(2, keepdim=True) if one_frame and frames > 1 else self.weight
        return embed_patches(patches_NP.to(kernel.dtype), kernel, self.bias)

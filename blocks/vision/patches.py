"""Patch embedding: one row of pixels, one vector.

Shape suffixes: P pixels of a patch, W width, whatever stands before them.
"""

import torch
from torch import Tensor, nn

from ..operators import embed_patches


class PatchEmbed(nn.Module):
    """A convolution whose kernel equals its stride, as one matrix product over patches.

    A row holds its patch in the order of the kernel: channel, frame, row, column; the kernel of
    still pictures (`frames = 1`) has no size for frames. A row may also hold one frame only, which
    then stands for all `frames` alike: the kernel is summed over them first, which halves the work
    for `frames = 2` and yields the same up to rounding.
    """

    def __init__(self, channels: int, frames: int, patch: int, width: int, bias: bool) -> None:
        super().__init__()
        self.frames = frames
        depth = (frames,) if frames > 1 else ()
        self.weight = nn.Parameter(torch.empty(width, channels, *depth, patch, patch))
        self.bias = nn.Parameter(torch.empty(width)) if bias else None

    def forward(self, patches_P: Tensor) -> Tensor:
        """From [..., P] to [..., W], in the dtype of the kernel."""
        kernel: Tensor = self.weight
        if self.frames > 1 and patches_P.shape[-1] * len(kernel) < kernel.numel():
            kernel = kernel.sum(2, keepdim=True)
        return embed_patches(patches_P.to(kernel.dtype), kernel, self.bias)

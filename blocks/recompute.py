"""Blocks that may keep only their inputs for the backward pass, and run again there."""

from typing import Any

from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint


def through(block: nn.Module, *inputs: Any, **options: Any) -> Tensor:
    """What a block yields; where its `checkpoint` is set, without what lies between being kept."""
    if block.checkpoint:
        again: Tensor = checkpoint(block, *inputs, use_reentrant=False, **options)
        return again
    found: Tensor = block(*inputs, **options)
    return found

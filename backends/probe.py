"""Inputs that a method could be fed: what an executable is compared with eager on."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from .base import Limit, Method

SMALL = {"length": 24, "slots": 64, "features": 8}
"""Sizes of a quick comparison; patches and the rest: 64."""


def probe(
    method: Method, limits: Mapping[str, Limit], tokens: int, seed: int = 0, **sizes: int
) -> dict[str, Tensor]:
    """Random inputs of a method; `tokens` bounds the ids, `sizes` overrides what is a small call.

    Rows are two segments. A prompt starts at slot 0 with a feature at every second token; a single
    token goes to the last slot of a full cache.
    """
    generator = torch.Generator().manual_seed(seed)
    sizes = _small(limits) | sizes
    made: dict[str, Tensor] = {}
    for name, port in method.inputs.items():
        shape = port.shape(sizes)
        place_N = torch.arange(shape[-1])
        match name.rpartition(".")[2]:
            case "cos" | "sin" as half:
                # One angle for both: what is no rotation would blow queries and keys up.
                angle = torch.arange(shape[-2])[:, None] * 0.1 * (1 + place_N % (shape[-1] // 2))
                made[name] = getattr(angle, half)().expand(shape).contiguous().to(port.dtype)
            case "query_scale":
                made[name] = (1 + place_N * 0.01).expand(shape).contiguous().to(port.dtype)
            case _ if port.dtype.is_floating_point:
                made[name] = torch.randn(shape, generator=generator).to(port.dtype)
            case "tokens":
                made[name] = torch.randint(tokens, shape, generator=generator)
            case "segment_id":
                made[name] = (place_N >= shape[0] // 2).long()
            case "feature_index":
                rows_N = (place_N // 2) % sizes["features"]
                made[name] = torch.where(place_N % 2 == 0, rows_N, -1).repeat(shape[0], 1)
            case "slot":
                first = 0 if shape[-1] > 1 else sizes["slots"] - 1
                made[name] = (first + place_N).repeat(shape[0], 1)
            case "last":
                made[name] = torch.full(shape, sizes["length"] - 1)
            case _:
                made[name] = torch.zeros(shape, dtype=port.dtype)
    return made


def difference(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor]) -> float:
    """The largest difference of any tensor, as a share of the largest number in it."""
    worst = 0.0
    for name, reference in theirs.items():
        wanted, found = reference.float().cpu(), ours[name].float().cpu()
        scale = wanted.abs().max().item() or 1.0
        worst = max(worst, (found - wanted).abs().max().item() / scale)
    return worst


def _small(limits: Mapping[str, Limit]) -> dict[str, int]:
    return {
        name: min(limit.high, max(limit.low, 2 if name == "batch" else SMALL.get(name, 64)))
        for name, limit in limits.items()
    }

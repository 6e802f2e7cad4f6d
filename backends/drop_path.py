"""Draws which branches of blocks a step leaves out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from ..compiler.graph import Graph
from ..compiler.ops import VisionBlocks
from .data import generator


class DropPaths:
    """What a step's branches count, picture by picture: 0, or what keeps their mean.

    It depends on the seed and the position in the data alone, and not on how a batch is cut.
    """

    def __init__(self, methods: Mapping[str, Graph], seed: str) -> None:
        self._seed = seed
        self._rates = {
            node.inputs[-1]: np.array(node.op.drop_path)
            for graph in methods.values()
            for node in graph
            if isinstance(node.op, VisionBlocks) and node.op.drop_path
        }

    def into(
        self, shards: Sequence[Mapping[str, Tensor]], position: int
    ) -> Sequence[Mapping[str, Tensor]]:
        """The shards of the batch at a position, with `VIEW.drop_path` where blocks take one."""
        for name, rates in self._rates.items():
            chance = generator(f"{self._seed}/{name}/{position}")
            shards = [{**one, name: _kept(one, name, rates, chance)} for one in shards]
        return shards


def _kept(
    shard: Mapping[str, Tensor],
    name: str,
    rates: np.ndarray[tuple[int], np.dtype[np.float64]],
    chance: np.random.Generator,
) -> Tensor:
    """[blocks, 2, pictures], or for packed patches a copy for each of them."""
    view = name.removesuffix(".drop_path")
    patches, segment_id_N = shard[f"{view}.patches"], shard.get(f"{view}.segment_id")
    pictures = len(patches) if segment_id_N is None else int(segment_id_N.max()) + 1
    draws = chance.random((pictures, len(rates), 2))
    keep = 1 - rates[:, None]
    kept_L2M = torch.from_numpy(((draws < keep) / keep).transpose(1, 2, 0).astype(np.float32))
    kept_L2M = kept_L2M.to(patches.device)
    return kept_L2M if segment_id_N is None else kept_L2M[:, :, segment_id_N]

"""Draws what a step leaves out: branches of blocks, tokens of pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor

from ..compiler.graph import Graph
from ..compiler.ops import TakeTokens, VisionBlocks
from .data import generator

Shard: TypeAlias = Mapping[str, Tensor]


class Drops:
    """The inputs of a step that chance decides, picture by picture.

    They depend on the seed and the position in the data alone, and not on how a batch is cut.
    """

    def __init__(self, methods: Mapping[str, Graph], seed: str) -> None:
        self._seed = seed
        self._draw: dict[str, Callable[[Shard, str, np.random.Generator], Tensor]] = {}
        for node in (node for graph in methods.values() for node in graph):
            if isinstance(node.op, VisionBlocks) and node.op.drop_path:
                self._draw[node.inputs[-1]] = partial(branches, rates=node.op.drop_path)
            elif isinstance(node.op, TakeTokens):
                self._draw[node.inputs[-1]] = partial(tokens, take=node.op)

    def into(self, shards: Sequence[Shard], position: int) -> Sequence[Shard]:
        """The shards of the batch at a position, with what is drawn for it."""
        for name, draw in self._draw.items():
            view = name.rpartition(".")[0]
            chance = generator(f"{self._seed}/{name}/{position}")
            shards = [{**one, name: draw(one, view, chance)} for one in shards]
        return shards


def branches(
    shard: Shard, view: str, chance: np.random.Generator, *, rates: Sequence[float]
) -> Tensor:
    """What each branch counts: 0, or what keeps its mean.

    [blocks, 2, pictures], or for packed patches a copy for each of them.
    """
    patches, segment_id_N = shard[f"{view}.patches"], shard.get(f"{view}.segment_id")
    pictures = len(patches) if segment_id_N is None else int(segment_id_N.max()) + 1
    draws = chance.random((pictures, len(rates), 2))
    keep = 1 - np.array(rates)[:, None]
    kept_L2M = torch.from_numpy(((draws < keep) / keep).transpose(1, 2, 0).astype(np.float32))
    kept_L2M = kept_L2M.to(patches.device)
    return kept_L2M if segment_id_N is None else kept_L2M[:, :, segment_id_N]


def tokens(shard: Shard, view: str, chance: np.random.Generator, *, take: TakeTokens) -> Tensor:
    """[pictures, kept] which tokens stay, in order; those that always do come first."""
    patches = shard[f"{view}.patches"]
    draws = chance.random((len(patches), take.tokens - take.always))
    drawn = np.sort(draws.argsort(axis=1)[:, : take.kept - take.always], axis=1) + take.always
    first = np.broadcast_to(np.arange(take.always), (len(patches), take.always))
    return torch.from_numpy(np.concatenate([first, drawn], axis=1)).to(patches.device)

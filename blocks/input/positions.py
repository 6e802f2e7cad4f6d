"""Where patches and tokens stand: segment ids, indices, and the rotary tables made of them.

Shape suffixes: N patches, T tokens, B batch, S streams of positions, D head width, R frequencies
(half of D), A axes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from types import MappingProxyType
from typing import Any, TypeAlias

import torch
from torch import Tensor

from .sizes import Grid

Places: TypeAlias = tuple[tuple[int, Grid], ...]
"""Where each run of features starts in a sequence, and its merged grid, in order."""


def segment_ids(grids: Sequence[Grid]) -> Tensor:
    """[N] one number for each frame slot: patches attend inside their own slot only."""
    lengths = [grid.rows * grid.columns for grid in grids for _ in range(grid.slots)]
    return torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths))


def patch_tables(
    grids: Sequence[Grid], window: tuple[int, int], theta: float, width: int
) -> tuple[Tensor, Tensor]:
    """Cosine and sine, [N, D] in float32, of the tower's 2D rotary positions, in packed order.

    The first half of the frequencies turns with the row of a patch in its own frame, the second
    with its column (Qwen2-VL, `rot_pos_emb`).
    """
    places = [_places(grid.rows, grid.columns, window).repeat(grid.slots, 1) for grid in grids]
    angle_R = theta ** -(torch.arange(0, width // 2, 2, dtype=torch.float32) / (width // 2))
    angle_ND = (torch.cat(places)[:, :, None] * angle_R).flatten(1).repeat(1, 2)
    return angle_ND.cos(), angle_ND.sin()


@lru_cache(maxsize=64)
def _places(rows: int, columns: int, window: tuple[int, int]) -> Tensor:
    """Row and column of each patch of one frame, in packed order, [N, A]."""
    axes = torch.meshgrid(torch.arange(rows), torch.arange(columns), indexing="ij")
    cut = (rows // window[0], window[0], columns // window[1], window[1])
    return torch.stack([axis.reshape(cut).transpose(1, 2).flatten() for axis in axes], dim=1)


@lru_cache(maxsize=256)
def mrope_index(length: int, places: Places) -> tuple[Tensor, int]:
    """Time, row and column of each token, [3, T], and by how much the next index is ahead of T.

    Text counts on in all three streams; features count from there along their own axes, and the
    text after them goes on above the largest index used. That is the rule of the paper (arXiv
    2409.12191, section 2.1) and of transformers 4.45 to 5.1; from 5.3 on they forget the time axis
    here.
    """
    pieces: list[Tensor] = []
    done = count = 0
    for start, grid in places:
        text = start - done
        pieces.append((count + torch.arange(text)).expand(3, -1))
        count += text
        axes = torch.meshgrid(*(torch.arange(size) for size in grid), indexing="ij")
        pieces.append(count + torch.stack([axis.flatten() for axis in axes]))
        count += max(grid)
        done = start + grid.patches
    pieces.append((count + torch.arange(length - done)).expand(3, -1))
    count += length - done
    return torch.cat(pieces, dim=1), count - length


def plain_index(length: int, places: Places) -> tuple[Tensor, int]:
    """The place of each token in the sequence, features or not, [1, T]; the next index is T."""
    return torch.arange(length)[None], 0


INDEX: Mapping[str, Callable[[int, Places], tuple[Tensor, int]]] = MappingProxyType(
    {"rope": plain_index, "mrope": mrope_index}
)
"""How tokens are counted, by the name of the position rule."""


class TextPositions:
    """The position rule of a language model, from the plain JSON of a feed spec."""

    def __init__(self, spec: Mapping[str, Any]) -> None:
        self._index = INDEX[spec["call"]]
        width = spec["head_dim"]
        # Each frequency belongs to one stream: M-RoPE shares them out in contiguous sections.
        sections: Sequence[int] = spec["sections"] or [width // 2]
        self.streams = len(sections)
        self._stream_R = torch.repeat_interleave(torch.arange(self.streams), torch.tensor(sections))
        self._angle_R = spec["theta"] ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)

    def index(self, length: int, places: Places) -> tuple[Tensor, int]:
        """[S, T] the index of each token in each stream, and `delta`: the token at place t >= T of
        the same sequence has index t + delta in all streams."""
        return self._index(length, places)

    def tables(self, position_SBT: Tensor) -> tuple[Tensor, Tensor]:
        """Cosine and sine, [B, T, D] in float32."""
        angle_BTR = position_SBT[self._stream_R].movedim(0, -1) * self._angle_R
        angle_BTD = torch.cat((angle_BTR, angle_BTR), dim=-1)
        return angle_BTD.cos(), angle_BTD.sin()

"""Where patches and tokens stand: segment ids, indices, and the rotary tables made of them.

Shape suffixes: N patches, T tokens, B batch, S streams of positions, D head width, R frequencies
(half of D), A axes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache, partial
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


def _dynamic(given: Mapping[str, Any], theta: float, width: int, length: int) -> Tensor:
    """The base grows with what a sequence is longer than `from` (InternLM2)."""
    factor, longer = given["factor"], max(length / given["from"], 1.0)
    return frequencies(_grown(theta, factor * longer - (factor - 1), width), width)


def _ntk(given: Mapping[str, Any], theta: float, width: int, length: int) -> Tensor:
    """The base grows in steps, at each doubling of the length (Qwen)."""
    alpha = max(2 ** math.ceil(math.log2(length / given["from"]) + 1) - 1, 1)
    return frequencies(_grown(theta, alpha, width), width)


def _su(given: Mapping[str, Any], theta: float, width: int, length: int) -> Tensor:
    """Each frequency has its own divisor, and another one in long sequences (Phi-3)."""
    factors = given["long" if length > given["from"] else "short"]
    return frequencies(theta, width) / torch.tensor(factors)


def _grown(theta: float, by: float, width: int) -> float:
    """A base with which the slowest pair turns slower by a factor, and the fastest as before."""
    return theta * by ** (width / max(width - 2, 1))


def frequencies(theta: float, width: int) -> Tensor:
    """[R] by how much each pair of a head turns from one place to the next."""
    return theta ** -(torch.arange(0, width, 2, dtype=torch.float32) / width)


SCALINGS: Mapping[str, Callable[[Mapping[str, Any], float, int, int], Tensor]] = MappingProxyType(
    {"dynamic": _dynamic, "ntk": _ntk, "su": _su}
)
"""The frequencies of a head in a sequence of some length, by the name of the rule."""

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
        self._angle_R = frequencies(spec["theta"], width)
        self._scaling: Mapping[str, Any] = spec.get("scaling") or {}
        self._scaled = lru_cache(maxsize=4096)(partial(self._frequencies, spec["theta"], width))
        self._scale: Mapping[str, Any] = spec.get("query_scale") or {}
        self._amplitude = 1.0
        if self._scaling.get("call") == "su":
            before, to = self._scaling["from"], self._scaling["to"]
            self._amplitude = math.sqrt(1 + max(0.0, math.log(to / before)) / math.log(before))

    def index(self, length: int, places: Places) -> tuple[Tensor, int]:
        """[S, T] the index of each token in each stream, and `delta`: the token at place t >= T of
        the same sequence has index t + delta in all streams."""
        return self._index(length, places)

    def tables(
        self, position_SBT: Tensor, length_BT: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Cosine and sine, [B, T, D] in float32.

        Where frequencies are scaled, `length` is that of the sequence of each token.
        """
        angle_BTR = position_SBT[self._stream_R].movedim(0, -1) * self._turns(length_BT)
        angle_BTD = torch.cat((angle_BTR, angle_BTR), dim=-1)
        cos_BTD, sin_BTD = angle_BTD.cos(), angle_BTD.sin()
        if self._amplitude == 1:
            return cos_BTD, sin_BTD
        return cos_BTD * self._amplitude, sin_BTD * self._amplitude

    def length(self, prompt_B: Tensor, now_B: Tensor) -> Tensor:
        """The length that scales the next token's frequencies: `now`, or for ever the prompt's."""
        return prompt_B if self._scaling.get("call") == "ntk" else now_B

    def query_scale(self, place_BT: Tensor) -> Tensor | None:
        """What the query at each place is multiplied by, [B, T] in float32; None where by one."""
        if not self._scale:
            return None
        before = self._scale["from"]
        scale_BT = (place_BT + 1).clamp(min=before).double().log() / math.log(before)
        return scale_BT.float()

    def _turns(self, length_BT: Tensor | None) -> Tensor:
        """The frequencies, [R], or those of each token, [B, T, R]."""
        if not self._scaling:
            return self._angle_R
        assert length_BT is not None, "scaled frequencies depend on the length"
        lengths_U, which_BT = length_BT.unique(return_inverse=True)
        return torch.stack([self._scaled(length) for length in lengths_U.tolist()])[which_BT]

    def _frequencies(self, theta: float, width: int, length: int) -> Tensor:
        return SCALINGS[self._scaling["call"]](self._scaling, theta, width, length)

"""Pictures -> rows of patches, as the published processors make them.

RGB, bicubic resize of the 8-bit picture by Pillow, then scale, mean and deviation in float32, then
the packed order: frame slot, window row, window column, row and column inside the window; in a row:
channel, frame, patch row, patch column (transformers `image_processing_qwen2_vl.py`). With windows
of one patch that is the raster order, which towers with learned positions take.

Shape suffixes: M media, F frames, H W rows and columns, C channels, N patches, P numbers of a row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from .sizes import Crop, Grid, Letterbox, Padded, SizeRule, Tiles, grid_of

Frames = NDArray[np.uint8]
"""[F, H, W, C] pictures of one size, red, green and blue, from 0 to 255."""


def rgb(picture: Image.Image, alpha: Literal["drop", "white"]) -> Image.Image:
    """The picture in red, green and blue; transparency is left out, or blended onto white."""
    if alpha == "white" and (
        picture.mode in ("RGBA", "LA", "PA") or "transparency" in picture.info
    ):
        seen = picture.convert("RGBA")
        ground = Image.new("RGBA", seen.size, "white")
        return Image.alpha_composite(ground, seen).convert("RGB")
    return picture.convert("RGB")


def cut(picture: Image.Image, rule: SizeRule, size: tuple[int, int]) -> Frames:
    """What a rule makes of a picture: one of another size (width, height), or several.

    The size is the rule's own, for a picture or for a frame of a clip.
    """
    width, height = picture.size
    match rule:
        case Letterbox():
            inner = _bicubic(picture, rule.inner(width, height))
            seen = [_placed(inner, rule.offset(width, height), rule.side, rule.pad)]
        case Padded():
            square = _placed(picture, rule.offset(width, height), max(width, height), rule.pad)
            seen = [_bicubic(square, size)]
        case Crop():
            left, top = rule.offset(width, height)
            box = (left, top, left + rule.side, top + rule.side)
            seen = [_bicubic(picture, rule.inner(width, height)).crop(box)]
        case Tiles():
            seen = _tiles(picture, rule)
        case _:
            seen = [_bicubic(picture, size)]
    return np.stack([np.asarray(one) for one in seen])


def _tiles(picture: Image.Image, rule: Tiles) -> list[Image.Image]:
    """The tiles row by row, then the thumbnail."""
    side, (columns, rows) = rule.side, rule.tiling(*picture.size)
    whole = _bicubic(picture, (side * columns, side * rows))
    tiles = [
        whole.crop((left, top, left + side, top + side))
        for top in range(0, whole.height, side)
        for left in range(0, whole.width, side)
    ]
    if rule.thumbnail and len(tiles) > 1:
        tiles.append(_bicubic(picture, (side, side)))
    return tiles


def _placed(
    picture: Image.Image, offset: tuple[int, int], side: int, pad: tuple[int, int, int]
) -> Image.Image:
    """A picture on a square of one colour."""
    square = Image.new("RGB", (side, side), pad)
    square.paste(picture, offset)
    return square


def _bicubic(picture: Image.Image, size: tuple[int, int]) -> Image.Image:
    return picture.resize(size, Image.Resampling.BICUBIC)


class Packer:
    """Turns resized frames into the rows that a tower takes.

    `patch` is in pixels; `per_slot` frames share a slot, of which `row_frames` stand in one row:
    all, or 1 where the program folds its kernel over the equal frames of a still picture. `mean`
    and `std` are those of each channel, on the scale from 0 to 1. `side` is that of a square which
    the scaled pictures are resized to once more, bilinear and antialiased, before they are
    normalised: a second tower's view of the same pixels (DeepSeek-VL, `HybridVisionTower`).
    """

    def __init__(
        self,
        patch: int,
        mean: Sequence[float],
        std: Sequence[float],
        *,
        per_slot: int = 1,
        row_frames: int = 1,
        window: tuple[int, int] = (1, 1),
        side: int | None = None,
    ) -> None:
        assert row_frames in (1, per_slot)
        self.patch, self.per_slot, self.row_frames = patch, per_slot, row_frames
        self.window, self.side = window, side
        # Every value that a pixel can have, scaled as numpy does it for the published processor:
        # the product in float64, rounded to float32, the rest in float32.
        self._scaled_256 = (np.arange(256) * (1 / 255)).astype(np.float32)
        self._mean_C, self._std_C = (np.asarray(x, dtype=np.float32) for x in (mean, std))
        self._values = [*(self._scaled_256 - self._mean_C[:, None]) / self._std_C[:, None]]

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return len(self._values) * self.row_frames * self.patch**2

    def grid(self, frames: Frames) -> Grid:
        """How a medium is cut."""
        count, height, width, _ = frames.shape
        side = self.side
        size = (width, height) if side is None else (side, side)
        return grid_of(size, self.patch, math.ceil(count / self.per_slot))

    def pack(self, media: Sequence[Frames]) -> Tensor:
        """[N, P] in float32 for pictures and clips, one after another."""
        alike = (list(group) for _, group in groupby(media, key=lambda frames: frames.shape))
        return torch.from_numpy(np.concatenate([self._packed(np.stack(group)) for group in alike]))

    def _packed(self, frames_MFHWC: Frames) -> NDArray[np.float32]:
        """The rows of media of one size; the last frame of each is repeated to fill a slot."""
        if self.side is not None:
            return self._cut(self._resized(frames_MFHWC, self.side)).reshape(-1, self.width)
        bytes_NCP = self._cut(frames_MFHWC)
        rows_NCP = np.empty(bytes_NCP.shape, np.float32)
        for channel, values_256 in enumerate(self._values):
            values_256.take(bytes_NCP[:, channel], out=rows_NCP[:, channel])
        return rows_NCP.reshape(-1, self.width)

    def _resized(self, frames_MFHWC: Frames, side: int) -> NDArray[np.float32]:
        """Normalised pixels of another size."""
        scaled_NHWC = torch.from_numpy(self._scaled_256.take(frames_MFHWC)).flatten(0, 1)
        resized_NCHW = functional.interpolate(
            scaled_NHWC.permute(0, 3, 1, 2), (side, side), mode="bilinear", antialias=True
        )
        values_NHWC = (resized_NCHW.permute(0, 2, 3, 1).numpy() - self._mean_C) / self._std_C
        return values_NHWC.reshape(*frames_MFHWC.shape[:2], *values_NHWC.shape[1:])

    def _cut(self, frames_MFHWC: NDArray[Any]) -> NDArray[Any]:
        """Patches in packed order: [N, C, frames and pixels of a row]."""
        _, frames, height, width, channels = frames_MFHWC.shape
        per_slot = self.per_slot
        if self.row_frames < per_slot:
            assert frames == 1, "only a still picture may be folded"
            per_slot = 1
        if missing := -frames % per_slot:
            tail = frames_MFHWC[:, -1:].repeat(missing, axis=1)
            frames_MFHWC = np.concatenate([frames_MFHWC, tail], axis=1)
        patch, (rows, columns) = self.patch, self.window
        cut = frames_MFHWC.reshape(
            -1,
            per_slot,
            height // patch // rows,
            rows,
            patch,
            width // patch // columns,
            columns,
            patch,
            channels,
        )
        # medium and slot, window row, window column, row, column
        # | channel, frame, patch row, patch column
        return cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, channels, per_slot * patch**2)

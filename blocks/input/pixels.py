"""Pictures -> rows of patches, as the published Qwen2-VL processor makes them.

RGB, bicubic resize of the 8-bit picture by Pillow, then scale, mean and deviation in float32, then
the packed order: frame slot, window row, window column, row and column inside the window; in a row:
channel, frame, patch row, patch column (transformers `image_processing_qwen2_vl.py`).

Shape suffixes: M media, F frames, H W rows and columns, C channels, N patches, P numbers of a row.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import groupby
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from .sizes import SizeRule

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


def resized(pictures: Sequence[Image.Image], size: tuple[int, int]) -> Frames:
    """Pictures brought to one size (width, height) by Pillow's bicubic filter."""
    return np.stack(
        [np.asarray(picture.resize(size, Image.Resampling.BICUBIC)) for picture in pictures]
    )


class Packer:
    """Turns resized frames into the rows that a tower takes.

    `row_frames` frames stand in one row: those of the rule's `frames_per_patch`, or 1 where the
    program folds its kernel over the equal frames of a still picture. `mean` and `std` are those of
    each channel, on the scale from 0 to 1.
    """

    def __init__(
        self, rule: SizeRule, row_frames: int, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        assert row_frames in (1, rule.frames_per_patch)
        self.rule = rule
        self.row_frames = row_frames
        # Every value that a pixel can have, scaled as numpy does it for the published processor:
        # the product in float64, rounded to float32, the rest in float32.
        scaled_256 = (np.arange(256) * (1 / 255)).astype(np.float32)
        mean_C1, std_C1 = (np.asarray(x, dtype=np.float32)[:, None] for x in (mean, std))
        self._values = [*(scaled_256 - mean_C1) / std_C1]

    @property
    def width(self) -> int:
        """Numbers in a row."""
        return len(self._values) * self.row_frames * self.rule.patch**2

    def pack(self, media: Sequence[Frames]) -> Tensor:
        """[N, P] in float32 for pictures and clips, one after another."""
        alike = (list(group) for _, group in groupby(media, key=lambda frames: frames.shape))
        return torch.from_numpy(np.concatenate([self._packed(np.stack(group)) for group in alike]))

    def _packed(self, frames_MFHWC: Frames) -> NDArray[np.float32]:
        """The rows of media of one size; the last frame of each is repeated to fill a slot."""
        _, frames, height, width, channels = frames_MFHWC.shape
        per_slot = self.rule.frames_per_patch
        if self.row_frames < per_slot:
            assert frames == 1, "only a still picture may be folded"
            per_slot = 1
        if missing := -frames % per_slot:
            tail = frames_MFHWC[:, -1:].repeat(missing, axis=1)
            frames_MFHWC = np.concatenate([frames_MFHWC, tail], axis=1)
        patch, (rows, columns) = self.rule.patch, self.rule.window
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
        bytes_NCP = cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(
            -1, channels, per_slot * patch**2
        )
        rows_NCP = np.empty(bytes_NCP.shape, np.float32)
        for channel, values_256 in enumerate(self._values):
            values_256.take(bytes_NCP[:, channel], out=rows_NCP[:, channel])
        return rows_NCP.reshape(-1, self.width)

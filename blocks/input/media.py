"""One visual input of a model: from files and pictures to the tensors of its tower.

Shape suffixes: F frames, H W rows and columns, C channels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .pixels import Packer, resized, rgb
from .positions import patch_tables, segment_ids
from .sample import Attachment, Pool, Region, Seen
from .sizes import Grid, SizeRule
from .video import Clip, read_clip


class MediaError(ValueError):
    """A picture or clip cannot be used."""


class MediaInput:
    """The rules of one input, from the plain JSON of a feed spec."""

    def __init__(self, name: str, spec: Mapping[str, Any], vision: Mapping[str, Any]) -> None:
        """`vision` holds head_dim and theta of the tower's rotary positions."""
        self.name = name
        self.kind: str = spec["kind"]
        self.rule = SizeRule.from_json(spec["size"])
        self._alpha = spec["alpha"]
        self._vision = vision
        row_frames = 1 if spec["folded"] else self.rule.frames_per_patch
        self._packer = Packer(self.rule, row_frames, spec["mean"], spec["std"])

    def see(self, attachment: Attachment) -> Seen:
        """Read and resize a picture or clip; ValueError says why it cannot be used."""
        if self.kind == "video":
            return self._clip(attachment.content)
        content = attachment.content
        if isinstance(content, Path):
            content = _open(content)
        if not isinstance(content, Image.Image):
            raise MediaError(f"`{self.name}` takes pictures, not clips")
        grid = self.rule.image_grid(*content.size)
        frames_FHWC = resized([rgb(content, self._alpha)], self._pixels(grid))
        return Seen(self.name, frames_FHWC, grid, content.size)

    def tokens(self, seen: Seen) -> int:
        """The places that a medium takes in the language model."""
        return self.rule.tokens(seen.grid)

    def feed(self, media: Sequence[Seen]) -> dict[str, Tensor]:
        """The inputs of the tower: `NAME.patches`, `.segment_id`, `.cos` and `.sin`.

        Without media, one empty window: its row of features exists, and no place asks for it.
        """
        media = media or [self._empty()]
        grids = [seen.grid for seen in media]
        cos_ND, sin_ND = patch_tables(
            grids, self.rule.window, self._vision["theta"], self._vision["head_dim"]
        )
        return {
            f"{self.name}.patches": self._packer.pack([seen.frames for seen in media]),
            f"{self.name}.segment_id": segment_ids(grids),
            f"{self.name}.cos": cos_ND,
            f"{self.name}.sin": sin_ND,
        }

    def pool(self, region: Region, seen: Seen) -> Pool:
        """The share of each token of a picture in a region; MediaError when it lies outside."""
        width, height = seen.size
        left, top, right, bottom = region.box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise MediaError(
                f"the region {region.label!r} at {list(region.box)} is not inside its picture of "
                f"{width} x {height} pixels"
            )
        merged = seen.grid.merged(self.rule.window)
        across = _shares(left / width, right / width, merged.columns)
        down = _shares(top / height, bottom / height, merged.rows)
        return Pool(np.outer(down, across).ravel().astype(np.float32), region.label)

    def _clip(self, content: Path | Image.Image | Clip) -> Seen:
        assert self.rule.clip
        if isinstance(content, Path):
            content = read_clip(content, self.rule.clip)
        if not isinstance(content, Clip):
            raise MediaError(f"`{self.name}` takes clips, not pictures")
        size = content.frames[0].size
        grid = self.rule.clip_grid(*size, len(content.frames))
        pictures = [rgb(frame, self._alpha) for frame in content.frames]
        return Seen(self.name, resized(pictures, self._pixels(grid)), grid, size)

    def _pixels(self, grid: Grid) -> tuple[int, int]:
        return grid.columns * self.rule.patch, grid.rows * self.rule.patch

    def _empty(self) -> Seen:
        rows, columns = self.rule.window
        grid = Grid(1, rows, columns)
        width, height = self._pixels(grid)
        return Seen(self.name, np.zeros((1, height, width, 3), np.uint8), grid, (width, height))


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture
    except FileNotFoundError as problem:
        raise MediaError(f"there is no picture {file}") from problem
    except (UnidentifiedImageError, OSError, SyntaxError) as problem:
        raise MediaError(f"{file.name} cannot be read as a picture: {problem}") from problem


def _shares(begin: float, end: float, cells: int) -> list[float]:
    """What each of `cells` equal parts of the unit interval has in the stretch of two points."""
    return [
        max(0.0, min(end, (cell + 1) / cells) - max(begin, cell / cells)) / (end - begin)
        for cell in range(cells)
    ]

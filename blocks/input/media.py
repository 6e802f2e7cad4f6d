"""One visual input of a model: from files and pictures to the tensors of its towers.

Shape suffixes: F frames, H W rows and columns, C channels.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from .pixels import Frames, Packer, cut, rgb
from .positions import patch_tables, segment_ids
from .sample import Attachment, Pool, Region, Seen
from .sizes import ClipRule, Grid, Native, SizeRule
from .video import Clip, read_clip

Change: TypeAlias = Callable[[Image.Image], Image.Image]
"""What becomes of a picture before it is resized."""


class MediaError(ValueError):
    """A picture or clip cannot be used."""


class View:
    """What one tower sees of an input: patches in packed rows, or the same number of each picture.

    `still` says that every frame is a picture of its own.
    """

    def __init__(self, name: str, spec: Mapping[str, Any], *, still: bool) -> None:
        self.name = name
        self.dense: bool = spec["dense"]
        self._split = still or self.dense
        self._rotary: Mapping[str, Any] | None = spec["rotary"]
        self._window: tuple[int, int] = tuple(spec["window"])
        per_slot = spec["frames_per_patch"]
        self._packer = Packer(
            spec["patch"],
            spec["mean"],
            spec["std"],
            per_slot=per_slot,
            row_frames=1 if spec["folded"] else per_slot,
            window=self._window,
            side=spec["resize"],
        )

    def grid(self, frames: Frames) -> Grid:
        """How a medium is cut into patches."""
        grid = self._packer.grid(frames[:1] if self._split else frames)
        return grid._replace(slots=len(frames)) if self._split else grid

    def runs(self, frames: Frames) -> list[int]:
        """How many rows each picture or frame slot has, which are never cut apart."""
        if self.dense:
            return [1] * len(frames)
        grid = self.grid(frames)
        return [grid.rows * grid.columns] * grid.slots

    def feed(self, media: Sequence[Frames]) -> dict[str, Tensor]:
        """The inputs of the tower: `NAME.patches`, and what packed rows need to be told apart."""
        if self._split:
            media = [frame[None] for frames in media for frame in frames]
        patches_NP = self._packer.pack(media)
        if self.dense:
            return {f"{self.name}.patches": patches_NP.unflatten(0, (len(media), -1))}
        grids = [self.grid(frames) for frames in media]
        tensors = {
            f"{self.name}.patches": patches_NP,
            f"{self.name}.segment_id": segment_ids(grids),
        }
        if self._rotary is None:
            return tensors
        cos_ND, sin_ND = patch_tables(
            grids, self._window, self._rotary["theta"], self._rotary["head_dim"]
        )
        return tensors | {f"{self.name}.cos": cos_ND, f"{self.name}.sin": sin_ND}


class MediaInput:
    """The rules of one input, from the plain JSON of a feed spec."""

    def __init__(self, name: str, spec: Mapping[str, Any]) -> None:
        self.name = name
        self.kind: str = spec["kind"]
        self.rule = SizeRule.from_json(spec["size"])
        self._sampling = ClipRule(**spec["clip"]) if self.kind == "video" else None
        self.ends: Mapping[str, Mapping[str, Any]] = spec["ends"]
        self._alpha = spec["alpha"]
        still = self.kind == "image"
        self._views = [View(view, given, still=still) for view, given in spec["views"].items()]

    def see(
        self,
        attachment: Attachment,
        change: Change | None = None,
    ) -> Seen:
        """Read and resize a picture or clip; ValueError says why it cannot be used.

        `change` is what becomes of a picture before it is resized: a crop by chance, say.
        """
        if self._sampling is not None:
            return self._clip(attachment.content, self._sampling)
        content = attachment.content
        if isinstance(content, Path):
            content = _open(content)
        if not isinstance(content, Image.Image):
            raise MediaError(f"`{self.name}` takes pictures, not clips")
        picture = rgb(content, self._alpha)
        if change is not None:
            picture = change(picture)
        return Seen(self.name, cut(picture, self.rule, self.rule.size(*picture.size)), picture.size)

    def grid(self, seen: Seen) -> Grid:
        """How a medium is cut into the patches of the first tower that sees it."""
        return self._views[0].grid(seen.frames)

    def runs(self, seen: Seen) -> dict[str, list[int]]:
        """The rows of a medium in each view, picture by picture or slot by slot."""
        return {view.name: view.runs(seen.frames) for view in self._views}

    def tokens(self, seen: Seen) -> dict[str, int]:
        """The places that a medium takes in the language model, by the part that fills them."""
        return {part: self.places(seen, part).patches for part in self.ends}

    def places(self, seen: Seen, part: str) -> Grid:
        """How the tokens of a part lie in a medium; in one row where they do not lie in it."""
        end = self.ends[part]
        if end["tokens"] is None:
            return self._packed.grid(seen.frames).merged(tuple(end["window"]))
        pictures = len(seen.frames)
        if end["grid"] is None:
            return Grid(1, 1, pictures * end["tokens"])
        return Grid(pictures, *end["grid"])

    def reads(self, part: str) -> bool:
        """Whether a part sees what is asked too, and makes other features for each question."""
        return bool(self.ends[part].get("reads"))

    def empty(self) -> Seen:
        """What is fed where nothing is shown: its features exist, and no place asks for them."""
        side = self.rule.multiple if isinstance(self.rule, Native) else self.rule.size(1, 1)[0]
        return Seen(self.name, np.zeros((1, side, side, 3), np.uint8), (side, side))

    def feed(self, media: Sequence[Seen]) -> dict[str, Tensor]:
        """The inputs of the towers: `VIEW.patches`; of packed views `.segment_id`, `.cos`, `.sin`.

        Without media, an empty picture.
        """
        frames = [seen.frames for seen in media or [self.empty()]]
        return {name: x for view in self._views for name, x in view.feed(frames).items()}

    def pool(self, region: Region, seen: Seen) -> Pool:
        """The share of each token of a picture in a region; MediaError when it lies outside.

        The tokens are those of the first part.
        """
        width, height = seen.size
        left, top, right, bottom = region.box
        if not (0 <= left < right <= width and 0 <= top < bottom <= height):
            raise MediaError(
                f"the region {region.label!r} at {list(region.box)} is not inside its picture of "
                f"{width} x {height} pixels"
            )
        part, end = next(iter(self.ends.items()))
        frame, places = self.rule.framed(width, height), self.places(seen, part)
        if frame is None or (end["tokens"] is not None and end["grid"] is None):
            raise MediaError(f"the tokens of `{part}` do not lie in the picture as regions do")
        across = _shares(left / width, right / width, frame[0::2], places.columns)
        down = _shares(top / height, bottom / height, frame[1::2], places.rows)
        if not (any(across) and any(down)):
            raise MediaError(
                f"nothing is seen of the region {region.label!r} at {list(region.box)}"
            )
        return Pool(np.outer(down, across).ravel().astype(np.float32), region.label)

    @property
    def _packed(self) -> View:
        return next(view for view in self._views if not view.dense)

    def _clip(self, content: Path | Image.Image | Clip, sampling: ClipRule) -> Seen:
        if isinstance(content, Path):
            content = read_clip(content, sampling)
        if not isinstance(content, Clip):
            raise MediaError(f"`{self.name}` takes clips, not pictures")
        width, height = content.frames[0].size
        size = self.rule.resized_frame(width, height, len(content.frames))
        frames = [cut(rgb(frame, self._alpha), self.rule, size) for frame in content.frames]
        return Seen(self.name, np.concatenate(frames), (width, height))


def _open(file: Path) -> Image.Image:
    try:
        with Image.open(file) as picture:
            picture.load()
            return picture
    except FileNotFoundError as problem:
        raise MediaError(f"there is no picture {file}") from problem
    except (UnidentifiedImageError, OSError, SyntaxError) as problem:
        raise MediaError(f"{file.name} cannot be read as a picture: {problem}") from problem


def _shares(begin: float, end: float, frame: tuple[float, ...], cells: int) -> list[float]:
    """What each of `cells` equal parts of the unit interval has in the stretch of two points.

    The points are shares of a picture whose own ends lie at the points of `frame`.
    """
    first, last = frame
    begin, end = (min(max(first + x * (last - first), 0.0), 1.0) for x in (begin, end))
    length = end - begin or 1.0
    return [
        max(0.0, min(end, (cell + 1) / cells) - max(begin, cell / cells)) / length
        for cell in range(cells)
    ]

"""What stands between a dialogue and a batch: turns as they are said, samples as they are fed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from .places import Place
from .video import Clip

if TYPE_CHECKING:  # pixels are resized by torch, which those who only read do without
    from .pixels import Frames


@dataclass(frozen=True, slots=True)
class Attachment:
    """A picture or clip in a turn: the input that it goes to, and the file or what was read."""

    input: str
    content: Path | Image.Image | Clip


@dataclass(frozen=True, slots=True)
class Turn:
    """What one party says, or one whole sample: text, pictures, clips and places in pictures, in
    reading order."""

    role: str
    parts: tuple[str | Attachment | Place, ...]


@dataclass(frozen=True, slots=True)
class Region:
    """A named part of a sample's one picture: left, top, right, bottom in pixels of the file."""

    box: tuple[float, float, float, float]
    label: str


@dataclass(frozen=True, slots=True)
class Seen:
    """A medium of a sample: what is seen of it, and the places of its features.

    `frames` are those of a clip, or the tiles of a picture: mostly one. `size` is the width and
    height that it came with; `starts` holds, for each part of the model, the first token in the
    sample of each run of its features: a layout may show the same features again.
    """

    input: str
    frames: Frames
    size: tuple[int, int]
    starts: Mapping[str, Sequence[int]] = field(default_factory=dict)
    questions: tuple[NDArray[np.int64], ...] = ()
    """What is asked while it is seen, in the tokens of the part that reads it: for each run of
    that part's features, one."""


@dataclass(frozen=True, slots=True)
class Pool:
    """A region as shares of its picture's tokens, which add up to 1."""

    shares: NDArray[np.float32]
    label: str


@dataclass(frozen=True, slots=True)
class Sample:
    """One dialogue in tokens, its media resized but not yet packed.

    `supervised` says of each token whether it is a target: the logits one place earlier score it.
    `regions` belong to the first medium; `kind` names the samples that may share a row with it.
    """

    ids: NDArray[np.int64]
    supervised: NDArray[np.bool_]
    media: tuple[Seen, ...] = ()
    regions: tuple[Pool, ...] = ()
    kind: str = ""

    @property
    def length(self) -> int:
        """Tokens, features included."""
        return len(self.ids)

    @property
    def targets(self) -> int:
        """How many tokens are scored."""
        return int(self.supervised[1:].sum())

    def shortened(self, most: int) -> Sample:
        """The same text with no more tokens than this, of which the last one is kept."""
        if self.length <= most:
            return self
        kept = np.r_[0 : most - 1, self.length - 1]
        return replace(self, ids=self.ids[kept], supervised=self.supervised[kept])

    @property
    def nbytes(self) -> int:
        """The memory that it takes, in bytes."""
        arrays = [seen.frames.nbytes for seen in self.media]
        arrays += [pool.shares.nbytes for pool in self.regions]
        return self.ids.nbytes + self.supervised.nbytes + sum(arrays)

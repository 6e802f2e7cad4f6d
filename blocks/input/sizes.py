"""How large a picture or a clip becomes, and how many tokens it takes: whole numbers, no torch.

The rules are those of Qwen2-VL: for pictures `smart_resize` of transformers 5.x
(`image_processing_pil_qwen2_vl.py`), for clips `smart_nframes` and `fetch_video` of qwen-vl-utils
0.0.8 (`vision_process.py`).
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple


class SizeError(ValueError):
    """A picture or a clip lies outside what the recipe admits."""


class Grid(NamedTuple):
    """A picture or clip cut into patches: frame slots, rows and columns."""

    slots: int
    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """How many rows the tower sees."""
        return self.slots * self.rows * self.columns

    def merged(self, window: tuple[int, int]) -> "Grid":
        """The same grid after every `window` of rows and columns became one token."""
        return Grid(self.slots, self.rows // window[0], self.columns // window[1])


@dataclass(frozen=True, slots=True)
class ClipRule:
    """Which frames of a clip are seen, and what all of them together may take.

    `rate` is in frames a second; the number of frames lies within `least` and `most` and is a
    multiple of `step`. `cap` bounds the tokens of the whole clip (None for no bound), but never
    presses one frame below `slack` times its least budget.
    """

    rate: float
    least: int
    most: int
    step: int
    cap: int | None = None
    slack: float = 1.0

    def sampled(self, frames: int, rate: float) -> int:
        """How many of `frames`, recorded at `rate` frames a second, are seen.

        >>> ClipRule(rate=2, least=4, most=768, step=2).sampled(frames=250, rate=25)
        20
        """
        most = min(self.most, frames) // self.step * self.step
        if most == 0:
            raise SizeError(f"a clip of {frames} frames is too short: {self.step} are needed")
        least = math.ceil(self.least / self.step) * self.step
        wanted = min(max(frames / rate * self.rate, least), most)
        return round(wanted / self.step) * self.step


@dataclass(frozen=True, slots=True)
class SizeRule:
    """The geometry of one input: what a size becomes, and how many patches and tokens that is.

    Sides become multiples of `multiple` pixels, near their own size, so that the tokens (squares of
    `multiple` by `multiple`) of one picture or frame lie within `least` and `most`. `patch` is in
    pixels, `frames_per_patch` frames share one slot, `window` (rows, columns) of patches make one
    token. `aspect` bounds the longer side over the shorter.
    """

    multiple: int
    least: int
    most: int
    patch: int
    frames_per_patch: int = 1
    window: tuple[int, int] = (1, 1)
    aspect: float | None = None
    clip: ClipRule | None = None

    @classmethod
    def from_json(cls, spec: Mapping[str, Any]) -> "SizeRule":
        """The rule that `to_json` wrote."""
        clip = spec["clip"]
        return cls(
            **{
                **spec,
                "window": tuple(spec["window"]),
                "clip": None if clip is None else ClipRule(**clip),
            }
        )

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {**asdict(self), "window": list(self.window)}

    def resized(self, width: int, height: int) -> tuple[int, int]:
        """Width and height, in pixels, that a picture of `width` by `height` is resized to.

        >>> SizeRule(multiple=28, least=4, most=16384, patch=14).resized(640, 480)
        (644, 476)
        """
        return self._fit(width, height, self.least * self._area, self.most * self._area)

    def resized_frame(self, width: int, height: int, frames: int) -> tuple[int, int]:
        """Width and height that each of the `frames` seen of a clip is resized to."""
        most: float = self.most * self._area
        if self.clip is not None and self.clip.cap is not None:
            share = self.clip.cap * self._area / frames * self.frames_per_patch
            floor = int(self.least * self._area * self.clip.slack)
            most = max(min(most, share), floor)
        return self._fit(width, height, self.least * self._area, most)

    def image_grid(self, width: int, height: int) -> Grid:
        """The patches of a picture of `width` by `height` pixels: always one slot.

        >>> SizeRule(multiple=28, least=4, most=16384, patch=14).image_grid(224, 224)
        Grid(slots=1, rows=16, columns=16)
        """
        return self._grid(1, self.resized(width, height))

    def clip_grid(self, width: int, height: int, frames: int) -> Grid:
        """The patches of a clip of which `frames` are seen; the last is repeated to fill a slot."""
        slots = math.ceil(frames / self.frames_per_patch)
        return self._grid(slots, self.resized_frame(width, height, frames))

    def tokens(self, grid: Grid) -> int:
        """The places that a grid takes in the language model."""
        return grid.merged(self.window).patches

    @property
    def _area(self) -> int:
        return self.multiple * self.multiple

    def _grid(self, slots: int, size: tuple[int, int]) -> Grid:
        width, height = size
        return Grid(slots, height // self.patch, width // self.patch)

    def _fit(self, width: int, height: int, least: float, most: float) -> tuple[int, int]:
        if min(width, height) < 1:
            raise SizeError(f"a picture of {width} x {height} pixels is empty")
        if self.aspect is not None and max(width, height) > self.aspect * min(width, height):
            raise SizeError(
                f"a picture of {width} x {height} pixels is too thin: "
                f"its longer side may be at most {self.aspect:g} times the shorter"
            )
        sides = (width, height)
        fitted = [round(side / self.multiple) * self.multiple for side in sides]  # halves to even
        if math.prod(fitted) > most:
            shrink = math.sqrt(width * height / most)
            fitted = [math.floor(side / shrink / self.multiple) * self.multiple for side in sides]
        elif math.prod(fitted) < least:
            grow = math.sqrt(least / (width * height))
            fitted = [math.ceil(side * grow / self.multiple) * self.multiple for side in sides]
        # A thin picture may have lost its shorter side to rounding: it keeps one token.
        return max(fitted[0], self.multiple), max(fitted[1], self.multiple)

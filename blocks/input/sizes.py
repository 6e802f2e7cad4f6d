"""How large a picture or a clip becomes, and into how many it is cut: whole numbers, no torch.

A rule says what becomes of the sides of a picture. `Native` keeps its shape, by the rules of
Qwen2-VL: for pictures `smart_resize` of transformers 5.x (`image_processing_pil_qwen2_vl.py`), for
clips `smart_nframes` and `fetch_video` of qwen-vl-utils 0.0.8 (`vision_process.py`). The others
make pictures of one size.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from functools import lru_cache
from typing import Any, ClassVar, NamedTuple, TypeAlias

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right and bottom."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)


class SizeError(ValueError):
    """A picture or a clip lies outside what the recipe admits."""


class Grid(NamedTuple):
    """A picture or clip cut into patches: frame slots (or pictures), rows and columns."""

    slots: int
    rows: int
    columns: int

    @property
    def patches(self) -> int:
        """How many rows the tower sees."""
        return self.slots * self.rows * self.columns

    def merged(self, window: tuple[int, int]) -> Grid:
        """The same grid after every `window` of rows and columns became one token."""
        return Grid(self.slots, self.rows // window[0], self.columns // window[1])


def grid_of(size: tuple[int, int], patch: int, slots: int = 1) -> Grid:
    """The patches of pictures of one size, width and height in pixels.

    >>> grid_of((224, 112), patch=14)
    Grid(slots=1, rows=8, columns=16)
    """
    width, height = size
    return Grid(slots, height // patch, width // patch)


@dataclass(frozen=True, slots=True)
class ClipRule:
    """Which frames of a clip are seen.

    `rate` is in frames a second; the number of frames lies within `least` and `most` and is a
    multiple of `step`.
    """

    rate: float
    least: int
    most: int
    step: int

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


class SizeRule(ABC):
    """The geometry of one input: what becomes of the size of a picture."""

    __slots__ = ()

    call: ClassVar[str]
    """The name of the rule in a recipe."""

    def pictures(self, width: int, height: int) -> int:
        """How many pictures one of `width` by `height` becomes."""
        return 1

    @abstractmethod
    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height, in pixels, of each of them; SizeError where it is not admitted."""

    def resized_frame(self, width: int, height: int, frames: int) -> tuple[int, int]:
        """Width and height of each of the `frames` seen of a clip."""
        return self.size(width, height)

    def framed(self, width: int, height: int) -> Box | None:
        """Where the picture's own edges lie in what is seen of it, as shares of the sides of that.

        None where it is seen in more than one piece.
        """
        return WHOLE

    def to_json(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        fields = asdict(self)  # type: ignore[call-overload]
        return {"call": self.call} | {
            name: list(value) if isinstance(value, tuple) else value
            for name, value in fields.items()
        }

    @staticmethod
    def from_json(spec: Mapping[str, Any]) -> SizeRule:
        """The rule that `to_json` wrote."""
        fields: dict[str, Any] = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in spec.items()
            if name != "call"
        }
        return RULES[spec["call"]](**fields)


@dataclass(frozen=True, slots=True)
class Native(SizeRule):
    """Keeps the shape: sides become multiples of `multiple` pixels, near their own size.

    The tokens (squares of `multiple` by `multiple`) of one picture or frame lie within `least` and
    `most`. `per_slot` frames of a clip share one slot; `cap` bounds the tokens of the whole clip
    (None for no bound), but never presses one frame below `slack` times `least`. `aspect` bounds
    the longer side over the shorter, here as in every rule.
    """

    call: ClassVar[str] = "native"

    multiple: int
    least: int
    most: int
    aspect: float | None = None
    per_slot: int = 1
    cap: int | None = None
    slack: float = 1.0

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height, in pixels, that a picture of `width` by `height` is resized to.

        >>> Native(multiple=28, least=4, most=16384).size(640, 480)
        (644, 476)
        """
        return self._fit(width, height, self.least * self._area, self.most * self._area)

    def resized_frame(self, width: int, height: int, frames: int) -> tuple[int, int]:
        """Width and height that each of the `frames` seen of a clip is resized to."""
        most: float = self.most * self._area
        if self.cap is not None:
            share = self.cap * self._area / frames * self.per_slot
            floor = int(self.least * self._area * self.slack)
            most = max(min(most, share), floor)
        return self._fit(width, height, self.least * self._area, most)

    @property
    def _area(self) -> int:
        return self.multiple * self.multiple

    def _fit(self, width: int, height: int, least: float, most: float) -> tuple[int, int]:
        admit(width, height, self.aspect)
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


class OneSize(SizeRule):
    """Makes squares of `side` pixels."""

    __slots__ = ()

    side: int
    aspect: float | None

    def size(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of what is seen."""
        admit(width, height, self.aspect)
        return self.side, self.side


@dataclass(frozen=True, slots=True)
class Square(OneSize):
    """A square of `side`, whatever the shape was."""

    call: ClassVar[str] = "square"

    side: int
    aspect: float | None = None


@dataclass(frozen=True, slots=True)
class Crop(OneSize):
    """The shorter side becomes `side`, and the square in the middle is kept.

    The numbers are those of torchvision's `Resize` and `CenterCrop`.
    """

    call: ClassVar[str] = "crop"

    side: int
    aspect: float | None = None

    def inner(self, width: int, height: int) -> tuple[int, int]:
        """Width and height before the crop.

        >>> Crop(28).inner(53, 37)
        (40, 28)
        """
        short = min(width, height)
        longer = int(self.side * max(width, height) / short)
        return (self.side, longer) if width == short else (longer, self.side)

    def offset(self, width: int, height: int) -> tuple[int, int]:
        """How far left and top of the resized picture lie outside the square."""
        inner = self.inner(width, height)
        return round((inner[0] - self.side) / 2), round((inner[1] - self.side) / 2)

    def framed(self, width: int, height: int) -> Box | None:
        """Where the whole picture lies in what is seen; it reaches beyond."""
        (wide, high), (left, top) = self.inner(width, height), self.offset(width, height)
        return _shares(-left, -top, wide, high, self.side)


@dataclass(frozen=True, slots=True)
class Letterbox(OneSize):
    """The longer side becomes `side`; the picture is centred on a square of the colour `pad`.

    Sides are cut off to whole pixels, none below `least` (`VLMImageProcessor` of DeepSeek-VL).
    """

    call: ClassVar[str] = "letterbox"

    side: int
    pad: tuple[int, int, int]
    least: int = 1
    aspect: float | None = None

    def inner(self, width: int, height: int) -> tuple[int, int]:
        """Width and height of the picture inside the square.

        >>> Letterbox(1024, (127, 127, 127), least=14).inner(640, 428)
        (1024, 684)
        """
        longer = max(width, height)
        # Divided first, then multiplied, in float64: another order cuts off other pixels.
        wide, high = (max(int(x / longer * self.side), self.least) for x in (width, height))
        return wide, high

    def offset(self, width: int, height: int) -> tuple[int, int]:
        """How far left and top of the picture are from those of the square."""
        wide, high = self.inner(width, height)
        return (self.side - wide) // 2, (self.side - high) // 2

    def framed(self, width: int, height: int) -> Box | None:
        """Where the whole picture lies in what is seen, as shares of its sides."""
        (wide, high), (left, top) = self.inner(width, height), self.offset(width, height)
        return _shares(left, top, wide, high, self.side)


@dataclass(frozen=True, slots=True)
class Padded(OneSize):
    """Centred on a square as large as its longer side, of the colour `pad`; that becomes `side`."""

    call: ClassVar[str] = "padded"

    side: int
    pad: tuple[int, int, int]
    aspect: float | None = None

    def offset(self, width: int, height: int) -> tuple[int, int]:
        """How far left and top of the picture are from those of the square, before the resize."""
        longer = max(width, height)
        return (longer - width) // 2, (longer - height) // 2

    def framed(self, width: int, height: int) -> Box | None:
        """Where the whole picture lies in what is seen, as shares of its sides."""
        left, top = self.offset(width, height)
        return _shares(left, top, width, height, max(width, height))


@dataclass(frozen=True, slots=True)
class Tiles(OneSize):
    """Cut into `low` to `high` square tiles of `side`, in the grid whose shape is the nearest.

    Several tiles are followed by the whole picture as one more, if `thumbnail` says so. The rule is
    `dynamic_preprocess` of InternVL 1.5 (`internvl/train/dataset.py`).
    """

    call: ClassVar[str] = "tiles"

    side: int
    low: int
    high: int
    thumbnail: bool = True
    aspect: float | None = None

    def pictures(self, width: int, height: int) -> int:
        """How many tiles there are, the thumbnail among them.

        >>> Tiles(448, 1, 12).pictures(800, 1300)
        7
        """
        tiles = math.prod(self.tiling(width, height))
        return tiles + (self.thumbnail and tiles > 1)

    def tiling(self, width: int, height: int) -> tuple[int, int]:
        """Columns and rows of the tiles.

        Of two shapes equally near the larger is taken where the picture fills half of it.

        >>> Tiles(448, 1, 12).tiling(633, 633), Tiles(448, 1, 12).tiling(634, 634)
        ((1, 1), (2, 2))
        """
        admit(width, height, self.aspect)
        best, nearest = (1, 1), math.inf
        for columns, rows in _tilings(self.low, self.high):
            distance = abs(width / height - columns / rows)
            if distance < nearest:
                best, nearest = (columns, rows), distance
            elif distance == nearest and width * height > 0.5 * self.side**2 * columns * rows:
                best = columns, rows
        return best

    def framed(self, width: int, height: int) -> Box | None:
        """None where the picture is cut."""
        return None if math.prod(self.tiling(width, height)) > 1 else WHOLE


RULES: Mapping[str, type[SizeRule]] = {
    rule.call: rule for rule in (Native, Square, Crop, Letterbox, Padded, Tiles)
}
"""Every rule, by the name of its call."""


def admit(width: int, height: int, aspect: float | None) -> None:
    """SizeError when a picture is empty, or its longer side is over `aspect` times the shorter."""
    if min(width, height) < 1:
        raise SizeError(f"a picture of {width} x {height} pixels is empty")
    if aspect is not None and max(width, height) > aspect * min(width, height):
        raise SizeError(
            f"a picture of {width} x {height} pixels is too thin: "
            f"its longer side may be at most {aspect:g} times the shorter"
        )


@lru_cache(maxsize=64)
def _tilings(low: int, high: int) -> tuple[tuple[int, int], ...]:
    """Columns and rows of all grids with `low` to `high` tiles, the smaller ones first.

    Where two grids of as many tiles are equally near, which happens for some `low` above 1, the
    published code goes by the order in which a set yields them. So this is a set too, and filled in
    the same order: grids with a side above `low` come by their longer side, after all others.
    """
    grids = {
        (columns, rows)
        for columns in range(1, low + 1)
        for rows in range(math.ceil(low / columns), min(low, high // columns) + 1)
    }
    for longer in range(low + 1, high + 1):
        shorter = range(1, min(longer, high // longer) + 1)
        grids.update((columns, longer) for columns in shorter if columns < longer)
        grids.update((longer, rows) for rows in shorter)
    return tuple(sorted(grids, key=math.prod))


def _shares(left: int, top: int, wide: int, high: int, side: int) -> Box:
    return left / side, top / side, (left + wide) / side, (top + high) / side

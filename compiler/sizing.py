"""What resizing does to sizes, as functions of the size algebra.

Each computes with the rule that the processor itself runs (`blocks.input.sizes`), so that a proof
and a run cannot differ; what is here of its own is how far the result can go.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from functools import lru_cache

from ..blocks.input.sizes import Native, Tiles
from .types import Bounds, Call, Function, Option, Size


def _fit(
    width: int, height: int, *, multiple: int, least: int, most: int, aspect: float = 0
) -> int:
    rule = Native(multiple, least, most, aspect=aspect or None)
    return math.prod(rule.size(width, height)) // multiple**2


def _fit_frame(
    width: int,
    height: int,
    frames: int,
    *,
    multiple: int,
    least: int,
    most: int,
    cap: int = 0,
    slack: float = 1.0,
    per: int = 1,
    aspect: float = 0,
) -> int:
    rule = Native(multiple, least, most, aspect or None, per, cap or None, slack)
    return math.prod(rule.resized_frame(width, height, frames)) // multiple**2


def _fit_bound(*_: Bounds, least: int, most: int, aspect: float = 0, **_rest: Option) -> Bounds:
    return Bounds(_fewest(least, most), _greatest(least, most, aspect))


def _fit_frame_bound(
    width: Bounds,
    height: Bounds,
    frames: Bounds,
    *,
    least: int,
    most: int,
    cap: int = 0,
    slack: float = 1.0,
    per: int = 1,
    aspect: float = 0,
    **_rest: Option,
) -> Bounds:
    """The longest clip leaves the least to a frame, the shortest the most."""

    def room(count: int | None) -> int:
        if not cap:
            return most
        share = cap if count == 0 else 0 if count is None else cap * per // count
        return max(min(most, share), math.floor(least * slack))

    tightest = room(frames.most)
    return Bounds(_fewest(least, tightest), _greatest(least, room(frames.least), aspect))


@lru_cache(maxsize=1024)
def _greatest(least: int, most: int, aspect: float) -> int | None:
    """The budget, unless a thin picture outgrows it; None when nothing bounds how thin one is.

    A picture that is shrunk keeps one row, however thin it is. One that is enlarged to `least`
    squares rounds both sides up: `rows` of them stand for any height above `rows - 1`.
    """
    if not aspect:
        return None
    shrunken = math.isqrt(math.ceil(aspect * most))
    thinnest = math.sqrt(least / aspect)
    enlarged = [
        rows * math.ceil(least / max(rows - 1, thinnest))
        for rows in range(1, math.isqrt(least) + 2)
    ]
    return max(most, shrunken, *enlarged)


def _fewest(least: int, most: int) -> int:
    """The least, unless a picture that is shrunk to `most` loses more than that by rounding down.

    Both sides lose less than half of themselves, since neither falls below one square.
    """
    return min(least, -(-most // 4))


def _tiles(
    width: int,
    height: int,
    *,
    low: int,
    high: int,
    side: int,
    thumbnail: int = 1,
    aspect: float = 0,
) -> int:
    rule = Tiles(side, low, high, bool(thumbnail), aspect or None)
    return rule.pictures(width, height)


def _tiles_bound(*_: Bounds, low: int, high: int, thumbnail: int = 1, **_rest: Option) -> Bounds:
    return Bounds(low + (thumbnail and low > 1), high + (thumbnail and high > 1))


FIT = Function("fit", _fit, _fit_bound)
FIT_FRAME = Function("fit_frame", _fit_frame, _fit_frame_bound)

TILES = Function("tiles", _tiles, _tiles_bound)

FUNCTIONS: Mapping[str, Function] = {
    function.name: function for function in (FIT, FIT_FRAME, TILES)
}
"""Every function that a size may call, by the name that its text uses."""


def fit(width: Size, height: Size, **options: Option) -> Size:
    """Squares of `multiple` by `multiple` pixels in a picture resized to hold `least` to `most`.

    `aspect` bounds the longer side over the shorter; 0 says that nothing does.

    >>> from triptych.compiler.types import bounds, evaluate
    >>> str(bounds(fit(1, 1, multiple=28, least=4, most=64, aspect=200), {}))
    '4..113'
    >>> evaluate(fit(1280, 720, multiple=28, least=4, most=16384, aspect=200), {})
    1196
    """
    return Call(FIT, (width, height), tuple(options.items()))


def fit_frame(width: Size, height: Size, frames: Size, **options: Option) -> Size:
    """Squares in each of the `frames` seen of a clip; see `fit`.

    `cap` bounds the squares of the whole clip, of which each `per` frames share theirs, but never
    presses a frame below `slack` times `least`; a cap of 0 bounds nothing.

    >>> from triptych.compiler.types import evaluate
    >>> limits = {"multiple": 28, "least": 128, "most": 768, "cap": 16384, "slack": 1.05, "per": 2}
    >>> evaluate(fit_frame(1280, 720, 20, **limits), {})
    720
    """
    return Call(FIT_FRAME, (width, height, frames), tuple(options.items()))


def tiles(width: Size, height: Size, **options: Option) -> Size:
    """Pictures that one is cut into: `low` to `high` tiles of `side` pixels, and a thumbnail.

    A `thumbnail` of 0 leaves that out; where there is one tile it is left out anyway.

    >>> from triptych.compiler.types import bounds, evaluate
    >>> evaluate(tiles(800, 1300, low=1, high=12, side=448), {})
    7
    >>> str(bounds(tiles(1, 1, low=1, high=12, side=448), {}))
    '1..13'
    """
    return Call(TILES, (width, height), tuple(options.items()))

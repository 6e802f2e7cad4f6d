"""What happens to a picture by chance before it is resized, in training."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

_TRIES = 10


def augmented(
    picture: Image.Image, calls: Sequence[Mapping[str, Any]], chance: np.random.Generator
) -> Image.Image:
    """The picture after each call of a feed spec's `augment`, in order."""
    for call in calls:
        picture = _AUGMENT[call["call"]](picture, call, chance)
    return picture


def random_crop(
    picture: Image.Image, call: Mapping[str, Any], chance: np.random.Generator
) -> Image.Image:
    """A part with a share of the area in `scale` and a shape (width / height) in `ratio`.

    The rule is torchvision's RandomResizedCrop, whose resize is that of the input. Where ten tries
    find no part that fits, it is the middle of the picture, as near to the shape as can be.
    """
    width, height = picture.size
    low, high = call["ratio"]
    for _ in range(_TRIES):
        area = width * height * chance.uniform(*call["scale"])
        shape = math.exp(chance.uniform(math.log(low), math.log(high)))
        across, down = round(math.sqrt(area * shape)), round(math.sqrt(area / shape))
        if 0 < across <= width and 0 < down <= height:
            left = int(chance.integers(width - across + 1))
            top = int(chance.integers(height - down + 1))
            return picture.crop((left, top, left + across, top + down))
    across = min(width, round(height * high))
    down = min(height, round(width / low))
    left, top = (width - across) // 2, (height - down) // 2
    return picture.crop((left, top, left + across, top + down))


def jpeg(picture: Image.Image, call: Mapping[str, Any], chance: np.random.Generator) -> Image.Image:
    """The picture as JPEG has it at a `quality` from low to high, both included."""
    quality = call["quality"]
    chosen = int(chance.integers(quality["low"] or 1, quality["high"] + 1))
    file = io.BytesIO()
    picture.convert("RGB").save(file, "JPEG", quality=chosen)
    return Image.open(file)


_AUGMENT: Mapping[
    str, Callable[[Image.Image, Mapping[str, Any], np.random.Generator], Image.Image]
] = {"random_crop": random_crop, "jpeg": jpeg}

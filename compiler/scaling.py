"""How the pixels of an input are scaled: what the calls of a recipe stand for."""

from __future__ import annotations

from ..dsl.inputs import Clip, Half, Imagenet, MeanStd, Normalize
from ..dsl.kinds import CallModel
from ..dsl.recipe import Recipe

NORMALIZE: dict[type[CallModel], tuple[list[float], list[float]]] = {
    # The constants of OpenAI's CLIP, and of torchvision for ImageNet.
    Clip: ([0.48145466, 0.4578275, 0.40821073], [0.26862954, 0.26130258, 0.27577711]),
    Half: ([0.5, 0.5, 0.5], [0.5, 0.5, 0.5]),
    Imagenet: ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]),
}
"""Mean and deviation of red, green and blue, on the scale from 0 to 1."""


def mean_std(normalize: Normalize) -> tuple[list[float], list[float]]:
    """The mean and the deviation that a recipe names."""
    if isinstance(normalize, MeanStd):
        return list(normalize.mean), list(normalize.std)
    return NORMALIZE[type(normalize)]


def mean_colour(recipe: Recipe, medium: str) -> tuple[int, int, int]:
    """The mean of an input's pictures as a colour, from 0 to 255: cut off, as published."""
    given = recipe.inputs[medium].normalize
    assert given, "a pad without a mean is refused by prove_shapes"
    red, green, blue = (int(share * 255) for share in mean_std(given)[0])
    return red, green, blue

"""What a recipe may say of its inputs: what is let in, how it is resized and scaled."""

from collections.abc import Mapping
from typing import Annotated, ClassVar, Literal

from pydantic import model_validator

from .kinds import (
    Byte,
    CallModel,
    CountRange,
    Flag,
    Fps,
    Model,
    Number,
    Positive,
    Px,
    Range,
    Tok,
    TokRange,
)
from .limits import HIGHEST_FLOOR, MOST_TILES
from .reading import Calls, Choice, Members, MembersOr, Problem, Ranged, complain


class Native(CallModel):
    """Keeps the shape: sides become multiples of `multiple`, the area stays within `budget`.

    The rule is Qwen2-VL's smart resize. `budget` counts merged tokens of `multiple` x `multiple`
    pixels for an image, or for one frame of a clip; `clip` caps a whole clip, but never below
    `slack` times the low end of the budget for each pair of frames. A side that is shrunk is cut
    down to whole multiples: by `thin: kept` it keeps one, by `floored` it may come to none.
    """

    side: ClassVar[None] = None
    """Pictures keep a size of their own."""
    call: Literal["native"] = "native"
    multiple: Px
    budget: TokRange
    clip: Tok | None = None
    slack: Positive = 1.0
    thin: Annotated[Literal["kept", "floored"], Choice()] = "kept"

    @model_validator(mode="after")
    def _floor(self) -> "Native":
        if self.budget.at_least(1) > HIGHEST_FLOOR:
            seen = f"the low end is at most {HIGHEST_FLOOR:,} tok"
            complain(Problem("V305", "{it} enlarges pictures beyond reason", (("budget", seen),)))
        return self


Colour = Annotated[tuple[Byte, Byte, Byte] | None, MembersOr("mean")]
"""Red, green and blue, from 0 to 255; None, written `mean`, is the mean of the input."""


class Square(CallModel):
    """Resizes to a square of `side`, whatever the shape was."""

    call: Literal["square"] = "square"
    positional: ClassVar[tuple[str, ...]] = ("side",)
    side: Px


class Letterbox(CallModel):
    """Shrinks or grows until the longer side is `side`, and centres the picture on a square.

    Sides are cut off to whole pixels, and the shorter is never below `least`, as in DeepSeek-VL.
    """

    call: Literal["letterbox"] = "letterbox"
    positional: ClassVar[tuple[str, ...]] = ("side",)
    side: Px
    pad: Colour = None
    """What stands around the picture."""
    least: Px = 1

    @model_validator(mode="after")
    def _fits(self) -> "Letterbox":
        if self.least > self.side:
            complain(
                Problem(
                    "V305",
                    "the shorter side is longer than the longer one",
                    (("least", f"at least {self.least} px"), ("side", f"of {self.side} px")),
                    fix=f"write at most `{self.side}px`",
                )
            )
        return self


class Crop(CallModel):
    """Resizes the shorter side to `side`, and keeps the square in the middle."""

    call: Literal["crop"] = "crop"
    positional: ClassVar[tuple[str, ...]] = ("side",)
    side: Px


class Padded(CallModel):
    """Centres the picture on a square as large as its longer side, and resizes that to `side`."""

    call: Literal["padded"] = "padded"
    positional: ClassVar[tuple[str, ...]] = ("side",)
    side: Px
    pad: Colour = None
    """What stands around the picture."""


class Tiles(CallModel):
    """Cuts the picture into square tiles of `side`, each a picture to the tower.

    The grid with `count` tiles whose shape comes nearest is taken; `thumbnail` adds the whole
    picture as one more tile, after the others, where there are several. InternVL 1.5 does so.
    """

    call: Literal["tiles"] = "tiles"
    positional: ClassVar[tuple[str, ...]] = ("side", "count")
    side: Px
    count: CountRange
    thumbnail: Flag = True

    @model_validator(mode="after")
    def _few(self) -> "Tiles":
        if self.count.high > MOST_TILES:
            seen = f"at most {MOST_TILES:,}, so that all grids can be compared"
            complain(Problem("V305", "{it} cuts into too many tiles", (("count", seen),)))
        return self


Resizing = Annotated[Native | Square | Letterbox | Crop | Padded | Tiles, Calls()]


class Clip(CallModel):
    """The mean and deviation of CLIP's training images."""

    call: Literal["clip"] = "clip"


class Half(CallModel):
    """Mean and deviation of one half: from -1 to 1."""

    call: Literal["half"] = "half"


class Imagenet(CallModel):
    """The mean and deviation of ImageNet."""

    call: Literal["imagenet"] = "imagenet"


class MeanStd(CallModel):
    """A mean and a deviation for red, green and blue, on the scale from 0 to 1."""

    call: Literal["mean_std"] = "mean_std"
    positional: ClassVar[tuple[str, ...]] = ("mean", "std")
    mean: Annotated[tuple[Number, Number, Number], Members()]
    std: Annotated[tuple[Positive, Positive, Positive], Members()]


Normalize = Annotated[Clip | Half | Imagenet | MeanStd, Calls()]


def _any_square(given: "ImageInput | VideoInput") -> None:
    """A bound on how thin a picture is lets in those that are not."""
    if given.aspect and given.aspect.at_least(1) > 1:
        high = given.aspect.high
        complain(
            Problem(
                "V305",
                "{it} would refuse every square",
                (("aspect", f"one side at least {given.aspect.low} times the other"),),
                fix=f"write `aspect = ..{high}`",
            )
        )


class ImageInput(Model):
    """Still pictures: which are let in, and how they are resized and scaled."""

    kind: Literal["image"] = "image"
    aspect: Annotated[Range | None, Ranged()] = None
    """How many times longer one side may be than the other."""
    resize: Resizing
    alpha: Annotated[Literal["drop", "white"], Choice()] = "drop"
    """What becomes of transparency: left out, or blended onto white."""
    normalize: Annotated[Clip | Half | Imagenet | MeanStd | None, Calls()] = None
    """How pixels are scaled for the encoders that do not say so themselves."""

    @model_validator(mode="after")
    def _thin(self) -> "ImageInput":
        _any_square(self)
        return self


class VideoInput(Model):
    """Clips: how many frames are taken, and how these are resized and scaled."""

    kind: Literal["video"] = "video"
    aspect: Annotated[Range | None, Ranged()] = None
    """How many times longer one side of a frame may be than the other."""
    rate: Fps
    """Frames taken from a second of the clip."""
    frames: CountRange
    overlong: Annotated[Literal["mistake", "refused"], Choice()] = "mistake"
    """What a clip is that the recipe lets in, and that takes more tokens than there is room for:
    a mistake of the recipe, or refused by name when it comes."""
    resize: Annotated[Native | Square | Letterbox | Crop | Padded, Calls()]
    normalize: Normalize

    @model_validator(mode="after")
    def _thin(self) -> "VideoInput":
        _any_square(self)
        return self


Input = ImageInput | VideoInput

INPUTS: Mapping[str, type[Input]] = {"image": ImageInput, "video": VideoInput}

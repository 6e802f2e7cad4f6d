"""Clips: which frames are seen, and reading them with PyAV.

The choice of frames is that of qwen-vl-utils 0.0.8 (`vision_process.py`).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from .sizes import ClipRule


class ClipError(ValueError):
    """A file cannot be read as a clip."""


@dataclass(frozen=True, slots=True)
class Clip:
    """Pictures in the order of time, all to be seen: a clip whose frames are chosen already."""

    frames: tuple[Image.Image, ...]


def frame_indices(frames: int, chosen: int) -> list[int]:
    """Which of `frames` are seen when `chosen` are, spread evenly from the first to the last.

    >>> frame_indices(10, 4)
    [0, 3, 6, 9]
    """
    import torch  # whose float32 decides where a frame lies halfway between two

    return [int(index) for index in torch.linspace(0, frames - 1, chosen).round()]


def read_clip(file: Path, rule: ClipRule) -> Clip:
    """The frames of a file that the rule lets be seen; ClipError when it holds no readable clip."""
    import av

    try:
        total, rate = _recorded(file)
        frames = _frames(file, frame_indices(total, rule.sampled(total, rate)))
        if frames is None:  # the header promised more frames than can be decoded
            total = _count(file)
            frames = _frames(file, frame_indices(total, rule.sampled(total, rate)))
    except av.FFmpegError as problem:
        raise ClipError(f"{file.name} cannot be read as a clip: {problem}") from problem
    assert frames, "frames that were counted are there"
    return Clip(tuple(frames))


def recorded(file: Path) -> tuple[tuple[int, int], int, float]:
    """Width and height of a clip's frames, how many there are, and how many a second.

    ClipError when the file holds no readable clip.
    """
    import av

    try:
        total, rate = _recorded(file)
        with av.open(str(file)) as container:
            stream = container.streams.video[0]
            return (stream.width, stream.height), total, rate
    except av.FFmpegError as problem:
        raise ClipError(f"{file.name} cannot be read as a clip: {problem}") from problem


def _recorded(file: Path) -> tuple[int, float]:
    """How many frames a file holds, by its header if that says so, and how many a second."""
    rate, promised = _header(file)
    return promised or _count(file), rate


def _header(file: Path) -> tuple[float, int]:
    """Frames a second, and how many frames there are; 0 where the file does not say."""
    import av

    with av.open(str(file)) as container:
        if not container.streams.video:
            raise ClipError(f"{file.name} holds no pictures")
        stream = container.streams.video[0]
        if not stream.average_rate:
            raise ClipError(f"{file.name} does not say how many frames a second it has")
        return float(stream.average_rate), stream.frames


def _count(file: Path) -> int:
    import av

    with av.open(str(file)) as container:
        return sum(1 for _ in container.decode(video=0))


def _frames(file: Path, wanted: Sequence[int]) -> list[Image.Image] | None:
    """The wanted frames in order; None when the file ends before the last of them."""
    import av

    found: dict[int, Image.Image] = {}
    with av.open(str(file)) as container:
        for index, frame in enumerate(container.decode(video=0)):
            if index in wanted:
                found[index] = Image.fromarray(frame.to_ndarray(format="rgb24"))
            if index == wanted[-1]:
                return [found[index] for index in wanted]
    return None

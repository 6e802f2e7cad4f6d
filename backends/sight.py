"""What towers make of pictures and clips: each is looked at once, and what was seen is kept.

A medium is known by its content, the pixels that its towers are shown. What the towers yield is
kept under the digest of that, up to a bound in bytes; what comes behind them (an adapter, a part
that reads what is asked) runs for the media that the language model has still to be told of.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from ..blocks.input.processor import Processor
from ..blocks.input.sample import Seen
from .base import Executable, Limit

KEEP = 2**28
"""Bytes of what towers yielded that are kept: a hundred pictures of 448 pixels of a model of 2B."""

QUESTION = ("question.tokens", "question.last", "question.picture")
"""What a part that reads is fed of each question: its tokens, where it ends, and its picture."""

Yielded: TypeAlias = Mapping[str, Tensor]
"""What the towers yield, by the name of the output."""

Group: TypeAlias = Mapping[str, slice]
"""The rows of each view that one call takes, in whole pictures or frames."""


def digest(seen: Seen) -> bytes:
    """Names what the towers of an input are shown: equal for equal pixels.

    >>> import numpy as np
    >>> grey = Seen("image", np.zeros((1, 4, 4, 3), np.uint8), (40, 40))
    >>> digest(grey) == digest(Seen("image", np.zeros((1, 4, 4, 3), np.uint8), (80, 80)))
    True
    >>> digest(grey) == digest(Seen("image", np.zeros((1, 2, 8, 3), np.uint8), (40, 40)))
    False
    """
    shape = f"{seen.input} {seen.frames.shape} {seen.frames.dtype} "
    return hashlib.blake2b(shape.encode() + seen.frames.tobytes(), digest_size=16).digest()


class Kept(OrderedDict[bytes, Yielded]):
    """What towers yielded, by digest; `hold` forgets what was asked for longest ago."""

    def hold(self, used: Iterable[bytes], most: int) -> None:
        """Of all, keep no more than so many bytes, those in `used` and the latest first."""
        for key in used:
            self.move_to_end(key)
        held = sum(map(_bytes, self.values()))
        while held > most:
            _, forgotten = self.popitem(last=False)
            held -= _bytes(forgotten)


class Sight:
    """The features of media; `kept` holds what the towers yielded of each, under its digest."""

    def __init__(
        self,
        executable: Executable,
        processor: Processor,
        spec: Mapping[str, Any],
        *,
        keep: int = KEEP,
    ) -> None:
        """As for a session; `keep` bounds the bytes that stay from one call to the next."""
        self._executable = executable
        self._processor = processor
        self._spec = spec
        self.kept = Kept()
        self._keep = keep

    def features(self, media: Sequence[Seen]) -> Tensor:
        """The rows that take the reserved places: part by part, input by input, in order."""
        made: dict[tuple[str, str], Tensor] = {}
        for name in self._processor.inputs:
            some = [seen for seen in media if seen.input == name]
            if some:
                made |= {(part, name): rows for part, rows in self._told(name, some).items()}
        port = self._executable.methods["prefill"].inputs["features"]
        none = torch.zeros(port.shape({"features": 0}), dtype=port.dtype)
        rows = [made[part, name] for part, name in self._spec["features"] if (part, name) in made]
        return torch.cat([some.to(self._executable.device) for some in (none, *rows)])

    def _told(self, name: str, media: Sequence[Seen]) -> dict[str, Tensor]:
        """The rows that each part makes of the media of an input."""
        digests = [digest(seen) for seen in media]
        new = {key: seen for key, seen in zip(digests, media, strict=True) if key not in self.kept}
        if new:
            self.kept.update(zip(new, self._looked(name, list(new.values())), strict=True))
        known = [self.kept[key] for key in digests]
        self.kept.hold(digests, self._keep)
        yielded = {output: torch.cat([rows[output] for rows in known]) for output in known[0]}
        questions = self._processor.asked(media)
        made: dict[str, list[Tensor]] = {}
        for rows in self._groups(name, media):
            some = self._cut(name, media, yielded, rows)
            for part, told in self._projected(name, media, rows, some, questions).items():
                made.setdefault(part, []).append(told)
        return {part: torch.cat(told) for part, told in made.items()}

    def _looked(self, name: str, media: Sequence[Seen]) -> Iterator[Yielded]:
        """What the towers yield of each medium, as many at a time as one call takes."""
        feeds = self._processor.inputs[name].feed(media)
        each, made = self._each(name, media), dict[str, list[Tensor]]()
        for rows in self._groups(name, media):
            count, lacking = self._units(name, media, rows)
            given = {
                feed: _extended(tensor[rows[_view(feed)]], lacking * each[_view(feed)])
                for feed, tensor in feeds.items()
            }
            for output, seen in self._executable.fed(f"vision_{name}", given).items():
                real = len(seen) * count // (count + lacking)
                made.setdefault(output, []).append(seen[:real])
        yielded = {output: torch.cat(parts) for output, parts in made.items()}
        begin, view = 0, next(iter(each))
        for medium in media:
            end = begin + sum(self._processor.inputs[name].runs(medium)[view])
            own = self._cut(name, media, yielded, {view: slice(begin, end)})
            # Of its own memory: what is kept of one medium must not hold that of all.
            yield {output: seen.clone() for output, seen in own.items()}
            begin = end

    def _cut(self, name: str, media: Sequence[Seen], yielded: Yielded, rows: Group) -> Yielded:
        """Of what the towers yield of media, what some rows of their first view have in it."""
        view = next(iter(self._spec["inputs"][name]["views"]))
        total = sum(sum(self._processor.inputs[name].runs(seen)[view]) for seen in media)
        return {
            output: seen[
                len(seen) * rows[view].start // total : len(seen) * rows[view].stop // total
            ]
            for output, seen in yielded.items()
        }

    def _projected(
        self,
        name: str,
        media: Sequence[Seen],
        rows: Group,
        yielded: Yielded,
        questions: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The rows that each part makes of what the towers yield of one group."""
        count, lacking = self._units(name, media, rows)
        given = {
            output: _extended(seen, len(seen) * lacking // count)
            for output, seen in yielded.items()
        }
        shares = {False: (count, count + lacking)}
        if questions:
            here = _about(questions, rows[next(iter(rows))])
            asked = len(here[QUESTION[0]])
            least = self._executable.limits["questions"].low
            # What takes two at least is asked the last one again.
            again = torch.arange(max(asked, least)).clamp(max=asked - 1)
            given |= {feed: tensor[again] for feed, tensor in here.items()}
            shares[True] = (asked, len(again))
        own = f"project_{name}"
        told = dict[str, Tensor]()
        method = own if own in self._executable.methods else "project"
        for output, made in self._executable.fed(method, given).items():
            part = output.partition(".")[0]
            real, all_ = shares[self._processor.inputs[name].reads(part)]
            told[part] = made[: len(made) * real // all_]
        return told

    def _groups(self, name: str, media: Sequence[Seen]) -> Iterator[Group]:
        """As many pictures or frames as one call takes, until there are no more."""
        views, limits = self._spec["inputs"][name]["views"], self._executable.limits
        if not any(given["dense"] for given in views.values()):
            (view,) = views
            lengths = [
                run for seen in media for run in self._processor.inputs[name].runs(seen)[view]
            ]
            for rows in groups(lengths, limits[f"{view}.patches"]):
                yield {view: rows}
            return
        each, count = self._each(name, media), sum(len(seen.frames) for seen in media)
        most = min(limits[self._size(name, view)].high // each[view] for view in views)
        for begin in range(0, count, most):
            end = min(begin + most, count)
            yield {view: slice(begin * rows, end * rows) for view, rows in each.items()}

    def _units(self, name: str, media: Sequence[Seen], rows: Group) -> tuple[int, int]:
        """How much one group is, in pictures or rows, and how much one call wants beyond it."""
        each, limits = self._each(name, media), self._executable.limits
        view = next(iter(each))
        count = (rows[view].stop - rows[view].start) // each[view]
        lows = (-(-limits[self._size(name, view)].low // each[view]) for view in each)
        return count, max(0, *(low - count for low in lows))

    def _each(self, name: str, media: Sequence[Seen]) -> dict[str, int]:
        """How many rows a picture has in each view; 1 where pictures have any size."""
        views = self._spec["inputs"][name]["views"]
        if not any(given["dense"] for given in views.values()):
            return dict.fromkeys(views, 1)
        runs, frames = self._processor.inputs[name].runs(media[0]), len(media[0].frames)
        return {view: sum(runs[view]) // frames for view in views}

    def _size(self, name: str, view: str) -> str:
        """The name of the number of rows of a view."""
        dense = self._spec["inputs"][name]["views"][view]["dense"]
        return f"{name}.pictures" if dense else f"{view}.patches"


def groups(lengths: Sequence[int], limit: Limit) -> Iterator[slice]:
    """Slices of whole runs, each as long as the limit lets it be.

    >>> list(groups([8, 8, 12, 4], Limit(4, 16, 4)))
    [slice(0, 16, None), slice(16, 32, None)]
    """
    begin = end = 0
    for length in lengths:
        if end > begin and end + length - begin > limit.high:
            yield slice(begin, end)
            begin = end
        end += length
    yield slice(begin, end)


def _bytes(yielded: Yielded) -> int:
    return sum(rows.nbytes for rows in yielded.values())


def _view(feed: str) -> str:
    """The view that a feed belongs to: `image` of `image.patches`."""
    return feed.rpartition(".")[0]


def _about(questions: Mapping[str, Tensor], pictures: slice) -> dict[str, Tensor]:
    """What is asked about these pictures."""
    tokens, last, picture = (questions[feed] for feed in QUESTION)
    here = (picture >= pictures.start) & (picture < pictures.stop)
    return dict(
        zip(QUESTION, (tokens[here], last[here], picture[here] - pictures.start), strict=True)
    )


def _extended(tensor: Tensor, rows: int) -> Tensor:
    """More rows of zeros; for segment ids, a segment of its own."""
    if not rows:
        return tensor
    if tensor.dim() == 1:
        return functional.pad(tensor, (0, rows), value=int(tensor[-1]) + 1)
    return functional.pad(tensor, (*(0, 0) * (tensor.dim() - 1), 0, rows))

"""Answers from an executable: pictures through the tower, the prompt at once, then token by token.

The same session drives every backend: it knows methods by name and tensors by name, and takes the
rest from a feed spec. Rows of a batch are padded on the left, so that all answers grow in the same
slot of the cache.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from ..blocks.input.batch import Prompts
from ..blocks.input.ending import Telling
from ..blocks.input.processor import Processor
from ..blocks.input.sample import Sample, Turn
from .base import Executable, InputError, Limit
from .sampling import Chooser, Sampling

QUESTION = ("question.tokens", "question.last", "question.picture")
"""What a part that reads is fed of each question: its tokens, where it ends, and its picture."""

Dialogue: TypeAlias = Sequence[Turn]

SMALLEST_CACHE = 128
"""Slots of the smallest cache; each next size doubles, up to what the executable takes."""


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said: the text, its tokens without the one that ended it, and why it ended."""

    text: str
    tokens: tuple[int, ...]
    ended: Literal["stop", "length"]
    prompt: int
    """Tokens of the prompt, features included."""


class Session:
    """Asks an executable; holds no state between calls but what the executable keeps compiled."""

    def __init__(
        self, executable: Executable, processor: Processor, spec: Mapping[str, Any]
    ) -> None:
        """`spec` is the feed spec of the mode that the executable was made from."""
        self.executable = executable
        self.processor = processor
        self.spec = spec
        self.sampling = Sampling.from_spec(spec["sampling"])
        self.new: int = spec["limits"]["new"]
        self._methods = executable.methods
        self._takes_features = "features" in self._methods["prefill"].inputs

    def inputs(self, kind: str) -> list[str]:
        """The inputs that take media of a kind, `image` or `video`."""
        return [name for name, given in self.spec["inputs"].items() if given["kind"] == kind]

    def chat(
        self,
        dialogues: Sequence[Dialogue],
        *,
        new: int | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> list[Answer]:
        """The answer to each dialogue, as many at a time as the executable takes.

        `new` bounds the tokens of an answer, `sampling` says how they are chosen; both come from
        the recipe's mode unless they are given. The same seed gives the same answers. InputError
        when a prompt is too long.
        """
        samples = [self.processor.prompt(turns) for turns in dialogues]
        most = self.executable.limits["batch"].high
        answers: list[Answer] = []
        for start in range(0, len(samples), most):
            some = samples[start : start + most]
            numbers = range(start, start + len(some))
            answers += self.answers(some, numbers, new, sampling, seed)
        return answers

    def answers(
        self,
        samples: Sequence[Sample],
        numbers: Sequence[int],
        new: int | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> list[Answer]:
        """The answers of one batch; each row draws as its number and the seed say."""
        chosen: list[list[int]] = [[] for _ in samples]
        tellings = [self.processor.telling() for _ in samples]
        for tokens in self._tokens(samples, tellings, new, sampling, seed, numbers):
            for row, token in zip(chosen, tokens, strict=True):
                if token is not None:
                    row.append(token)
        return [
            self._answer(sample, row, telling)
            for sample, row, telling in zip(samples, chosen, tellings, strict=True)
        ]

    def stream(
        self,
        turns: Dialogue,
        *,
        new: int | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Generator[str, None, Answer]:
        """The answer to one dialogue piece by piece, as soon as a piece is whole text."""
        sample = self.processor.prompt(turns)
        telling = self.processor.telling()
        chosen: list[int] = []
        for (token,) in self._tokens([sample], [telling], new, sampling, seed, [0]):
            assert token is not None
            chosen.append(token)
            if telling.said:
                yield telling.said
        if piece := telling.end():
            yield piece
        return self._answer(sample, chosen, telling)

    def _answer(self, sample: Sample, chosen: list[int], telling: Telling) -> Answer:
        text, tokens = self.processor.told(chosen)
        return Answer(text, tokens, "stop" if telling.ended else "length", sample.length)

    def _tokens(
        self,
        samples: Sequence[Sample],
        tellings: Sequence[Telling],
        new: int | None,
        sampling: Sampling | None,
        seed: int,
        numbers: Sequence[int],
    ) -> Iterator[list[int | None]]:
        """The next token of each row, step by step; None in rows that have ended.

        Each row's telling takes its tokens, and says when the answer is over.
        """
        if not samples:
            return
        new = self.new if new is None else new
        prompts = self._prompts(samples)
        slots = self._slots(prompts.length, new)
        caches = self.executable.caches(len(samples), slots)
        logits_BV = self._prefill(prompts, caches)
        chooser = Chooser(sampling or self.sampling, seed, numbers)
        chooser.see(_seen(prompts), logits_BV.shape[-1])
        end = min(prompts.length + new, slots + 1)
        for slot in range(prompts.length, end):
            tokens_B = chooser.choose(logits_BV.cpu())
            tokens = [
                None if telling.ended else token
                for token, telling in zip(tokens_B.tolist(), tellings, strict=True)
            ]
            for token, telling in zip(tokens, tellings, strict=True):
                if token is not None:
                    telling.push(token)
            yield tokens
            if all(telling.ended for telling in tellings) or slot + 1 == end:
                return
            chooser.see(tokens_B[:, None], logits_BV.shape[-1])
            inputs = self.processor.next_inputs(prompts, tokens_B, slot)
            logits_BV = self._run("decode", inputs | caches)["logits"]

    def _prompts(self, samples: Sequence[Sample]) -> Prompts:
        limit = self.executable.limits["length"]
        longest = max(sample.length for sample in samples)
        if longest > limit.high:
            raise InputError(
                f"a prompt of {longest} tokens is too long: the executable takes {limit}"
            )
        return self.processor.prompt_batch(samples, length=max(longest, limit.low))

    def _slots(self, length: int, new: int) -> int:
        """The smallest cache for a prompt and its answer; the largest when none is large enough."""
        limit = self.executable.limits["slots"]
        slots = min(max(SMALLEST_CACHE, limit.low), limit.high)
        while slots < min(length + new - 1, limit.high):
            slots = min(2 * slots, limit.high)
        return slots

    def _prefill(self, prompts: Prompts, caches: dict[str, Tensor]) -> Tensor:
        inputs = dict(prompts.inputs) | caches
        if self._takes_features:
            inputs["features"] = self._features(prompts)
        return self._run("prefill", inputs)["logits"]

    def _features(self, prompts: Prompts) -> Tensor:
        """The rows that take the reserved places, input by input, and rows of zeros up to the low
        end of what the executable takes."""
        port = self._methods["prefill"].inputs["features"]
        made: dict[tuple[str, str], list[Tensor]] = {}
        for medium in self.processor.inputs:
            for feeds in self._shown(medium, prompts):
                for part, some in self._seen(medium, feeds).items():
                    made.setdefault((part, medium), []).append(some)
        rows = [
            some for part, medium in self.spec["features"] for some in made.get((part, medium), ())
        ]
        low = self.executable.limits["features"].low
        given = sum(len(part) for part in rows)
        if given < low:
            width = port.sizes[1]
            assert isinstance(width, int)
            rows.append(torch.zeros(low - given, width, dtype=port.dtype))
        return torch.cat([part.to(self.executable.device) for part in rows])

    def _shown(self, medium: str, prompts: Prompts) -> Iterator[dict[str, Tensor]]:
        """What the towers take of an input, cut between pictures or frames into what one call
        takes; nothing where a prompt shows nothing to it."""
        views = self.spec["inputs"][medium]["views"]
        feeds = {feed: tensor for feed, tensor in prompts.inputs.items() if _view(feed) in views}
        if not feeds:
            return
        for rows in self._groups(medium, feeds):
            some = {feed: tensor[rows[_view(feed)]] for feed, tensor in feeds.items()}
            yield some | _asked(prompts, rows[next(iter(views))])

    def _groups(self, medium: str, feeds: Mapping[str, Tensor]) -> Iterator[dict[str, slice]]:
        """The rows of each view that one call takes, in whole pictures or frames."""
        views, limits = self.spec["inputs"][medium]["views"], self.executable.limits
        each = self._rows_of_one(medium, feeds)
        if each is None:
            (view,) = views
            for rows in _groups(feeds[f"{view}.segment_id"], limits[f"{view}.patches"]):
                yield {view: rows}
            return
        count = len(feeds[f"{next(iter(views))}.patches"]) // next(iter(each.values()))
        most = min(limits[self._size(medium, view)].high // each[view] for view in views)
        for begin in range(0, count, most):
            end = min(begin + most, count)
            yield {view: slice(begin * rows, end * rows) for view, rows in each.items()}

    def _rows_of_one(self, medium: str, feeds: Mapping[str, Tensor]) -> dict[str, int] | None:
        """How many rows a picture has in each view; None where pictures have any size."""
        views = self.spec["inputs"][medium]["views"]
        dense = next((view for view, given in views.items() if given["dense"]), None)
        if dense is None:
            return None
        count = len(feeds[f"{dense}.patches"])
        return {view: len(feeds[f"{view}.patches"]) // count for view in views}

    def _size(self, medium: str, view: str) -> str:
        """The name of the number of rows of a view."""
        dense = self.spec["inputs"][medium]["views"][view]["dense"]
        return f"{medium}.pictures" if dense else f"{view}.patches"

    def _seen(self, medium: str, feeds: dict[str, Tensor]) -> dict[str, Tensor]:
        """The rows that each part makes of what one call of the towers takes."""
        views, limits = self.spec["inputs"][medium]["views"], self.executable.limits
        each = self._rows_of_one(medium, feeds) or dict.fromkeys(views, 1)
        first = next(iter(views))
        count = len(feeds[f"{first}.patches"]) // each[first]
        lows = (-(-limits[self._size(medium, view)].low // each[view]) for view in views)
        lacking = max(0, *(low - count for low in lows))
        questions = {feed: feeds.pop(feed) for feed in QUESTION if feed in feeds}
        if lacking:
            feeds = {
                feed: _extended(tensor, lacking * each[_view(feed)])
                for feed, tensor in feeds.items()
            }
        shares = {False: (count, count + lacking)}
        if questions:
            asked = len(questions[QUESTION[0]])
            least = self.executable.limits["questions"].low
            # What takes two at least is asked the last one again.
            again = torch.arange(max(asked, least)).clamp(max=asked - 1)
            questions = {feed: tensor[again] for feed, tensor in questions.items()}
            shares[True] = (asked, len(again))
        own = f"project_{medium}"
        made = self._run(
            own if own in self._methods else "project",
            self._run(f"vision_{medium}", feeds) | questions,
        )
        kept = dict[str, Tensor]()
        for name, rows in made.items():
            part = name.partition(".")[0]
            real, all_ = shares[self.processor.inputs[medium].reads(part)]
            kept[part] = rows[: len(rows) * real // all_]
        return kept

    def _run(self, method: str, inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        device = self.executable.device
        wanted = self._methods[method].inputs
        return self.executable.run(
            method,
            {
                name: tensor.to(device, wanted[name].dtype)
                for name, tensor in inputs.items()
                if name in wanted
            },
        )


def _view(feed: str) -> str:
    """The view that a feed belongs to: `image` of `image.patches`."""
    return feed.rpartition(".")[0]


def _asked(prompts: Prompts, pictures: slice) -> dict[str, Tensor]:
    """What is asked about these pictures; nothing where no part reads it."""
    if QUESTION[0] not in prompts.inputs:
        return {}
    tokens, last, picture = (prompts.inputs[feed] for feed in QUESTION)
    here = (picture >= pictures.start) & (picture < pictures.stop)
    return dict(
        zip(QUESTION, (tokens[here], last[here], picture[here] - pictures.start), strict=True)
    )


def _seen(prompts: Prompts) -> Tensor:
    """[B, T] the tokens of the prompts, -1 where they are padded."""
    tokens_BT = prompts.inputs["text.tokens"]
    padded_BT = torch.arange(tokens_BT.shape[1]) < prompts.first[:, None]
    return tokens_BT.masked_fill(padded_BT, -1)


def _groups(segment_id_N: Tensor, limit: Limit) -> Iterator[slice]:
    """Slices of whole segments, each as long as the limit lets it be."""
    lengths = torch.unique_consecutive(segment_id_N, return_counts=True)[1].tolist()
    begin = end = 0
    for length in lengths:
        if end > begin and end + length - begin > limit.high:
            yield slice(begin, end)
            begin = end
        end += length
    yield slice(begin, end)


def _extended(tensor: Tensor, rows: int) -> Tensor:
    """More rows of zeros; for segment ids, a segment of its own."""
    if tensor.dim() == 1:
        return functional.pad(tensor, (0, rows), value=int(tensor[-1]) + 1)
    return functional.pad(tensor, (*(0, 0) * (tensor.dim() - 1), 0, rows))

"""Answers from an executable: pictures through the tower, the prompt at once, then token by token.

The same session drives every backend: it knows methods by name and tensors by name, and takes the
rest from a feed spec. Rows of a batch are padded on the left, so that all answers grow in the same
slot of the cache.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional

from ..blocks.input.batch import Prompts
from ..blocks.input.calls import CHUNK, cache_slots
from ..blocks.input.ending import Telling
from ..blocks.input.processor import Processor
from ..blocks.input.sample import Sample, Seen, Turn
from .base import Executable, InputError, Tensors
from .reply import Answer, Reply
from .sampling import Chooser, Sampling
from .search import searched
from .sight import Sight

if TYPE_CHECKING:
    from .conversation import Conversation

Dialogue: TypeAlias = Sequence[Turn]


class Session:
    """Asks an executable; holds no state between calls but what the executable keeps compiled."""

    def __init__(
        self,
        executable: Executable,
        processor: Processor,
        spec: Mapping[str, Any],
        *,
        chunk: int = CHUNK,
    ) -> None:
        """`spec` is the feed spec of the mode that the executable was made from; prompts longer
        than `chunk` tokens are fed in pieces."""
        self.executable = executable
        self.processor = processor
        self.spec = spec
        self.sampling = Sampling.from_spec(spec["sampling"])
        self.new: int = spec["limits"]["new"]
        self.chunk = max(chunk, executable.limits["length"].low)

    def inputs(self, kind: str) -> list[str]:
        """The inputs that take media of a kind, `image` or `video`."""
        return [name for name, given in self.spec["inputs"].items() if given["kind"] == kind]

    def conversation(self) -> Conversation:
        """A dialogue that begins here; its cache is kept from turn to turn."""
        from .conversation import Conversation

        return Conversation(self)

    def chat(
        self,
        said: Dialogue | str,
        *,
        new: int | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Reply:
        """The answer to a dialogue, or to a question alone, piece by piece as it is listened to.

        `new` bounds the tokens of an answer, `sampling` says how they are chosen; both come from
        the recipe's mode unless they are given. The same seed gives the same answer. InputError
        when the prompt is too long.
        """
        sample = self.processor.prompt([Turn("user", (said,))] if isinstance(said, str) else said)
        self.check(sample)
        telling = self.processor.telling()
        chosen: list[int] = []

        def pieces() -> Generator[str, None, None]:
            for (token,) in self.tokens([sample], [telling], [0], new, sampling, seed):
                assert token is not None
                chosen.append(token)
                if telling.said:
                    yield telling.said
            if piece := telling.end():
                yield piece

        return Reply(pieces(), lambda: self.answer(sample, chosen, telling))

    def batch(
        self,
        dialogues: Sequence[Dialogue],
        *,
        new: int | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> list[Answer]:
        """The answers to several dialogues, as many at a time as the executable takes; as `chat`.

        Each draws from a seed of its own, that of the first is `chat`'s.
        """
        samples = [self.processor.prompt(turns) for turns in dialogues]
        most = self.most(sampling)
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
        for tokens in self.tokens(samples, tellings, numbers, new, sampling, seed):
            for row, token in zip(chosen, tokens, strict=True):
                if token is not None:
                    row.append(token)
        return [
            self.answer(sample, row, telling)
            for sample, row, telling in zip(samples, chosen, tellings, strict=True)
        ]

    def answer(self, sample: Sample, chosen: Sequence[int], telling: Telling) -> Answer:
        """What was said behind a prompt, as far as its tokens were chosen."""
        text, tokens = self.processor.told(chosen)
        return Answer(text, tokens, "stop" if telling.ended else "length", sample.length)

    def most(self, sampling: Sampling | None = None) -> int:
        """How many dialogues are answered at a time. InputError where the executable takes fewer
        rows than there are beams."""
        rows, beams = self.executable.limits["batch"], (sampling or self.sampling).beams
        if beams > rows.high:
            raise InputError(f"{beams} beams are rows of a batch, and the executable takes {rows}")
        return rows.high // beams

    def tokens(
        self,
        samples: Sequence[Sample],
        tellings: Sequence[Telling],
        numbers: Sequence[int],
        new: int | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        sight: Sight | None = None,
    ) -> Iterator[list[int | None]]:
        """The next token of each row, step by step; None in rows that have ended.

        Each row's telling takes its tokens, and says when the answer is over. `sight` keeps
        pictures that were seen.
        """
        if not samples:
            return
        new = self.new if new is None else new
        sampling = sampling or self.sampling
        self.most(sampling)
        # What takes no fewer rows is fed each prompt as often as it has beams, and the last again.
        least = self.executable.limits["batch"].low
        each = sampling.beams if len(samples) < least else 1
        more = max(0, math.ceil(least / each) - len(samples))
        asked = [*samples, *[samples[-1]] * more]
        heard = [*tellings, *(self.processor.telling() for _ in range(more))]
        rows = [sample for sample in asked for _ in range(each)]
        prompts = self.prompts(rows)
        slots = self.slots(prompts.length, new)
        caches = self.executable.caches(len(rows), slots)
        media = [seen for sample in rows for seen in sample.media]
        sight = sight or Sight(self.executable, self.processor, self.spec)
        logits_BV = self.prefill(prompts, media, caches, sight)
        if sampling.beams > 1:
            steps = self.search(prompts, logits_BV, caches, slots, new, heard, sampling, each)
        else:
            drawn = [*numbers, *[numbers[-1]] * more]
            chooser = Chooser(sampling, seed, drawn, self.processor.ending.tokens)
            steps = self.go_on(prompts, logits_BV, caches, slots, new, heard, chooser)
        for tokens in steps:
            yield tokens[: len(samples)]

    def search(
        self,
        prompts: Prompts,
        logits_BV: Tensor,
        caches: Tensors,
        slots: int,
        new: int,
        tellings: Sequence[Telling],
        sampling: Sampling,
        each: int = 1,
    ) -> Iterator[list[int | None]]:
        """The tokens of the likeliest answers, told once all are known; `each` rows of the prompts
        and their caches, which stay as they are, are those of one dialogue."""
        found = searched(
            self.executable, self.processor, prompts, logits_BV, caches, slots, new, sampling, each
        )
        for tokens in zip_longest(*found):
            for token, telling in zip(tokens, tellings, strict=True):
                if token is not None:
                    telling.push(token)
            yield list(tokens)

    def go_on(
        self,
        prompts: Prompts,
        logits_BV: Tensor,
        caches: Tensors,
        slots: int,
        new: int,
        tellings: Sequence[Telling],
        chooser: Chooser,
    ) -> Iterator[list[int | None]]:
        """Step by step, the token that each row goes on with behind its prompt; each but the last
        is fed when the next is asked for."""
        chooser.see(prompts.seen, logits_BV.shape[-1])
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
            logits_BV = self.executable.fed("decode", inputs | dict(caches))["logits"]

    def check(self, sample: Sample) -> None:
        """InputError when a prompt is too long, with what takes the room."""
        limit = self.executable.limits["length"]
        if sample.length <= limit.high:
            return
        media = len(sample.media)
        shown = sum(
            self.processor.inputs[seen.input].places(seen, part).patches * len(starts)
            for seen in sample.media
            for part, starts in seen.starts.items()
        )
        taken = f", {shown} of them for {media} pictures and clips," if media else ""
        raise InputError(
            f"a prompt of {sample.length} tokens{taken} is too long: the executable takes {limit}"
        )

    def prompts(self, samples: Sequence[Sample], since: int = 0) -> Prompts:
        """The prompts of samples, those of a batch padded on the left; `since` as there.

        InputError when one is too long.
        """
        for sample in samples:
            self.check(sample)
        longest = max(sample.length for sample in samples)
        least = self.executable.limits["length"].low
        return self.processor.prompts(samples, length=max(longest, least), since=since)

    def slots(self, length: int, new: int) -> int:
        """The smallest cache for a prompt and its answer; the largest when none is large enough."""
        limit = self.executable.limits["slots"]
        return cache_slots(length + new - 1, limit.low, limit.high)

    def prefill(
        self, prompts: Prompts, media: Sequence[Seen], caches: Tensors, sight: Sight, since: int = 0
    ) -> Tensor:
        """The logits behind prompts, piece by piece, of which the cache holds the slots before
        `since`; `media` are those whose features are fed."""
        takes = self.executable.methods["prefill"].inputs
        features = sight.features(media) if "features" in takes else torch.empty(0)
        for begin, end in self._pieces(prompts.length, since):
            inputs = prompts.piece(begin, end) | dict(caches)
            if "features" in takes:
                inputs |= self._chosen(features, inputs)
            logits_BV = self.executable.fed("prefill", inputs)["logits"]
        return logits_BV

    @property
    def resumes(self) -> bool:
        """Whether a prompt can be fed from any place on; not where it goes on behind queries, which
        `prefill` puts before it."""
        takes = self.executable.methods["prefill"].inputs
        return "text.feature_index" in takes or "features" not in takes

    def _pieces(self, length: int, since: int) -> list[tuple[int, int]]:
        """The stretches of a prompt that are fed one after the other."""
        if not self.resumes:
            return [(0, length)]
        least = self.executable.limits["length"].low
        pieces = [
            (begin, min(begin + self.chunk, length)) for begin in range(since, length, self.chunk)
        ]
        # What takes two at least is fed again what stands before.
        return [(min(begin, end - least), end) for begin, end in pieces]

    def _chosen(self, features: Tensor, inputs: Tensors) -> dict[str, Tensor]:
        """The rows of features that places ask for, and their numbers among these; all of them
        where there are no numbers. Rows of zeros fill up to what the executable takes at least."""
        numbers = dict[str, Tensor]()
        if self.resumes:
            used_M, place_BT = inputs["text.feature_index"].unique(return_inverse=True)
            text = int((used_M < 0).sum())
            features = features[used_M[text:].to(features.device)]
            numbers = {"text.feature_index": (place_BT - text).clamp(min=-1)}
        lacking = self.executable.limits["features"].low - len(features)
        if lacking > 0:
            features = functional.pad(features, (0, 0, 0, lacking))
        return {"features": features} | numbers

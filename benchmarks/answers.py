"""Answers with the times of their tokens: prompts of a wanted length, asked through a session."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from PIL import Image

from triptych.backends.generation import Session
from triptych.backends.sampling import Chooser
from triptych.backends.sight import Sight
from triptych.benchmarks.limits import clock
from triptych.blocks.input.ending import Ending
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Attachment, Sample, Turn

WORD = " again"
"""One token, however often it is said."""


@dataclass(frozen=True, slots=True)
class Timed:
    """An answer: its tokens, row by row, and the seconds that each step took, the prompt first."""

    tokens: Sequence[Sequence[int]]
    seconds: Sequence[float]

    @property
    def first(self) -> float:
        """Until the first token: pictures, adapter and prompt."""
        return self.seconds[0]

    @property
    def next(self) -> float:
        """For each token after it: the median."""
        return statistics.median(self.seconds[1:])

    @classmethod
    def at(cls, tokens: Sequence[Sequence[int]], moments: Iterable[float]) -> Timed:
        """From the moment of the question and that of each token."""
        stamps = list(moments)
        return cls(tokens, [end - begin for begin, end in pairwise(stamps)])


def endless(processor: Processor) -> Processor:
    """The same processor, for answers of which no token is the last: all are as long as asked."""
    processor.ending = Ending()
    return processor


def question(processor: Processor, text: int | None = None, side: int = 0) -> Sample:
    """A prompt with a picture of noise, unless it has no pixels a side, and with so many tokens of
    text, tags and template among them; or with as many as a short one has."""
    shown: list[str | Attachment] = []
    if side:
        noise = np.random.default_rng(0).integers(0, 256, (side, side, 3), np.uint8)
        shown.append(Attachment("image", Image.fromarray(noise)))
    said = "Describe it."
    least = processor.prompt([Turn("user", (*shown, said))])
    if text is None:
        return least
    lacking = text - words(processor, least)
    if lacking < 0:
        raise SystemExit(f"{text} tokens are too few: the template has {text - lacking}")
    sample = processor.prompt([Turn("user", (*shown, said + WORD * lacking))])
    assert words(processor, sample) == text
    return sample


def words(processor: Processor, sample: Sample) -> int:
    """The tokens of a prompt that are no places of features."""
    features = (sum(processor.inputs[seen.input].tokens(seen).values()) for seen in sample.media)
    return sample.length - sum(features)


def answered(session: Session, samples: Sequence[Sample], new: int) -> Timed:
    """The likeliest `new` tokens behind each prompt; by beams, all at one moment."""
    moments = [clock()]
    if session.sampling.beams > 1:
        answers = session.answers(samples, range(len(samples)), new)
        return Timed.at([answer.tokens for answer in answers], [*moments, clock()])
    prompts = session.prompts(samples)
    slots = session.slots(prompts.length, new)
    caches = session.executable.caches(len(samples), slots)
    media = [seen for sample in samples for seen in sample.media]
    sight = Sight(session.executable, session.processor, session.spec)
    logits_BV = session.prefill(prompts, media, caches, sight)
    chooser = Chooser(session.sampling, 0, range(len(samples)))
    tellings = [session.processor.telling() for _ in samples]
    rows: list[list[int]] = [[] for _ in samples]
    for tokens in session.go_on(prompts, logits_BV, caches, slots, new, tellings, chooser):
        moments.append(clock())
        for row, token in zip(rows, tokens, strict=True):
            assert token is not None
            row.append(token)
    return Timed.at(rows, moments)

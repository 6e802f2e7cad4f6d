"""The tokens that a backend chooses along eager's answers, each after the same prefix as eager's.

A token may differ at a *near tie* alone: where eager prefers its own by no more than its rounding
may move that very preference, which is between two logits: twice as far as it moves any of that
place, held against the same weights in float32. Anywhere else it is an error; in float32,
everywhere. Shape suffix: V vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from triptych.backends.base import Executable
from triptych.backends.embedding import AnySession, session_of
from triptych.backends.generation import Session
from triptych.backends.job import Job
from triptych.backends.sampling import Chooser, Sampling
from triptych.backends.sight import Sight
from triptych.blocks.input.sample import Turn

NEW = 12
"""Tokens of an answer that are compared."""


@dataclass(frozen=True, slots=True)
class Place:
    """What stands at a token of eager's answer; numbers are shares of its largest logit."""

    same: bool
    """Whether the backend would say the same here."""
    margin: float = 0.0
    """By how much eager prefers its own token to the backend's."""
    rounding: float = 0.0
    """How far eager's precision moves a logit here, at most."""

    @property
    def tie(self) -> bool:
        """Whether eager hardly knows better which of two tokens it is."""
        return not self.same and self.margin <= 2 * self.rounding


def places(
    job: Job,
    ours: Executable,
    eager: Executable,
    exact: Executable | None,
    dialogues: Iterable[Sequence[Turn]],
) -> list[Place]:
    """Every token of eager's greedy answers; `exact` has eager's weights in float32, and is None
    where eager computes in float32 itself."""
    found = []
    mine, theirs = (session_of(one, job.resources, job.spec) for one in (ours, eager))
    true = exact and session_of(exact, job.resources, job.spec)
    for turns in dialogues:
        wanted = _logits(theirs, turns)
        tokens = [int(logits_V.argmax()) for logits_V in wanted]
        found += [
            _place(*three)
            for three in zip(
                wanted,
                _logits(mine, turns, tokens),
                _logits(true, turns, tokens) if true else wanted,
                strict=True,
            )
        ]
    return found


def _place(wanted_V: Tensor, found_V: Tensor, true_V: Tensor) -> Place:
    best, chosen = int(wanted_V.argmax()), int(found_V.argmax())
    scale = float(wanted_V.abs().max())
    return Place(
        best == chosen,
        float(wanted_V[best] - wanted_V[chosen]) / scale,
        float((wanted_V - true_V).abs().max()) / scale,
    )


class _Watching(Chooser):
    """Chooses the tokens that it is told, or the likeliest, and keeps what they are chosen from."""

    def __init__(self, tokens: Sequence[int] | None) -> None:
        super().__init__(Sampling(), 0, [0])
        self._tokens = tokens
        self.seen: list[Tensor] = []

    def choose(self, logits_BV: Tensor) -> Tensor:
        self.seen.append(logits_BV[0].float())
        if self._tokens is None:
            return super().choose(logits_BV)
        return torch.tensor([self._tokens[len(self.seen) - 1]])


def _logits(
    session: AnySession, turns: Sequence[Turn], tokens: Sequence[int] | None = None
) -> list[Tensor]:
    """[V] the logits that each token of an answer is chosen from; the answer is the likeliest, or
    is given."""
    assert isinstance(session, Session)
    sample = session.processor.prompt(turns)
    prompts, new = session.prompts([sample]), min(NEW, session.new)
    slots = session.slots(prompts.length, new)
    caches = session.executable.caches(1, slots)
    sight = Sight(session.executable, session.processor, session.spec)
    logits_BV = session.prefill(prompts, sample.media, caches, sight)
    chooser, telling = _Watching(tokens), session.processor.telling()
    for _ in session.go_on(prompts, logits_BV, caches, slots, new, [telling], chooser):
        pass
    return chooser.seen

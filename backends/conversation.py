"""A conversation: the cache is kept from turn to turn, and what is new is all that is fed.

What the cache holds is known by what was fed: in each slot a token, its rotary tables, and the
feature that took its place. The slots whose feeds are still the same, from the first on, are kept;
where re-tokenising an answer, leaving old turns out or scaling frequencies by the new length
changes a feed, all behind it is fed again. So an answer is that of the whole dialogue at once.
"""

from __future__ import annotations

import weakref
from collections.abc import Generator, Iterator
from hashlib import blake2b

import torch
from torch import Tensor

from ..blocks.input.batch import Prompts
from ..blocks.input.ending import Telling
from ..blocks.input.sample import Sample, Turn
from .base import Tensors
from .generation import Session
from .reply import Reply
from .sampling import Chooser, Sampling
from .sight import Sight, digest

FED = ("text.tokens", "text.cos", "text.sin", "text.query_scale")
"""Of the inputs, those that decide what a slot of the cache holds, beside its feature."""


class Conversation:
    """A dialogue with a session, turn by turn; `turns` is what was said."""

    def __init__(self, session: Session) -> None:
        """Nothing has been said."""
        self.session = session
        self.turns: list[Turn] = []
        self.reused = 0
        """Slots of the cache that the last answer was given without feeding them again."""
        self._sight = Sight(session.executable, session.processor, session.spec)
        self._caches: Tensors = {}
        self._slots = 0
        self._fed: dict[str, Tensor] = {}
        # Weak: an answer that nobody holds on to is broken off at once.
        self._reply: weakref.ref[Reply] | None = None

    def reset(self) -> None:
        """Forget what was said; pictures that were seen are still known."""
        self.turns = []

    def chat(
        self,
        turn: Turn | str,
        *,
        new: int | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
    ) -> Reply:
        """The answer to what the user says now, piece by piece as it is listened to.

        What was listened to becomes part of the dialogue, with the question, when the answer ends
        or is broken off: by `close`, or by the next question. InputError and ValueError as of a
        session; the dialogue is then what it was.
        """
        if self._reply and (last := self._reply()):
            last.close()
        said = Turn("user", (turn,)) if isinstance(turn, str) else turn
        session, turns = self.session, [*self.turns, said]
        new = session.new if new is None else new
        rule = sampling or session.sampling
        sample = session.processor.prompt(turns)
        prompts = session.prompts([sample])
        telling = session.processor.telling()
        chosen: list[int] = []

        def pieces() -> Generator[str, None, None]:
            try:
                for (token,) in self._tokens(sample, prompts, telling, new, rule, seed):
                    assert token is not None
                    chosen.append(token)
                    if telling.said:
                        yield telling.said
                if piece := telling.end():
                    yield piece
            finally:
                # The last token was not fed yet, or not to the end; those of beams were fed to
                # caches of their own.
                self._note(prompts, chosen[:-1] if rule.beams == 1 else [])
                if chosen:
                    text, _ = session.processor.told(chosen)
                    self.turns = [*turns, Turn("assistant", (text,))]

        reply = Reply(pieces(), lambda: session.answer(sample, chosen, telling))
        self._reply = weakref.ref(reply)
        return reply

    def _tokens(
        self,
        sample: Sample,
        prompts: Prompts,
        telling: Telling,
        new: int,
        rule: Sampling,
        seed: int,
    ) -> Iterator[list[int | None]]:
        """The tokens of an answer. What takes no single row keeps no cache."""
        session = self.session
        if session.executable.limits["batch"].low > 1:
            self.reused = 0
            return session.tokens([sample], [telling], [0], new, rule, seed, self._sight)
        session.most(rule)
        logits_BV = self._prefill(sample, prompts, new)
        behind = prompts, logits_BV, self._caches, self._slots, new, [telling]
        if rule.beams > 1:
            return session.search(*behind, rule)
        return session.go_on(*behind, Chooser(rule, seed, [0], session.processor.ending.tokens))

    def _prefill(self, sample: Sample, prompts: Prompts, new: int) -> Tensor:
        """The logits behind a prompt, of which only what the cache lacks is fed."""
        session = self.session
        fed = _columns(prompts.inputs) | {"feature": self._features(sample, prompts)}
        # A prompt that had to be padded begins in another slot than it will next time.
        keeps = session.resumes and not prompts.first.any()
        since = self._same(fed) if keeps else 0
        self._grow(session.slots(prompts.length, new), since)
        self._fed = {name: column[:, :since] for name, column in self._fed.items()}
        media = session.processor.untold(sample, since).media
        told = session.prompts([sample], since)
        logits_BV = session.prefill(told, media, self._caches, self._sight, since)
        self._fed = fed if keeps else {}
        self.reused = since
        return logits_BV

    def _same(self, fed: Tensors) -> int:
        """How many slots hold what would be fed; the last one is fed always, for its logits."""
        if not self._fed:
            return 0
        length = min(self._fed["feature"].shape[1], fed["feature"].shape[1] - 1)
        same_T = torch.ones(length, dtype=torch.bool)
        for name, column in fed.items():
            equal = self._fed[name][:, :length] == column[:, :length]
            same_T &= equal.reshape(length, -1).all(-1)
        return int(same_T.long().cumprod(0).sum())

    def _grow(self, slots: int, kept: int) -> None:
        """A cache of so many slots at least; the first ones stay what they are."""
        if slots <= self._slots:
            return
        larger = self.session.executable.caches(1, slots)
        ports = self.session.executable.methods["decode"].caches
        for name, cache in self._caches.items():
            axis = ports[name].sizes.index("slots")
            larger[name].narrow(axis, 0, kept).copy_(cache.narrow(axis, 0, kept))
        self._caches, self._slots = larger, slots

    def _note(self, prompts: Prompts, tokens: list[int]) -> None:
        """Remember that tokens were fed behind a prompt, one by one."""
        if not self._fed or not tokens:
            return
        steps = [
            _columns(self.session.processor.next_inputs(prompts, torch.tensor([token]), slot))
            for slot, token in enumerate(tokens, prompts.length)
        ]
        text = torch.full((1, len(tokens)), -1)
        self._fed = {
            name: torch.cat([column, *(step[name] for step in steps)], dim=1)
            if name in FED
            else torch.cat([column, text], dim=1)
            for name, column in self._fed.items()
        }

    def _features(self, sample: Sample, prompts: Prompts) -> Tensor:
        """[B, T] a number for each feature that a place takes, made of its content; -1 for text."""
        number_T = torch.full((prompts.length,), -1)
        begin = int(prompts.first)
        for seen in sample.media:
            given = self.session.processor.inputs[seen.input]
            for part, starts in seen.starts.items():
                count = given.places(seen, part).patches
                for run, start in enumerate(starts):
                    asked = seen.questions[run].tobytes() if given.reads(part) else b""
                    name = blake2b(digest(seen) + part.encode() + asked, digest_size=7)
                    first = int.from_bytes(name.digest(), "big")
                    place = begin + start
                    number_T[place : place + count] = first + torch.arange(count)
        return number_T[None]


def _columns(inputs: Tensors) -> dict[str, Tensor]:
    return {name: inputs[name] for name in FED if name in inputs}

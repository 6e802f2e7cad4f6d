"""The answer that is likeliest as a whole, as far as a few beginnings of it tell: beam search.

As transformers' `generate(num_beams=K, early_stopping=False)` has it. Of each prompt K beginnings
go on; of the likeliest ways by a token further (2 K of them, and K more for each other token that
ends an answer), those that end one and are among the first K are kept, and the first K others go
on. It is over when no beginning is likelier than the least of K answers, each by its number of
tokens to the power of `length_penalty`.

Shape suffixes: K beams of a prompt, N rows of all prompts, V vocabulary.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..blocks.input.batch import Prompts
from ..blocks.input.processor import Processor
from .base import Executable, Tensors
from .sampling import Sampling, penalised, without

Tokens = tuple[int, ...]

HOPELESS = -1e9
"""The score of a beginning that only fills up."""


@dataclass(frozen=True)
class Beginning:
    """Some tokens of an answer, and the logarithm of how likely they are together."""

    tokens: Tokens
    score: float


class Search:
    """The search for one prompt's answer.

    Each step is told the logits behind every beginning, and then says how these go on: from which
    of them, `origins`, and by which token, `tokens`; at first there is one, of no tokens.
    """

    def __init__(
        self,
        sampling: Sampling,
        new: int,
        prompt: Sequence[int],
        ends: Sequence[int],
        over: Callable[[Tokens], bool],
    ) -> None:
        """`prompt` are the tokens that a repetition penalty counts from the first on, `ends` those
        that end an answer, of at most `new` tokens; `over` whether one that goes on is over."""
        self._sampling = sampling
        self._new = new
        self._prompt = [token for token in prompt if token >= 0]
        self._ends = list(ends)
        self._over = over
        self._answers: list[Beginning] = []
        self._beginnings = [Beginning((), 0.0)]
        self.origins = [0] * sampling.beams
        self.done = False
        """Whether the best answer is known."""

    @property
    def count(self) -> int:
        """How many beginnings there are: one, and then as many as there are beams."""
        return len(self._beginnings)

    @property
    def tokens(self) -> list[int]:
        """[K] the last token of each beginning."""
        return [beginning.tokens[-1] for beginning in self._beginnings]

    @property
    def best(self) -> Tokens:
        """The likeliest answer yet."""
        return self._answers[0].tokens

    def go_on(self, logits_KV: Tensor) -> None:
        """A token further; nothing changes when the best answer is known."""
        if self.done:
            return
        sampling, beams = self._sampling, self._sampling.beams
        sums_K1 = torch.tensor([[beginning.score] for beginning in self._beginnings])
        scores_KV = self._weighed(logits_KV) + sums_K1
        vocabulary = scores_KV.shape[1]
        most = beams * (1 + max(1, len(self._ends)))
        likeliest = scores_KV.flatten().topk(min(most, scores_KV.numel()))
        length = len(self._beginnings[0].tokens) + 1
        weight = length**sampling.length_penalty
        going: list[tuple[int, Beginning]] = []
        for rank, (score, place) in enumerate(
            zip(likeliest.values.tolist(), likeliest.indices.tolist(), strict=True)
        ):
            origin, token = divmod(place, vocabulary)
            tokens = (*self._beginnings[origin].tokens, token)
            if token in self._ends or length == self._new or self._over(tokens):
                if rank < beams:
                    self._answers.append(Beginning(tokens, score / weight))
            elif len(going) < beams:
                going.append((origin, Beginning(tokens, score)))
        self._answers = sorted(self._answers, key=lambda one: -one.score)[:beams]
        enough = len(self._answers) == beams
        if not going or (enough and going[0][1].score / weight <= self._answers[-1].score):
            # Rows that others share a batch with, and nobody listens to.
            self.origins, self._beginnings = [0] * beams, self._answers[:1] * beams
            self.done = True
            return
        # Where nearly all that is likely ends, fewer go on: the rest is filled up, without hope.
        origin, last = going[-1]
        going += [(origin, replace(last, score=HOPELESS))] * (beams - len(going))
        self.origins = [origin for origin, _ in going]
        self._beginnings = [beginning for _, beginning in going]

    def _weighed(self, logits_KV: Tensor) -> Tensor:
        """The logarithms of how likely each token is, as the rule changes them."""
        scores_KV = logits_KV.float().log_softmax(-1)
        if self._sampling.repetition_penalty != 1.0:
            seen_KV = torch.zeros_like(scores_KV, dtype=torch.bool)
            seen_KV[:, self._prompt] = True
            for seen_V, beginning in zip(seen_KV, self._beginnings, strict=True):
                seen_V[list(beginning.tokens)] = True
            scores_KV = penalised(scores_KV, seen_KV, self._sampling.repetition_penalty)
        if self._ends and len(self._beginnings[0].tokens) < self._sampling.min_new:
            scores_KV = without(scores_KV, self._ends)
        return scores_KV


def searched(
    executable: Executable,
    processor: Processor,
    prompts: Prompts,
    logits_NV: Tensor,
    caches: Tensors,
    slots: int,
    new: int,
    sampling: Sampling,
    each: int = 1,
) -> list[Tokens]:
    """The likeliest answer to each prompt, with the token that ends it.

    `prompts`, their logits and their caches, of so many slots, have `each` equal rows for a prompt.
    Beams are rows of caches of their own, which are put in order after each step.
    """
    length, ends = prompts.length, processor.ending.tokens
    new = min(new, slots + 1 - length)
    starts = range(0, len(logits_NV), each)
    searches = [
        Search(sampling, new, tokens, ends, processor.ends)
        for tokens in prompts.seen[::each].tolist()
    ]
    wide = executable.caches(len(searches) * sampling.beams, slots)
    for slot in range(length, length + new):
        for search, start in zip(searches, starts, strict=True):
            search.go_on(logits_NV[start : start + search.count].cpu())
        if all(search.done for search in searches):
            break
        origin_N = torch.tensor(
            [
                start + origin
                for search, start in zip(searches, starts, strict=True)
                for origin in search.origins
            ]
        )
        _put_in_order(executable, caches, wide, origin_N, slot)
        if caches is not wide:
            caches, prompts = wide, prompts.chosen(origin_N)
            starts = range(0, len(origin_N), sampling.beams)
        tokens_N = torch.tensor([token for search in searches for token in search.tokens])
        inputs = processor.next_inputs(prompts, tokens_N, slot)
        logits_NV = executable.fed("decode", inputs | dict(caches))["logits"]
    return [search.best for search in searches]


def _put_in_order(
    executable: Executable, caches: Tensors, to: Tensors, origin_N: Tensor, used: int
) -> None:
    """Write the used slots of these rows of caches, which may be the same that are written to."""
    for name, port in executable.methods["decode"].caches.items():
        rows, slots = port.sizes.index("batch"), port.sizes.index("slots")
        chosen = (
            caches[name].narrow(slots, 0, used).index_select(rows, origin_N.to(to[name].device))
        )
        to[name].narrow(slots, 0, used).copy_(chosen)

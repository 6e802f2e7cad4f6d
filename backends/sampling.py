"""How the next token is chosen: the likeliest, or drawn by a seeded generator.

The order of the steps is that of transformers' logits processors: repetition penalty, no end
before its time, temperature, top-k, top-p. Shape suffixes: B batch, V vocabulary, T tokens.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sampling:
    """The rule by which tokens are chosen; a temperature of 0 takes the likeliest.

    With several `beams` it is the answer that is to be likely as a whole (`search.py`); its
    likelihood is weighed by its length, as `length_penalty` says. No token ends an answer before
    `min_new` are said.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int | None = None
    repetition_penalty: float = 1.0
    min_new: int = 0
    beams: int = 1
    length_penalty: float = 1.0

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.repetition_penalty <= 0:
            raise ValueError("a temperature is 0 or more, a repetition penalty more than 0")
        if self.min_new < 0 or self.beams < 1:
            raise ValueError("an answer has 0 tokens at least or more, a search 1 beam or more")
        if self.beams > 1 and self.temperature > 0:
            raise ValueError("beams search for what is likeliest: their temperature is 0")
        if not 0 < self.top_p <= 1 or (self.top_k is not None and self.top_k < 1):
            raise ValueError("top_p lies above 0 and up to 1, top_k is 1 or more")

    @classmethod
    def from_spec(cls, spec: Mapping[str, Any]) -> Sampling:
        """The rule of a recipe's mode: `greedy(...)`, `sample(...)` or `beams(...)`.

        >>> Sampling.from_spec({"call": "beams", "count": 5}).beams
        5
        """
        return cls(
            **{
                "beams" if name == "count" else name: value
                for name, value in spec.items()
                if name != "call"
            }
        )


class Chooser:
    """Chooses the next token of each row; a row's draws depend on the seed and its number alone."""

    def __init__(
        self, sampling: Sampling, seed: int, numbers: Sequence[int], ends: Sequence[int] = ()
    ) -> None:
        """`numbers` tells the rows apart: the numbers of their dialogues; `ends` are the tokens
        that end an answer."""
        self._sampling = sampling
        self._ends = list(ends)
        self._chosen = 0
        self._generators = [
            torch.Generator().manual_seed((seed << 20) + number) for number in numbers
        ]
        self._seen_BV: Tensor | None = None

    def see(self, tokens_BT: Tensor, vocabulary: int) -> None:
        """Tokens that a repetition penalty counts; negative ones are skipped."""
        if self._sampling.repetition_penalty == 1.0:
            return
        if self._seen_BV is None:
            self._seen_BV = torch.zeros(len(tokens_BT), vocabulary, dtype=torch.bool)
        here_BT = tokens_BT >= 0
        rows_BT = torch.arange(len(tokens_BT))[:, None].expand_as(tokens_BT)
        self._seen_BV[rows_BT[here_BT], tokens_BT[here_BT]] = True

    def choose(self, logits_BV: Tensor) -> Tensor:
        """[B] the next token of each row."""
        scores_BV = logits_BV.float()
        if self._seen_BV is not None:
            scores_BV = penalised(scores_BV, self._seen_BV, self._sampling.repetition_penalty)
        if self._ends and self._chosen < self._sampling.min_new:
            scores_BV = without(scores_BV, self._ends)
        self._chosen += 1
        if self._sampling.temperature == 0:
            return scores_BV.argmax(-1)
        p_BV = kept(scores_BV / self._sampling.temperature, self._sampling).softmax(-1)
        drawn = [
            torch.multinomial(p_V, 1, generator=generator)
            for p_V, generator in zip(p_BV, self._generators, strict=True)
        ]
        return torch.cat(drawn)


def penalised(scores_BV: Tensor, seen_BV: Tensor, penalty: float) -> Tensor:
    """The scores, those of tokens that were seen so many times lower."""
    lowered_BV = torch.where(scores_BV < 0, scores_BV * penalty, scores_BV / penalty)
    return torch.where(seen_BV, lowered_BV, scores_BV)


def without(scores_BV: Tensor, tokens: Sequence[int]) -> Tensor:
    """The scores, with minus infinity for these tokens."""
    return scores_BV.index_fill(-1, torch.tensor(tokens), float("-inf"))


def kept(scores_BV: Tensor, sampling: Sampling) -> Tensor:
    """The scores, with minus infinity where top-k or top-p leaves a token out.

    Of equally likely tokens at the edge of top-k all stay; top-p keeps the fewest tokens that reach
    its share, and always one.

    >>> scores = torch.tensor([[3.0, 2.0, 1.0, 0.0]])
    >>> kept(scores, Sampling(1.0, top_k=2))
    tensor([[3., 2., -inf, -inf]])
    >>> kept(scores, Sampling(1.0, top_p=0.7))
    tensor([[3., 2., -inf, -inf]])
    """
    if sampling.top_k is not None and sampling.top_k < scores_BV.shape[-1]:
        edge_B1 = scores_BV.topk(sampling.top_k).values[:, -1:]
        scores_BV = scores_BV.masked_fill(scores_BV < edge_B1, float("-inf"))
    if sampling.top_p < 1:
        sorted_BV, order_BV = scores_BV.sort(descending=True)
        p_BV = sorted_BV.softmax(-1)
        beyond_BV = p_BV.cumsum(-1) - p_BV >= sampling.top_p
        out_BV = torch.zeros_like(beyond_BV).scatter_(1, order_BV, beyond_BV)
        scores_BV = scores_BV.masked_fill(out_BV, float("-inf"))
    return scores_BV

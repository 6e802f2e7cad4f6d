"""Pictures with their texts, for objectives that compare the two.

An objective names the layout in which it reads a text; the pairs of a batch are compared with one
another.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from .batch import stacked
from .media import Change
from .processor import Processor
from .sample import Attachment, Sample, Seen, Turn

TEXT = "text"
"""The rule of a layout that writes a text alone."""


@dataclass(frozen=True, slots=True)
class Pair:
    """A picture, and its text as each layout writes it.

    Pairs of one `group` show the same picture.
    """

    seen: Seen
    texts: Mapping[str, Sample]
    group: int
    is_empty: bool

    @property
    def length(self) -> int:
        """Tokens of the longest of its texts."""
        return max(text.length for text in self.texts.values())

    @property
    def nbytes(self) -> int:
        """The memory that it takes, in bytes."""
        return self.seen.frames.nbytes + sum(text.nbytes for text in self.texts.values())


class Pairs:
    """Makes pairs, and what the objectives of a stage are fed of a batch of them."""

    def __init__(self, processor: Processor, objectives: Mapping[str, Mapping[str, Any]]) -> None:
        """`objectives` is what the spec of a stage says under `pairs`."""
        self._processor = processor
        self._objectives = objectives
        self._layouts = dict.fromkeys(one["layout"] for one in objectives.values())

    def pair(self, shown: Attachment, text: str, group: int, change: Change | None = None) -> Pair:
        """A picture with its text; ValueError says why it cannot be used."""
        turns = [Turn(TEXT, (text,))]
        texts = {name: self._processor.sample(turns, layouts=[name]) for name in self._layouts}
        seen = self._processor.inputs[shown.input].see(shown, change)
        return Pair(seen, texts, group, not text.strip())

    def batch(self, pairs: Sequence[Pair], chance: np.random.Generator) -> dict[str, Tensor]:
        """The inputs of `prefix` and `step`."""
        (name,) = {pair.seen.input for pair in pairs}
        inputs = self._processor.inputs[name].feed([pair.seen for pair in pairs])
        for objective, said in self._objectives.items():
            feeds = FEEDS[said["kind"]](said, pairs, chance)
            feeds["weight"] = feeds["weight"] * said["weight"]
            texts = feeds.pop("texts")
            feeds |= written(texts, self._processor.pad)
            inputs |= {f"{objective}.{feed}": tensor for feed, tensor in feeds.items()}
        return inputs


def written(texts: Sequence[Sample], pad: int) -> dict[str, Tensor]:
    """Texts as rows of tokens, padded on the right, and where each of them ends."""
    tokens = [torch.from_numpy(text.ids) for text in texts]
    return {
        "tokens": stacked(tokens, max(map(len, tokens)), pad),
        "last": torch.tensor([len(ids) - 1 for ids in tokens]),
    }


def _contrast(
    said: Mapping[str, Any], pairs: Sequence[Pair], chance: np.random.Generator
) -> dict[str, Any]:
    """Each text with its picture; a text without content is an answer, and is not scored."""
    groups = [pair.group for pair in pairs] if said["right"] == "picture" else _own(len(pairs))
    return {
        "texts": [pair.texts[said["layout"]] for pair in pairs],
        "picture": torch.arange(len(pairs)),
        "group": torch.tensor(groups),
        "weight": _mean(not pair.is_empty for pair in pairs),
    }


def _own(count: int) -> list[int]:
    """A group for each pair, whatever it shows; those of other processes have other numbers."""
    started = torch.distributed.is_available() and torch.distributed.is_initialized()
    rank = torch.distributed.get_rank() if started else 0
    return [rank * count + number for number in range(count)]


def _match(
    said: Mapping[str, Any], pairs: Sequence[Pair], chance: np.random.Generator
) -> dict[str, Any]:
    """Pictures with texts of others, then with their own: half of them each, or all with both.

    Where the model draws the others itself, it is given each pair once, and three answers.
    """
    count = len(pairs)
    if said["negatives"] == "hard":
        return {
            "texts": [pair.texts[said["layout"]] for pair in pairs],
            "picture": torch.arange(count),
            "target": torch.tensor([1, 0, 0]).repeat_interleave(count),
            "weight": torch.full((3 * count,), 1 / (3 * count)),
        }
    own = np.arange(count)
    others = np.array([_other(pairs, number, chance) for number in range(count)])
    if said["negatives"] == "half":
        pictures, first = own, count - count // 2
        texts = np.concatenate([others[:first], own[first:]])
    else:
        pictures, first = np.concatenate([own, own]), count
        texts = np.concatenate([others, own])
    return {
        "texts": [pairs[text].texts[said["layout"]] for text in texts],
        "picture": torch.from_numpy(pictures),
        "target": torch.from_numpy((np.arange(len(texts)) >= first).astype(np.int64)),
        "weight": _mean(not pairs[text].is_empty and text >= 0 for text in texts),
    }


def _other(pairs: Sequence[Pair], number: int, chance: np.random.Generator) -> int:
    """A pair with another picture; where there is none, -1: the last, which is then not scored."""
    others = [i for i, pair in enumerate(pairs) if pair.group != pairs[number].group]
    return int(chance.choice(others)) if others else -1


def _caption(
    said: Mapping[str, Any], pairs: Sequence[Pair], chance: np.random.Generator
) -> dict[str, Any]:
    """Each text behind its picture, and which of its tokens are scored."""
    texts = [pair.texts[said["layout"]] for pair in pairs]
    width = max(text.length for text in texts)
    scored = [np.nonzero(text.supervised[1:])[0] for text in texts]
    index = np.concatenate([number * width + places for number, places in enumerate(scored)])
    targets = [text.ids[1:][places] for text, places in zip(texts, scored, strict=True)]
    return {
        "texts": texts,
        "picture": torch.arange(len(pairs)),
        "index": torch.from_numpy(index),
        "targets": torch.from_numpy(np.concatenate(targets)),
        "weight": torch.full((len(index),), 1 / max(1, len(index))),
    }


def _mean(scored: Iterable[bool]) -> Tensor:
    """The share of each row in a mean over those that are scored."""
    weight = torch.tensor([float(one) for one in scored])
    return weight / weight.sum().clamp(min=1)


FEEDS = {"contrast": _contrast, "match": _match, "caption": _caption}
"""What each kind of objective is fed, by its name in the spec."""

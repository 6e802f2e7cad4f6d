"""Between the data and the step: examples become samples, samples the inputs of a stage."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from ..blocks.input.batch import Share
from ..blocks.input.processor import Processor
from ..blocks.input.sample import Attachment, Sample, Turn
from ..dsl.recipe import Stage
from .data import Example

PAIR = "pair"
"""The rule of a layout that lays out a picture or clip with its text as one whole."""


class Samples:
    """Makes samples for a stage, and cuts batches of them into shards.

    A batch becomes `accumulate` times `workers` shards, fewer if it has fewer rows.
    """

    def __init__(
        self,
        spec: Mapping[str, Any],
        stage: Stage,
        resources: Path | None = None,
        *,
        workers: int = 1,
        device: str = "cpu",
    ) -> None:
        self.processor = Processor(spec, resources)
        rules = [spec["layouts"][name]["rules"] for name in spec["layout"]]
        # The first layout that can take a picture with an answer says in which form it comes.
        self._pairs = next((PAIR in one for one in rules if PAIR in one or "user" in one), False)
        self._scores_text = "lm" in stage.loss
        self._scores_regions = any(name != "lm" for name in stage.loss)
        self._pack = stage.pack
        self._shards = stage.accumulate * workers
        self._device = device

    def prepare(self, example: Example) -> Sample:
        """The example in tokens and resized pictures; ValueError says why it cannot be used."""
        turns = as_pair(example.turns) if self._pairs else example.turns
        sample = self.processor.sample(turns, example.regions if self._scores_regions else ())
        if self._pack and sample.length > self._pack:
            raise ValueError(f"{sample.length} tokens are more than the {self._pack} of a pack")
        scored = (sample.targets if self._scores_text else 0) + len(sample.regions)
        if not scored:
            missing = "nothing in it is supervised" if self._scores_text else "it has no regions"
            raise ValueError(f"there is nothing to learn from it: {missing}")
        return sample

    def collate(self, samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        """The inputs of each shard; the losses of all shards add up to that of the batch."""
        rows = packed(samples, self._pack) if self._pack else [[sample] for sample in samples]
        share = Share.of(samples)
        shards = (self.processor.train_batch(part, share=share) for part in cut(rows, self._shards))
        return [
            {name: tensor.to(self._device) for name, tensor in shard.items()} for shard in shards
        ]


def as_pair(turns: Sequence[Turn]) -> Sequence[Turn]:
    """One picture or clip and the answer to it as one whole; other dialogues as they are."""
    match turns:
        case [
            Turn(role="user", parts=(Attachment() as shown,)),
            Turn(role="assistant", parts=(str(text),)),
        ]:
            return [Turn(PAIR, (shown, text))]
    return turns


def packed(samples: Sequence[Sample], length: int) -> list[list[Sample]]:
    """Rows of neighbouring samples, each as full as `length` allows."""
    rows: list[list[Sample]] = [[]]
    room = length
    for sample in samples:
        if sample.length > room:
            rows.append([])
            room = length
        rows[-1].append(sample)
        room -= sample.length
    return rows


def cut(rows: Sequence[list[Sample]], count: int) -> list[Sequence[list[Sample]]]:
    """The rows in order, in at most `count` shards of sizes that differ by one at most."""
    count = min(count, len(rows))
    edges = [len(rows) * shard // count for shard in range(count + 1)]
    return [rows[start:end] for start, end in pairwise(edges)]

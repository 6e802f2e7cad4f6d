"""Between the data and the step: examples become samples, samples the inputs of a stage."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

from torch import Tensor

from ..blocks.input.augment import augmented
from ..blocks.input.batch import Share
from ..blocks.input.media import Change
from ..blocks.input.pairs import Pair, Pairs
from ..blocks.input.processor import Processor
from ..blocks.input.sample import Attachment, Sample, Turn
from ..dsl.stages import By, RandomCrop, Stage
from .data import Example, generator, number_of

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
        seed: str = "",
        workers: int = 1,
        device: str = "cpu",
    ) -> None:
        """What is drawn depends on the seed and on the position of the example."""
        self.processor = Processor(spec, resources)
        self._rules = {name: spec["layouts"][name]["rules"] for name in spec["layout"]}
        self._layouts = stage.layout.layouts if isinstance(stage.layout, By) else {}
        self._crops = any(isinstance(call, RandomCrop) for call in stage.augment)
        self._augment = [call.model_dump() for call in stage.augment]
        self.window = stage.group_by_length or int(bool(stage.apart) or self.processor.draws)
        """Whole batches of positions that samples stay in; 0 where batches follow each other."""
        self._seed = seed
        self._lot = stage.batch * max(1, self.window)
        self._scores_text = "lm" in stage.loss
        self._scores_regions = any(name != "lm" for name in stage.loss)
        self._pack = stage.pack
        self._pack_by_kind = stage.pack_by_kind
        self._shards = stage.accumulate * workers
        self._device = device

    def prepare(self, example: Example) -> Sample:
        """The example in tokens and resized pictures; ValueError says why it cannot be used."""
        if self._crops and (example.boxes or (example.regions and self._scores_regions)):
            raise ValueError("its boxes would not be where they were in a random crop")
        layouts = self._layouts.get(example.kind)
        turns: Sequence[Turn] = example.turns
        if self._in_pairs(layouts):
            turns = as_pair(turns, asked=self._asks(layouts))
        sample = self.processor.sample(
            turns,
            example.regions if self._scores_regions else (),
            layouts=layouts,
            lot=number_of(f"{self._seed}/lot/{example.position // self._lot}"),
            change=self._change(example) if self._augment else None,
        )
        if self._pack and sample.length > self._pack:
            raise ValueError(f"{sample.length} tokens are more than the {self._pack} of a pack")
        scored = (sample.targets if self._scores_text else 0) + len(sample.regions)
        if not scored:
            missing = "nothing in it is supervised" if self._scores_text else "it has no regions"
            raise ValueError(f"there is nothing to learn from it: {missing}")
        return replace(sample, kind=example.kind) if self._pack_by_kind else sample

    @property
    def varies(self) -> bool:
        """Whether an example is another sample each time that it is drawn."""
        return self.processor.draws or bool(self._augment)

    def _in_pairs(self, layouts: Collection[str] | None) -> bool:
        """Whether the first layout that can take a picture with an answer takes them as one."""
        chosen = (rules for name, rules in self._rules.items() if not layouts or name in layouts)
        return next((PAIR in one for one in chosen if PAIR in one or "user" in one), False)

    def _asks(self, layouts: Collection[str] | None) -> bool:
        """Whether a layout has a place for what is asked."""
        return any(
            "user" in rules for name, rules in self._rules.items() if not layouts or name in layouts
        )

    def _change(self, example: Example) -> Change:
        """What becomes of the pictures of an example, one after another."""
        chance = generator(f"{self._seed}/augment/{example.position}")
        return lambda picture: augmented(picture, self._augment, chance)

    def collate(self, samples: Sequence[Sample]) -> list[dict[str, Tensor]]:
        """The inputs of each shard; the losses of all shards add up to that of the batch."""
        rows = packed(samples, self._pack) if self._pack else [[sample] for sample in samples]
        share = Share.of(samples)
        shards = (self.processor.train_batch(part, share=share) for part in cut(rows, self._shards))
        return [
            {name: tensor.to(self._device) for name, tensor in shard.items()} for shard in shards
        ]


class PairSamples(Samples):
    """Makes samples for a stage whose objectives compare the pictures and texts of a batch.

    Such a batch is one shard: what it holds is what each of its samples is told apart from.
    """

    def __init__(self, spec: Mapping[str, Any], stage: Stage, *rest: Any, **options: Any) -> None:
        """As for `Samples`."""
        super().__init__(spec, stage, *rest, **options)
        self._pairs = Pairs(self.processor, spec["pairs"])

    def prepare(self, example: Example) -> Pair:  # type: ignore[override]
        """The example's picture, and its text in all layouts; ValueError says what is missing."""
        parts = [part for turn in example.turns for part in turn.parts]
        shown = next((part for part in parts if isinstance(part, Attachment)), None)
        if shown is None:
            raise ValueError("there is nothing to compare its text with: it shows no picture")
        said = [part for turn in example.turns[-1:] for part in turn.parts]
        text = " ".join(part for part in said if isinstance(part, str))
        name = shown.content if isinstance(shown.content, Path) else example.position
        change = self._change(example) if self._augment else None
        return self._pairs.pair(shown, text, number_of(str(name)) % 2**62, change)

    def collate(self, samples: Sequence[Pair]) -> list[dict[str, Tensor]]:  # type: ignore[override]
        """The inputs of the one shard; what is drawn depends on the seed and the samples."""
        drawn = generator(f"{self._seed}/pairs/{[pair.group for pair in samples]}")
        inputs = self._pairs.batch(samples, drawn)
        return [{name: tensor.to(self._device) for name, tensor in inputs.items()}]


def as_pair(turns: Sequence[Turn], *, asked: bool = True) -> Sequence[Turn]:
    """One picture or clip and the answer to it as one whole; other dialogues as they are.

    Where no layout has a place for what is `asked`, it is left out, as LLaVA's `plain` does.
    """
    match turns:
        case [Turn(role="user", parts=parts), Turn(role="assistant", parts=(str(text),))]:
            shown = [part for part in parts if isinstance(part, Attachment)]
            if len(shown) == 1 and (not asked or len(parts) == 1):
                return [Turn(PAIR, (shown[0], text))]
    return turns


def packed(samples: Sequence[Sample], length: int) -> list[list[Sample]]:
    """Rows of neighbouring samples of one kind, each as full as `length` allows."""
    kinds = {sample.kind: [one for one in samples if one.kind == sample.kind] for sample in samples}
    return [row for alike in kinds.values() for row in _packed(alike, length)]


def _packed(samples: Sequence[Sample], length: int) -> list[list[Sample]]:
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

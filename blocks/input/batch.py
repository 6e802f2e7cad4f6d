"""Samples -> tensors under the names of a program's inputs.

Shape suffixes: B batch, T tokens, D head width, S streams of positions.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from .media import MediaInput
from .positions import TextPositions
from .sample import Sample, Seen


@dataclass(frozen=True, slots=True)
class Share:
    """What a part of a batch must know of the whole, so that the losses of its parts add up.

    `targets` and `regions` are counts of the whole batch, `labels` all of its labels, each once.
    """

    targets: int
    regions: int
    labels: tuple[str, ...]

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Share:
        """That of a whole batch."""
        pools = [pool for sample in samples for pool in sample.regions]
        return cls(
            sum(sample.targets for sample in samples),
            len(pools),
            tuple(sorted({pool.label for pool in pools})),
        )


@dataclass(frozen=True, slots=True)
class Prompts:
    """Dialogues ready for their answers: the inputs of the vision methods and of `prefill`.

    `inputs` has the patches of an input only where a dialogue shows something to it. `first`, [B],
    is the slot of each row's first token; `delta`, [B], is how far positions are ahead of places.
    """

    inputs: Mapping[str, Tensor]
    first: Tensor
    delta: Tensor

    @property
    def length(self) -> int:
        """The slots that the prompts take, padding included: the next token goes to this slot."""
        return self.inputs["text.tokens"].shape[1]

    @property
    def seen(self) -> Tensor:
        """[B, T] the tokens, -1 where they are padded."""
        tokens_BT = self.inputs["text.tokens"]
        padded_BT = torch.arange(tokens_BT.shape[1]) < self.first[:, None]
        return tokens_BT.masked_fill(padded_BT, -1)

    def chosen(self, row_N: Tensor) -> Prompts:
        """These rows of the text, each as often as it is told."""
        text = {name: x[row_N] for name, x in self.inputs.items() if name.startswith("text.")}
        return Prompts(text, self.first[row_N], self.delta[row_N])

    def piece(self, begin: int, end: int) -> dict[str, Tensor]:
        """The inputs of `prefill` for the slots of a stretch; it sees those before in the cache."""
        text = {name: x for name, x in self.inputs.items() if name.startswith("text.")}
        cut = {name: x[:, begin:end] if x.dim() > 1 else x for name, x in text.items()}
        return cut | {"text.last": torch.full_like(self.first, end - begin - 1)}


class Batches:
    """Puts samples together: all it knows of a model are its inputs and its positions."""

    def __init__(
        self,
        encode: Callable[[str], list[int]],
        pad: int,
        inputs: Mapping[str, MediaInput],
        features: Sequence[tuple[str, str]],
        positions: TextPositions,
    ) -> None:
        """`features` are the parts whose rows the language model takes, and the input of each."""
        self._encode = encode
        self.pad = pad
        self.inputs = inputs
        self.features = features
        self.positions = positions

    def train_batch(
        self,
        rows: Sequence[Sequence[Sample]],
        *,
        share: Share | None = None,
        length: int | None = None,
    ) -> dict[str, Tensor]:
        """The inputs of `prefix` and `step`: rows of packed samples, padded on the right.

        `share` is that of the whole batch where the rows are a part of one; `length` pads further
        than the longest row. What a part lacks (pictures, targets, regions) is fed once all the
        same, and counts nothing: all parts of a batch run the same operations.
        """
        samples = [sample for row in rows for sample in row]
        share = share or Share.of(samples)
        inputs = self._feeds(samples, everywhere=True)
        begins, first = self._begins(samples, everywhere=True)
        inputs |= self._packed(rows, begins, length)
        inputs |= _scored(rows, inputs["text.tokens"].shape[1], share.targets)
        return inputs | self._regions(samples, begins, first, share)

    def prompt_batch(self, samples: Sequence[Sample], *, length: int | None = None) -> Prompts:
        """The inputs of the vision methods and of `prefill`: prompts, padded on the left.

        `length` pads further than the longest.
        """
        prompts = self.prompts(samples, length=length)
        return replace(
            prompts, inputs=self._feeds(samples, everywhere=False) | dict(prompts.inputs)
        )

    def prompts(
        self, samples: Sequence[Sample], *, length: int | None = None, since: int = 0
    ) -> Prompts:
        """The same without what the towers take.

        Of each sample, the language model has been told what stands before the place `since`: the
        features that are fed are those of the media that `untold` names.
        """
        begins, _ = self._begins([self.untold(sample, since) for sample in samples])
        width = max([length or 0, *(sample.length for sample in samples)])
        tokens = [torch.from_numpy(sample.ids) for sample in samples]
        index = [
            self._feature_index(self.untold(sample, since), rows)
            for sample, rows in zip(samples, begins, strict=True)
        ]
        positions, deltas = zip(*(self.token_positions(sample) for sample in samples), strict=True)
        lengths = [_lengths([sample]) for sample in samples]
        cos_BTD, sin_BTD = self._tables(positions, lengths, width, left=True)
        first_B = torch.tensor([width - sample.length for sample in samples])
        place_BT = (torch.arange(width) - first_B[:, None]).clamp(min=0)
        inputs = {
            "text.tokens": stacked(tokens, width, self.pad, left=True),
            "text.feature_index": stacked(index, width, -1, left=True),
            "text.cos": cos_BTD,
            "text.sin": sin_BTD,
            "text.slot": torch.arange(width).repeat(len(samples), 1),
            "text.first": first_B,
            "text.last": torch.full((len(samples),), width - 1),
        } | self._query_scale(place_BT)
        return Prompts(inputs, first_B, torch.tensor(deltas))

    def next_inputs(self, prompts: Prompts, tokens_B: Tensor, slot: int) -> dict[str, Tensor]:
        """The inputs of `decode`: one more token of each row, which goes to `slot`."""
        place_B1 = (slot - prompts.first)[:, None]
        position_SB1 = (place_B1 + prompts.delta[:, None]).expand(self.positions.streams, -1, -1)
        length_B1 = self.positions.length((prompts.length - prompts.first)[:, None], place_B1 + 1)
        cos_B1D, sin_B1D = self.positions.tables(position_SB1, length_B1)
        return {
            "text.tokens": tokens_B[:, None],
            "text.cos": cos_B1D,
            "text.sin": sin_B1D,
            "text.slot": torch.full_like(tokens_B[:, None], slot),
            "text.first": prompts.first,
        } | self._query_scale(place_B1)

    def token_positions(self, sample: Sample) -> tuple[Tensor, int]:
        """The positions of a sample's tokens in each stream, [S, T], and its delta.

        A token that follows at place t has position t + delta in all streams.
        """
        places = [
            (start, self.inputs[seen.input].places(seen, part))
            for seen in sample.media
            for part, starts in seen.starts.items()
            for start in starts
        ]
        return self.positions.index(sample.length, tuple(sorted(places)))

    def untold(self, sample: Sample, since: int) -> Sample:
        """A sample without the media that have no place from `since` on."""
        media = tuple(
            seen
            for seen in sample.media
            if any(
                start + self.inputs[seen.input].places(seen, part).patches > since
                for part, starts in seen.starts.items()
                for start in starts
            )
        )
        return replace(sample, media=media)

    def asked(self, media: Sequence[Seen], *, everywhere: bool = False) -> dict[str, Tensor]:
        """What is asked about each medium, for parts that read it; if nothing is, one token."""
        reading = [name for part, name in self.features if self.inputs[name].reads(part)]
        if not reading:
            return {}
        shown = [seen for seen in media if seen.input == reading[0]]
        asked = [(ids, place) for place, seen in enumerate(shown) for ids in seen.questions]
        if not asked and not everywhere:
            return {}
        asked = asked or [(np.array([self.pad]), 0)]
        tokens = [torch.from_numpy(ids) for ids, _ in asked]
        return {
            "question.tokens": stacked(tokens, max(map(len, tokens)), self.pad),
            "question.last": torch.tensor([len(ids) - 1 for ids in tokens]),
            "question.picture": torch.tensor([place for _, place in asked]),
        }

    def _feeds(self, samples: Sequence[Sample], *, everywhere: bool) -> dict[str, Tensor]:
        """What the towers take, and the parts that read what is asked."""
        tensors: dict[str, Tensor] = {}
        media = [seen for sample in samples for seen in sample.media]
        for name, given in self.inputs.items():
            shown = [seen for seen in media if seen.input == name]
            if shown or everywhere:
                tensors |= given.feed(shown)
        return tensors | self.asked(media, everywhere=everywhere)

    def _begins(
        self, samples: Sequence[Sample], *, everywhere: bool = False
    ) -> tuple[list[list[dict[str, int]]], int]:
        """The first row of each part's features of each medium of each sample, and how many rows
        the first part has. Rows stand part by part and input by input, as `features` has them."""
        begins: list[list[dict[str, int]]] = [[{} for _ in sample.media] for sample in samples]
        rows_of: list[int] = []
        total = 0
        for part, name in self.features:
            given, before = self.inputs[name], total
            for sample, rows in zip(samples, begins, strict=True):
                for seen, begin in zip(sample.media, rows, strict=True):
                    if seen.input == name:
                        begin[part] = total
                        times = len(seen.questions) if given.reads(part) else 1
                        total += times * given.places(seen, part).patches
            if total == before and everywhere:
                total += given.places(given.empty(), part).patches
            rows_of.append(total - before)
        return begins, next(iter(rows_of), 0)

    def _packed(
        self,
        rows: Sequence[Sequence[Sample]],
        begins: Sequence[Sequence[Mapping[str, int]]],
        length: int | None,
    ) -> dict[str, Tensor]:
        """The inputs of the decoder; positions and segment ids start anew with each sample."""
        width = max([length or 0, *(sum(sample.length for sample in row) for row in rows)])
        ahead = iter(begins)
        tokens, index, segments, positions = [], [], [], []
        for row in rows:
            tokens.append(torch.cat([torch.from_numpy(sample.ids) for sample in row]))
            index.append(torch.cat([self._feature_index(sample, next(ahead)) for sample in row]))
            lengths = torch.tensor([sample.length for sample in row])
            segments.append(torch.repeat_interleave(torch.arange(1, len(row) + 1), lengths))
            positions.append(torch.cat([self.token_positions(sample)[0] for sample in row], dim=1))
        cos_BTD, sin_BTD = self._tables(positions, [_lengths(row) for row in rows], width)
        return {
            "text.tokens": stacked(tokens, width, self.pad),
            "text.feature_index": stacked(index, width, -1),
            "text.cos": cos_BTD,
            "text.sin": sin_BTD,
            "text.segment_id": stacked(segments, width, 0),
        }

    def _feature_index(self, sample: Sample, begins: Sequence[Mapping[str, int]]) -> Tensor:
        """[T] the feature row of each token; -1 where it is text."""
        index_T = torch.full((sample.length,), -1)
        for seen, begin in zip(sample.media, begins, strict=True):
            for part, starts in seen.starts.items():
                given = self.inputs[seen.input]
                tokens = given.places(seen, part).patches
                for number, start in enumerate(starts):
                    # A part that reads makes other features for each question.
                    row = begin[part] + (number * tokens if given.reads(part) else 0)
                    index_T[start : start + tokens] = torch.arange(row, row + tokens)
        return index_T

    def _tables(
        self,
        positions: Sequence[Tensor],
        lengths: Sequence[Tensor],
        width: int,
        *,
        left: bool = False,
    ) -> tuple[Tensor, Tensor]:
        streams = [
            stacked([position_ST[stream] for position_ST in positions], width, 0, left=left)
            for stream in range(self.positions.streams)
        ]
        length_BT = stacked(lengths, width, 1, left=left)
        return self.positions.tables(torch.stack(streams), length_BT)

    def _query_scale(self, place_BT: Tensor) -> dict[str, Tensor]:
        scale_BT = self.positions.query_scale(place_BT)
        return {} if scale_BT is None else {"text.query_scale": scale_BT}

    def _regions(
        self,
        samples: Sequence[Sample],
        begins: Sequence[Sequence[Mapping[str, int]]],
        features: int,
        share: Share,
    ) -> dict[str, Tensor]:
        """Regions as rows of shares of the first part's features; if none, one that counts 0."""
        pools = [
            (pool, rows[0][self.features[0][0]])
            for sample, rows in zip(samples, begins, strict=True)
            for pool in sample.regions
        ]
        pool_RM = torch.zeros(max(1, len(pools)), features)
        target_R = torch.zeros(len(pool_RM), dtype=torch.int64)
        for number, (pool, begin) in enumerate(pools):
            pool_RM[number, begin : begin + len(pool.shares)] = torch.from_numpy(pool.shares)
            target_R[number] = share.labels.index(pool.label)
        words = [torch.tensor(self._encode(label)) for label in share.labels]
        words = words or [torch.tensor([self.pad])]
        longest = max(map(len, words))
        return {
            "regions.pool": pool_RM,
            "regions.words": stacked(words, longest, self.pad),
            "regions.word_mask": stacked([torch.ones(len(one)) for one in words], longest, 0.0),
            "regions.target": target_R,
            "regions.weight": torch.full((len(pool_RM),), 1 / share.regions if pools else 0.0),
        }


def _scored(rows: Sequence[Sequence[Sample]], width: int, targets: int) -> dict[str, Tensor]:
    """Which logits are scored, against what; a part without any target has one that counts 0."""
    index: list[int] = []
    found: list[int] = []
    for number, row in enumerate(rows):
        begin = number * width
        for sample in row:
            (scored,) = np.nonzero(sample.supervised[1:])
            index += (begin + scored).tolist()
            found += sample.ids[1:][scored].tolist()
            begin += sample.length
    weight = 1 / targets if found else 0.0
    return {
        "loss.index": torch.tensor(index or [0]),
        "loss.targets": torch.tensor(found or [0]),
        "loss.weight": torch.full((len(found) or 1,), weight),
    }


def _lengths(row: Sequence[Sample]) -> Tensor:
    """[T] for each token of a row, how many tokens its sample has."""
    lengths = torch.tensor([sample.length for sample in row])
    return torch.repeat_interleave(lengths, lengths)


def stacked(columns: Sequence[Tensor], width: int, fill: float, *, left: bool = False) -> Tensor:
    """Vectors as the rows of a matrix, padded to a width on the right, or on the left."""
    matrix = torch.full((len(columns), width), fill, dtype=columns[0].dtype)
    for row, column in zip(matrix, columns, strict=True):
        begin = width - len(column) if left else 0
        row[begin : begin + len(column)] = column
    return matrix

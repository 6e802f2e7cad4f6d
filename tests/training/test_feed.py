"""Batches depend on the position alone, and no sample is dropped without a word."""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from itertools import islice

import pytest
import torch

from triptych.backends.data import DataError, Example, Mixture
from triptych.backends.feed import Ahead, Feed
from triptych.blocks.input.sample import Turn


class Numbers:
    """Samples that say their index; those in `bad` cannot be used."""

    name = "numbers.json"
    digest = ""

    def __init__(self, count=10, bad=()):
        self.count, self.bad, self.reads = count, bad, 0

    def __len__(self):
        return self.count

    def read(self, index):
        self.reads += 1
        if index in self.bad:
            raise ValueError(f"{index} is bad")
        return Example((Turn("assistant", (str(index),)),))


@dataclass(frozen=True)
class Sample:
    number: int
    length: int = 3
    nbytes: int = 100


def prepare(example):
    (text,) = example.turns[0].parts
    return Sample(int(text))


def collate(samples):
    return [{"x": torch.tensor([sample.number])} for sample in samples]


def feed(source, **options):
    mixture = Mixture({"n": source}, {"n": 1})
    return Feed(mixture, prepare, collate, **{"batch": 3, **options})


def numbers(batch):
    return [number for shard in batch.shards for number in shard["x"].tolist()]


def test_each_epoch_is_gone_through_without_the_bad():
    batches = list(islice(feed(Numbers(bad={4})).batches(0), 6))
    drawn = [number for batch in batches for number in numbers(batch)]
    assert sorted(drawn[:9]) == sorted(drawn[9:]) == [0, 1, 2, 3, 5, 6, 7, 8, 9]
    bad = [one for batch in batches for one in batch.bad]
    assert {str(one) for one in bad} == {"numbers.json[4]: 4 is bad"}
    assert len(bad) == 2
    assert batches[-1].position == 20
    assert batches[0].tokens == 9
    assert batches[0].names == tuple(f"numbers.json[{n}]" for n in numbers(batches[0]))


@pytest.mark.parametrize("options", [{}, {"loaders": 3}, {"memory": 350}, {"memory": 10**6}])
def test_any_position_continues_the_same_batches(options):
    whole = list(islice(feed(Numbers(bad={4, 7})).batches(0), 9))
    first = list(islice(feed(Numbers(bad={4, 7}), **options).batches(0), 4))
    rest = list(islice(feed(Numbers(bad={4, 7}), **options).batches(first[-1].position), 5))
    assert [numbers(batch) for batch in first + rest] == [numbers(batch) for batch in whole]
    assert [batch.bad for batch in first + rest] == [batch.bad for batch in whole]


@pytest.mark.parametrize("window", [1, 2])
def test_a_window_keeps_groups_apart_and_lengths_together(window):
    sources = {"a": Numbers(60, bad={4, 7, 30}), "b": Numbers(30)}

    def sized(example):
        return Sample(int(example.turns[0].parts[0]), length=1 + example.position * 7 % 11)

    def batches(position):
        mixture = Mixture(sources, {"a": 2, "b": 1}, step=4, apart=frozenset({"b"}))
        return Feed(mixture, sized, collate, batch=4, window=window).batches(position)

    whole = list(islice(batches(0), 20))
    assert [batch.position for batch in whole] == list(range(4, 84, 4))
    assert {batch.sequences for batch in whole} == {3, 4}
    assert sum(len(batch.bad) for batch in whole) == 3
    for number in range(20):
        again = list(islice(batches(4 * number), 20 - number))
        assert [numbers(batch) for batch in again] == [numbers(one) for one in whole[number:]]


def test_samples_of_like_length_share_a_batch():
    def sized(example):
        return Sample(int(example.turns[0].parts[0]), length=1 + example.position % 20)

    mixture = Mixture({"n": Numbers(100)}, {"n": 1})
    fed = Feed(mixture, sized, collate, batch=5, window=4).batches(0)
    # Of 20 lengths from 1 to 20, five that follow each other.
    assert {batch.tokens for batch in islice(fed, 4)} == {15, 40, 65, 90}


def test_memory_keeps_the_first_that_fit():
    source = Numbers()
    list(islice(feed(source, memory=450).batches(0), 10))
    # 30 samples are taken: 10 in the first epoch, then 6 of each 10 are read again.
    assert source.reads == 10 + 6 + 6


def test_a_file_that_cannot_be_opened_is_a_bad_sample():
    def missing(example):
        if example.turns[0].parts == ("2",):
            raise FileNotFoundError(2, "No such file or directory", "2.png")
        return prepare(example)

    mixture = Mixture({"n": Numbers(4)}, {"n": 1})
    (batch,) = islice(Feed(mixture, missing, collate, batch=4).batches(0), 1)
    assert [one.reason for one in batch.bad] == ["[Errno 2] No such file or directory: '2.png'"]


def test_gives_up_when_all_samples_are_bad():
    with pytest.raises(DataError, match=r"4 samples in a row are bad, the last: numbers\.json"):
        next(feed(Numbers(4, bad=range(4))).batches(0))


def test_ahead_yields_the_same_items():
    with Ahead(iter(range(100)), depth=3) as items:
        assert list(items) == list(range(100))


def test_ahead_passes_an_error_on():
    def torn():
        yield 1
        raise DataError("no more")

    with Ahead(torn()) as items:
        ready = iter(items)
        assert next(ready) == 1
        with pytest.raises(DataError, match="no more"):
            next(ready)


def test_ahead_ends_its_thread():
    before = threading.active_count()
    with Ahead(iter(int, 1), depth=2) as items:
        next(iter(items))
        time.sleep(0.05)
    assert threading.active_count() == before

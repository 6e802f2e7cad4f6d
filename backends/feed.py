"""From an order of samples to batches: prepared ahead by threads, kept in memory, bad ones named.

What a batch holds depends on the position alone. Threads only decide when it is ready.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import count, islice
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from torch import Tensor

from .data import Bad, DataError, Example, Mixture, generator

_PATIENCE = 1000
"""So many bad samples in a row, or all there are, and the data is given up."""


class Prepared(Protocol):
    """A sample that is ready for a batch."""

    @property
    def length(self) -> int:
        """Tokens, those of pictures and clips included."""
        ...

    @property
    def nbytes(self) -> int:
        """Memory that it takes."""
        ...


S = TypeVar("S", bound=Prepared)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Batch:
    """The inputs of one optimizer step, and what was gone through to fill it."""

    shards: tuple[Mapping[str, Tensor], ...]
    names: tuple[str, ...]
    """Its samples, as FILE[INDEX]."""
    tokens: int
    bad: tuple[Bad, ...]
    """What was passed over on the way."""
    position: int
    """Where the next batch starts."""

    @property
    def sequences(self) -> int:
        """How many samples it holds."""
        return len(self.names)


@dataclass(frozen=True, slots=True)
class _Drawn(Generic[S]):
    position: int
    kind: str
    file: str
    index: int
    sample: S | None
    reason: str = ""


class Feed(Generic[S]):
    """Batches from any position on.

    `prepare` makes a sample of an example, and raises ValueError or OSError with the reason when it
    cannot; `collate` makes the shards of a batch. Prepared samples are kept, the first that come,
    until they fill `memory` bytes.

    A batch is filled up over bad samples, unless there is a `window`: then the positions of so many
    batches belong to them alone, and bad samples make one of them smaller. In a window of several
    batches, samples of like length share one. Either way no batch holds samples of two groups of
    the mixture.
    """

    def __init__(
        self,
        mixture: Mixture,
        prepare: Callable[[Example], S],
        collate: Callable[[Sequence[S]], Sequence[Mapping[str, Tensor]]],
        *,
        batch: int,
        window: int = 0,
        memory: int = 0,
        loaders: int = 1,
    ) -> None:
        self._mixture = mixture
        self._prepare = prepare
        self._collate = collate
        self._batch = batch
        self._window = window
        self._loaders = loaders
        self._room = memory
        self._kept: dict[tuple[str, int], S] = {}
        self._lock = threading.Lock()

    def batches(self, position: int) -> Iterator[Batch]:
        """Batch after batch, without end; DataError when nothing usable is left to come."""
        if self._window:
            yield from self._windows(position)
            return
        lot: list[_Drawn[S]] = []
        bad: list[Bad] = []
        patience = min(_PATIENCE, self._mixture.epoch)
        in_a_row = 0
        for drawn in self._drawn(position):
            if drawn.sample is None:
                bad.append(Bad(drawn.file, drawn.index, drawn.reason))
                in_a_row += 1
                if in_a_row == patience:
                    raise DataError(f"{patience} samples in a row are bad, the last: {bad[-1]}")
                continue
            in_a_row = 0
            lot.append(drawn)
            if len(lot) < self._batch:
                continue
            yield self._batch_of(lot, tuple(bad), drawn.position + 1)
            lot, bad = [], []

    def _windows(self, position: int) -> Iterator[Batch]:
        """The batches of whole windows, those before `position` left out."""
        size = self._window * self._batch
        begin = position - position % size
        drawn = self._drawn(begin)
        in_a_row = 0
        for first in count(begin, size):
            window = list(islice(drawn, size))
            good = [one for one in window if one.sample is not None]
            bad = tuple(Bad(one.file, one.index, one.reason) for one in window if not one.sample)
            in_a_row = 0 if good else in_a_row + size
            if in_a_row >= min(_PATIENCE, self._mixture.epoch):
                raise DataError(f"{in_a_row} samples in a row are bad, the last: {bad[-1]}")
            ends = [first + self._batch * number for number in range(1, self._window)]
            lots = self._lots(good, first)
            for lot, end in zip(lots, [*ends[: len(lots) - 1], first + size], strict=True):
                if end > position:
                    yield self._batch_of(lot, bad, end)
                bad = ()

    def _lots(self, good: Sequence[_Drawn[S]], first: int) -> list[list[_Drawn[S]]]:
        """The samples of a window as batches of one group each."""
        groups: dict[str, list[_Drawn[S]]] = {}
        for one in good:
            groups.setdefault(self._mixture.group(one.kind), []).append(one)
        if self._window > 1:
            for members in groups.values():
                members.sort(key=lambda one: one.sample.length if one.sample else 0)
        lots = [
            members[begin : begin + self._batch]
            for members in groups.values()
            for begin in range(0, len(members), self._batch)
        ]
        order = generator(f"{self._mixture.seed}/lots/{first}").permutation(len(lots))
        return [lots[number] for number in order]

    def _batch_of(self, lot: Sequence[_Drawn[S]], bad: tuple[Bad, ...], position: int) -> Batch:
        samples = [one.sample for one in lot if one.sample is not None]
        return Batch(
            tuple(self._collate(samples)),
            tuple(f"{one.file}[{one.index}]" for one in lot),
            sum(sample.length for sample in samples),
            bad,
            position,
        )

    def _drawn(self, position: int) -> Iterator[_Drawn[S]]:
        """The samples in order; `loaders` of them are prepared at a time."""
        if self._loaders == 1:
            yield from map(self._draw, count(position))
        pool = ThreadPoolExecutor(self._loaders)
        waiting: deque[Future[_Drawn[S]]] = deque()
        try:
            for ahead in count(position):
                waiting.append(pool.submit(self._draw, ahead))
                if len(waiting) > 2 * self._loaders:
                    yield waiting.popleft().result()
        finally:
            pool.shutdown(cancel_futures=True)

    def _draw(self, position: int) -> _Drawn[S]:
        name, index = self._mixture.at(position)
        source = self._mixture.sources[name]
        sample = self._kept.get((name, index))
        if sample is not None:
            return _Drawn(position, name, source.name, index, sample)
        try:
            example = replace(source.read(index), kind=name, position=position)
            sample = self._prepare(example)
        except (ValueError, OSError) as error:
            return _Drawn(position, name, source.name, index, None, str(error))
        with self._lock:
            if sample.nbytes <= self._room and (name, index) not in self._kept:
                self._kept[name, index] = sample
                self._room -= sample.nbytes
        return _Drawn(position, name, source.name, index, sample)


class Ahead(Generic[T]):
    """Runs an iterator in a thread, a few items ahead of whoever takes them."""

    def __init__(self, items: Iterator[T], depth: int = 2) -> None:
        self._ready: queue.Queue[T | BaseException | None] = queue.Queue(depth)
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, args=(items,), daemon=True)
        self._thread.start()

    def __iter__(self) -> Iterator[T]:
        while True:
            item = self._ready.get()
            if item is None:
                return
            if isinstance(item, BaseException):
                raise item
            yield item

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closing.set()
        while self._thread.is_alive():
            # The thread may wait for room to put its last item into.
            try:
                self._ready.get(timeout=0.05)
            except queue.Empty:
                continue

    def _run(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                self._ready.put(item)
                if self._closing.is_set():
                    return
            self._ready.put(None)
        except BaseException as error:
            self._ready.put(error)
        finally:
            if isinstance(items, Generator):
                items.close()

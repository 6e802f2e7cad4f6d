"""From an order of samples to batches: prepared ahead by threads, kept in memory, bad ones named.

What a batch holds depends on the position alone. Threads only decide when it is ready.
"""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import count
from types import TracebackType
from typing import Generic, Protocol, Self, TypeVar

from torch import Tensor

from .data import Bad, DataError, Example, Mixture

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
    file: str
    index: int
    sample: S | None
    reason: str = ""


class Feed(Generic[S]):
    """Batches from any position on.

    `prepare` makes a sample of an example, and raises ValueError or OSError with the reason when it
    cannot; `collate` makes the shards of a batch. Prepared samples are kept, the first that come,
    until they fill `memory` bytes.
    """

    def __init__(
        self,
        mixture: Mixture,
        prepare: Callable[[Example], S],
        collate: Callable[[Sequence[S]], Sequence[Mapping[str, Tensor]]],
        *,
        batch: int,
        memory: int = 0,
        loaders: int = 1,
    ) -> None:
        self._mixture = mixture
        self._prepare = prepare
        self._collate = collate
        self._batch = batch
        self._loaders = loaders
        self._room = memory
        self._kept: dict[tuple[str, int], S] = {}
        self._lock = threading.Lock()

    def batches(self, position: int) -> Iterator[Batch]:
        """Batch after batch, without end; DataError when nothing usable is left to come."""
        samples: list[S] = []
        names: list[str] = []
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
            samples.append(drawn.sample)
            names.append(f"{drawn.file}[{drawn.index}]")
            if len(samples) < self._batch:
                continue
            tokens = sum(sample.length for sample in samples)
            shards = tuple(self._collate(samples))
            yield Batch(shards, tuple(names), tokens, tuple(bad), drawn.position + 1)
            samples, names, bad = [], [], []

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
            return _Drawn(position, source.name, index, sample)
        try:
            sample = self._prepare(source.read(index))
        except (ValueError, OSError) as error:
            return _Drawn(position, source.name, index, None, str(error))
        with self._lock:
            if sample.nbytes <= self._room and (name, index) not in self._kept:
                self._kept[name, index] = sample
                self._room -= sample.nbytes
        return _Drawn(position, source.name, index, sample)


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

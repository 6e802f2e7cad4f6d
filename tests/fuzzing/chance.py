"""Where the choices of a generator come from: a seed, or hypothesis, which shrinks what fails."""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from typing import TypeVar

from hypothesis import strategies as st

T = TypeVar("T")


class Chance(ABC):
    """Chooses."""

    @abstractmethod
    def below(self, end: int) -> int:
        """A whole number from 0 up to, not including, `end`; hypothesis shrinks towards 0."""

    def one(self, choices: Sequence[T]) -> T:
        """One of the choices; the plainest comes first."""
        return choices[self.below(len(choices))]

    def maybe(self, percent: int) -> bool:
        """True so many times out of a hundred."""
        return self.below(100) >= 100 - percent

    def some(self, make: Callable[[], T], most: int, least: int = 0) -> list[T]:
        """A few things."""
        return [make() for _ in range(least + self.below(most - least + 1))]

    def split(self, members: Sequence[T]) -> tuple[list[T], list[T]]:
        """The members in two heaps; the first is never empty."""
        first = [member for member in members if self.maybe(50)] or [members[0]]
        return first, [member for member in members if member not in first]


class Seeded(Chance):
    """The same choices for the same seed, and quick."""

    def __init__(self, seed: str) -> None:
        self._random = random.Random(seed)

    def below(self, end: int) -> int:
        return self._random.randrange(end)


class Drawn(Chance):
    """The choices of hypothesis."""

    def __init__(self, draw: Callable[[st.SearchStrategy[int]], int]) -> None:
        self._draw = draw

    def below(self, end: int) -> int:
        return self._draw(st.integers(0, end - 1))

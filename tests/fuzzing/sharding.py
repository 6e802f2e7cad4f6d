"""Cases by the hundred, as tests: a file for each kind, which workers can run side by side."""

from __future__ import annotations

from collections.abc import Iterator

from triptych.tests.fuzzing.cases import beside, case
from triptych.tests.fuzzing.properties import examine

SIZE = 200
"""So many cases make one test."""


def shards(count: int) -> range:
    """The numbers of the first case of each test."""
    return range(0, count, SIZE)


def answers(kind: str, first: int) -> list[str]:
    """What is said of each case; fails with the case that fails, and how to run it again."""
    return list(_answers(kind, first))


def _answers(kind: str, first: int) -> Iterator[str]:
    for number in range(first, first + SIZE):
        text = case(kind, number)
        try:
            yield examine(text, beside())
        except Exception as error:
            again = f"python -m triptych.tests.fuzzing --case {kind}:{number}"
            raise AssertionError(f"{again}\n{error!r}\n{text}") from error

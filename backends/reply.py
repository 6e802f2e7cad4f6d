"""An answer as it grows, and as it is in the end."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, replace
from typing import Literal


@dataclass(frozen=True, slots=True)
class Answer:
    """What the model said: the text, its tokens without the one that ended it, and why it ended."""

    text: str
    tokens: tuple[int, ...]
    ended: Literal["stop", "length", "broken"]
    """At what stops an answer, at as many tokens as it may have, or where nobody listened on."""
    prompt: int
    """Tokens of the prompt, features included."""


class Reply(Iterator[str]):
    """An answer to be listened to: its text piece by piece, as soon as a token makes it certain.

    Nothing is computed before a piece, or the `answer`, is asked for; each piece is given once.
    """

    def __init__(self, pieces: Generator[str, None, None], whole: Callable[[], Answer]) -> None:
        """`whole` is the answer as far as its pieces have come."""
        self._pieces = pieces
        self._whole = whole
        self._answer: Answer | None = None

    def __next__(self) -> str:
        try:
            return next(self._pieces)
        except StopIteration:
            self._answer = self._answer or self._whole()
            raise

    @property
    def answer(self) -> Answer:
        """All of it, with what was listened to already; of one broken off, what was said."""
        for _ in self:
            pass
        assert self._answer is not None
        return self._answer

    @property
    def text(self) -> str:
        """What is said in all."""
        return self.answer.text

    def close(self) -> None:
        """Break the answer off where it is, unless it is over."""
        self._pieces.close()
        self._answer = self._answer or replace(self._whole(), ended="broken")

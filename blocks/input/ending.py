"""Where an answer ends: at a token, or at a text that is no part of it."""

from __future__ import annotations

from dataclasses import dataclass

from .tokenizer import Stream


@dataclass(frozen=True, slots=True)
class Ending:
    """The tokens and texts that end an answer, and whether white space around it is dropped.

    >>> Ending((2,), ("###",), strip=True).cut(" A frog. ###Human: Why?")
    'A frog.'
    """

    tokens: tuple[int, ...] = ()
    texts: tuple[str, ...] = ()
    strip: bool = False

    def place(self, text: str) -> int | None:
        """Where the first text begins that ends the answer; None when there is none.

        White space that is dropped at the start ends nothing.
        """
        return self.find(text, len(text) - len(text.lstrip()) if self.strip else 0)

    def find(self, text: str, begin: int = 0) -> int | None:
        """The same in a piece of an answer, from a place on."""
        found = [place for end in self.texts if (place := text.find(end, begin)) >= 0]
        return min(found, default=None)

    def cut(self, text: str) -> str:
        """The answer alone."""
        text = text[: self.place(text)]
        return text.strip() if self.strip else text

    def pending(self, text: str) -> int:
        """How many letters at the end of a text may turn out to be no part of the answer."""
        starts = (
            next((n for n in range(len(end) - 1, 0, -1) if text.endswith(end[:n])), 0)
            for end in self.texts
        )
        held = max(starts, default=0)
        if self.strip:
            held = len(text) - len(text[: len(text) - held].rstrip())
        return held


class Telling:
    """An answer as its tokens arrive: gives out what is certain, and nothing of its end."""

    def __init__(self, stream: Stream, ending: Ending) -> None:
        self._stream = stream
        self._ending = ending
        self._held = ""
        self._begun = not ending.strip
        self.said = ""
        """The text that the last token made certain."""
        self.ended = False
        """Whether the answer is over."""

    def push(self, id: int) -> str:
        """The text that the token makes certain."""
        if id in self._ending.tokens:
            self.said = self.end()
            self.ended = True
        else:
            self.said = self._tell(self._stream.push(id))
        return self.said

    def end(self) -> str:
        """What is still kept back and belongs to the answer."""
        if self.ended:
            return ""
        said, held = self._tell(self._stream.end()), self._held
        self._held = ""
        return said + (held.rstrip() if self._ending.strip else held)

    def _tell(self, piece: str) -> str:
        self._held += piece
        if not self._begun:
            self._held = self._held.lstrip()
            self._begun = bool(self._held)
        place = self._ending.find(self._held)
        if place is not None:
            self.ended = True
            said, self._held = self._held[:place], ""
            return said.rstrip() if self._ending.strip else said
        certain = len(self._held) - self._ending.pending(self._held)
        said, self._held = self._held[:certain], self._held[certain:]
        return said

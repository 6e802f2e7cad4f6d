"""What each code means, at length: what `triptych explain` shows and docs/errors publishes.

One file a code, `explanations/CODE.md`, in four sections; `read` says what each of them holds.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.resources import files

from .codes import CODES

SECTIONS = ("What", "Why", "Example", "Fix")
_HEADING = re.compile(r"^## (.*)\n", re.M)
_FENCE = re.compile(r"^```(\w+)\n(.*?)^```\n", re.M | re.S)


@dataclass(frozen=True, slots=True)
class Sample:
    """What a page shows: a text in the recipe language (`vlm`), or commands (`console`)."""

    language: str
    text: str


@dataclass(frozen=True, slots=True)
class Explanation:
    """What a code means, why it is an error, a recipe that has it, and that recipe put right.

    Prose is Markdown. `example` raises the code; `mended` is the same text without the mistake.
    """

    code: str
    what: str
    why: str
    example: Sample
    fix: str
    mended: Sample

    @property
    def title(self) -> str:
        """What the code is about."""
        return CODES[self.code]


def explanation(code: str) -> Explanation:
    """The page of a code.

    >>> explanation("S402").title
    'key-value heads do not divide the heads'
    """
    file = files(__package__) / "explanations" / f"{code}.md"
    return read(code, file.read_text(encoding="utf-8"))


def read(code: str, text: str) -> Explanation:
    """A page from its text, which has to be whole: the code's title, then the four sections.

    What and Why are prose, Example is a block of a recipe or of commands, and Fix is prose with a
    block of the same language behind it.
    """
    head, *rest = _HEADING.split(text)
    assert head.strip() == f"# {code}: {CODES[code]}", f"{code}: the page opens with another title"
    assert tuple(rest[::2]) == SECTIONS, f"{code}: the sections are {', '.join(rest[::2])}"
    what, why, shown, mending = rest[1::2]
    for prose in (what, why):
        assert prose.strip() and "```" not in prose, f"{code}: What and Why are prose"
    nothing, example = _prose_and_sample(code, shown)
    fix, mended = _prose_and_sample(code, mending)
    assert fix and not nothing, f"{code}: words go with the Fix, and the Example stands alone"
    assert mended.language == example.language, f"{code}: the Fix is in another language"
    return Explanation(code, what.strip(), why.strip(), example, fix, mended)


def _prose_and_sample(code: str, text: str) -> tuple[str, Sample]:
    prose, *fences = _FENCE.split(text)
    assert len(fences) == 3 and not fences[2].strip(), f"{code}: a section ends in its one block"
    language, shown, _ = fences
    assert language in ("vlm", "console"), f"{code}: a block in the language {language}"
    return prose.strip(), Sample(language, shown)

"""Places in a picture as text, and back: names of things, boxes and quadrilaterals.

Data gives them in pixels of the picture's file; a layout says what stands around them, and the
setting `coordinates` how a number is written.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

THOUSAND = 1000


@dataclass(frozen=True, slots=True)
class Ref:
    """What is spoken of: the words of a thing in a picture."""

    text: str


@dataclass(frozen=True, slots=True)
class Box:
    """A rectangle: left, top, right, bottom in pixels of the picture's file."""

    corners: tuple[float, float, float, float]


@dataclass(frozen=True, slots=True)
class Quad:
    """Four corners, x and y of each in turn, in pixels of the picture's file."""

    corners: tuple[float, ...]


Place: TypeAlias = Ref | Box | Quad

RULES: Mapping[str, type[Place]] = {"ref": Ref, "box": Box, "quad": Quad}
"""The rules of a layout that write them."""

CORNERS: Mapping[str, int] = {"box": 2, "quad": 4}


@dataclass(frozen=True, slots=True)
class Thousandths:
    """Coordinates as whole thousandths of a picture's sides, from 0 to 999.

    Published readers disagree on the way back: `back` is what a thousandth is divided by. Where in
    its thousandth a place lies is lost, so that `down` and `nearest` are both in use.

    >>> rule = Thousandths(1000, "down")
    >>> rule.written((33, 48, 640, 240), (640, 480))
    '(51,100),(999,500)'
    >>> rule.read((50, 100, 500, 500), (640, 480))
    (32.0, 48.0, 320.0, 240.0)
    """

    back: int
    rounding: str

    def written(self, corners: Sequence[float], size: tuple[int, int]) -> str:
        """Corners in pixels of a picture of a size, as text."""
        shift = 0.5 if self.rounding == "nearest" else 0.0
        whole = [
            min(THOUSAND - 1, max(0, int(place / side * THOUSAND + shift)))
            for place, side in _by_side(corners, size)
        ]
        return ",".join(f"({x},{y})" for x, y in zip(whole[::2], whole[1::2], strict=True))

    def read(self, corners: Sequence[float], size: tuple[int, int]) -> tuple[float, ...]:
        """Corners in thousandths, as pixels of a picture of a size."""
        return tuple(place / self.back * side for place, side in _by_side(corners, size))


def _by_side(corners: Sequence[float], size: tuple[int, int]) -> Iterator[tuple[float, int]]:
    for number, place in enumerate(corners):
        yield place, size[number % 2]


class PlaceReader:
    """Finds what the rules of a layout wrote: answers as text, names, boxes and quadrilaterals."""

    def __init__(self, layout: Mapping[str, Any], specials: Mapping[str, str]) -> None:
        """`layout` is that of a feed spec, `specials` what its special tokens are written as."""
        rules = {name: layout["rules"][name] for name in RULES if name in layout["rules"]}
        self._coordinates = coordinates(layout)
        self.ids = frozenset(
            item["id"] for rule in rules.values() for item in rule["items"] if "special" in item
        )
        """The special tokens that belong to the text of an answer: they enclose these places."""
        self._patterns = [
            (name, re.compile(_pattern(name, rule["items"], specials)))
            for name, rule in rules.items()
        ]

    def read(self, text: str, size: tuple[int, int]) -> tuple[str | Place, ...]:
        """The parts of an answer about a picture of a size; boxes are in its pixels."""
        parts: list[str | Place] = []
        while text:
            found = [
                (match.start(), number, name, match)
                for number, (name, pattern) in enumerate(self._patterns)
                if (match := pattern.search(text))
            ]
            if not found:
                return (*parts, text)
            start, _, name, match = min(found, key=lambda one: one[:2])
            parts += [text[:start]] if start else []
            parts.append(self._place(name, match, size))
            text = text[match.end() :]
        return tuple(parts)

    def _place(self, name: str, match: re.Match[str], size: tuple[int, int]) -> Place:
        if name == "ref":
            return Ref(match[1])
        assert self._coordinates
        corners = self._coordinates.read([int(place) for place in match.groups()], size)
        return Quad(corners) if name == "quad" else Box((*corners,))  # type: ignore[arg-type]


def named(parts: Sequence[str | Place]) -> list[tuple[str, Box | Quad]]:
    """The boxes and quadrilaterals among the parts of an answer, each with the name before it."""
    name, places = "", list[tuple[str, Box | Quad]]()
    for part in parts:
        if isinstance(part, Ref):
            name = part.text
        elif isinstance(part, Box | Quad):
            places.append((name, part))
    return places


def coordinates(layout: Mapping[str, Any]) -> Thousandths | None:
    """How a layout of a feed spec writes coordinates; None when it writes none."""
    said = layout.get("coordinates")
    return Thousandths(said["back"], said["rounding"]) if said else None


def _pattern(name: str, items: Sequence[Mapping[str, Any]], specials: Mapping[str, str]) -> str:
    """What a rule writes, as a regular expression; its first word may stand in the prompt."""
    point = r"\(\s*(\d+)\s*,\s*(\d+)\s*\)"
    pieces = []
    for item in items:
        if "corners" in item:
            pieces.append(r"\s*,\s*".join([point] * CORNERS[name]))
        elif "slot" in item:
            pieces.append("(.*?)")
        else:
            pieces.append(
                re.escape(specials[item["special"]] if "special" in item else item["text"])
            )
    if name in CORNERS and len(pieces) > 2:
        pieces[0] = f"(?:{pieces[0]})?"
    return "".join(pieces)

"""Training data: from files to samples, in an order that is a pure function of seed and position.

A path holds one of three kinds of data; pictures and clips are named relative to the file:

    FILE.json, FILE.jsonl   LLaVA: {"image": "a.png", "conversations": [{"from": "human",
                            "value": "<image>\\nWhat is it?"}, {"from": "gpt", "value": "A frog."}]}
    FILE.json, FILE.jsonl   chat: {"messages": [{"role": "user", "content": [{"type": "image",
                            "image": "a.png"}, {"type": "text", "text": "What is it?"}]}, ...]}
    FOLDER                  pictures, each with its caption beside it: a.png and a.txt

In a chat, a part may also be `{"ref": "the frog"}`, what a place is called, `{"box": [x0, y0, x1,
y1]}` or `{"quad": [x0, y0, ..., y3]}`, in pixels of the picture before it.

Either kind of record may add `"regions": [{"box": [x0, y0, x1, y1], "label": "frog"}]`, in pixels
of its one picture; with `regions` and `image`, a record needs no dialogue. A line break between a
marker and text belongs to the marker, as in LLaVA.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import cached_property, lru_cache
from math import gcd, lcm
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np

from ..blocks.input.places import Box, Place, Quad, Ref
from ..blocks.input.sample import Attachment, Region, Turn
from ..dsl.stages import Ramp

PICTURES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp", ".gif", ".tif", ".tiff"})
_ROLES = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_MARKER = re.compile(r"\n?<(image|video)>\n?")


class DataError(Exception):
    """The data cannot be read at all: no such file, no JSON, not one usable sample."""


@dataclass(frozen=True, slots=True)
class Bad:
    """A sample that cannot be used: where it stands, and why."""

    file: str
    index: int
    reason: str

    def __str__(self) -> str:
        return f"{self.file}[{self.index}]: {self.reason}"


@dataclass(frozen=True, slots=True)
class Example:
    """One dialogue as it was read; pictures and clips are still paths.

    `kind` is the name of the mixture that it was drawn for, `position` its place in the order.
    """

    turns: tuple[Turn, ...]
    regions: tuple[Region, ...] = ()
    kind: str = ""
    position: int = 0

    @property
    def media(self) -> tuple[Attachment, ...]:
        """Every picture and clip in reading order."""
        parts = (part for turn in self.turns for part in turn.parts)
        return tuple(part for part in parts if isinstance(part, Attachment))

    @property
    def boxes(self) -> tuple[Box | Quad, ...]:
        """Every box in the text."""
        parts = (part for turn in self.turns for part in turn.parts)
        return tuple(part for part in parts if isinstance(part, Box | Quad))


class Source(Protocol):
    """A countable set of samples."""

    @property
    def name(self) -> str:
        """The name of the file or folder."""
        ...

    @property
    def digest(self) -> str:
        """Changes when the records change, whatever folder they lie in."""
        ...

    def __len__(self) -> int: ...

    def read(self, index: int) -> Example:
        """The sample; ValueError says what is wrong with it."""
        ...


class Records:
    """LLaVA or chat records in one file: a JSON list, or JSON lines."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        self._folder = path.parent
        content = path.read_bytes()
        self.digest = hashlib.sha256(content).hexdigest()
        self._records: list[Any]
        if path.suffix == ".jsonl":
            # Parsed line by line when read, so that a torn line is one bad sample.
            self._records = [line for line in content.splitlines() if line.strip()]
            return
        try:
            self._records = json.loads(content)
        except ValueError as error:
            raise DataError(f"{path} is not JSON: {error}") from error
        if not isinstance(self._records, list):
            raise DataError(f"{path} is not a list of records")

    def __len__(self) -> int:
        return len(self._records)

    def read(self, index: int) -> Example:
        """The dialogue of one record; ValueError says what is wrong with it."""
        record = self._records[index]
        return example_of(json.loads(record) if isinstance(record, bytes) else record, self._folder)


class Captions:
    """A folder of pictures, each with its caption in a text file of the same name."""

    def __init__(self, path: Path) -> None:
        self.name = path.name
        found = (file for file in path.rglob("*") if file.suffix.lower() in PICTURES)
        self._files = sorted(found, key=lambda file: file.relative_to(path).as_posix())

    @cached_property
    def digest(self) -> str:
        """Of the names and the captions."""
        whole = hashlib.sha256()
        for file in self._files:
            text = file.with_suffix(".txt")
            caption = text.read_bytes() if text.exists() else b""
            whole.update(file.name.encode() + b"\0" + caption + b"\0")
        return whole.hexdigest()

    def __len__(self) -> int:
        return len(self._files)

    def read(self, index: int) -> Example:
        """The picture, and its caption as the answer; ValueError when it has none."""
        file = self._files[index]
        text = file.with_suffix(".txt")
        if not text.exists():
            raise ValueError(f"{file.name} has no caption: {text.name} is not there")
        caption = text.read_text(encoding="utf-8").strip()
        if not caption:
            raise ValueError(f"the caption {text.name} is empty")
        shown = Attachment("image", file)
        return Example((Turn("user", (shown,)), Turn("assistant", (caption,))))


def open_source(path: Path) -> Source:
    """The samples at a path, whichever kind they are."""
    if not path.exists():
        raise DataError(f"there is no {path}")
    if path.is_file() and path.suffix not in (".json", ".jsonl"):
        raise DataError(f"{path} is neither .json nor .jsonl nor a folder of pictures")
    source = Captions(path) if path.is_dir() else Records(path)
    if not len(source):
        held = "pictures" if path.is_dir() else "records"
        raise DataError(f"{path} holds no {held}")
    return source


@dataclass(frozen=True)
class _Cycles:
    """Names that go round in cycles, each exactly as often as its ratio says, in shuffled order."""

    ratios: Mapping[str, float]
    seed: str
    name: str = "cycle"

    @cached_property
    def _names(self) -> tuple[str, ...]:
        return tuple(name for name, share in self._shares.items() for _ in range(share))

    @cached_property
    def _shares(self) -> dict[str, int]:
        exact = {n: Fraction(r).limit_denominator(1000) for n, r in self.ratios.items()}
        common = lcm(*(ratio.denominator for ratio in exact.values()))
        whole = {name: int(ratio * common) for name, ratio in exact.items()}
        divisor = gcd(*whole.values())
        return {name: share // divisor for name, share in whole.items() if share}

    def at(self, position: int) -> tuple[str, int]:
        """The name at a position, and how often it came before."""
        if len(self._names) == 1:
            return self._names[0], position
        cycle, offset = divmod(position, len(self._names))
        order = _shuffled(len(self._names), self.seed, self.name, cycle)
        names = [self._names[index] for index in order[: offset + 1]]
        name = names[-1]
        return name, cycle * self._shares[name] + names.count(name) - 1


SHARED = ""
"""The steps that all kinds of data share that have none of their own."""


@dataclass(frozen=True)
class Mixture:
    """Named sources with their shares, in an order that is a pure function of (seed, position).

    Positions count from 0 without end; `step` of them make an optimizer step. They go round in
    cycles that hold each source exactly as often as its ratio says, shuffled within the cycle; each
    source is shuffled anew every time it has been gone through. So one number says where a run
    stands.

    A source that is `apart` has steps of its own, and then whole steps go round in cycles. While a
    ratio ramps, each step holds what the ratios say at that step, rounded by chance.
    """

    sources: Mapping[str, Source]
    ratios: Mapping[str, float | Ramp]
    seed: str = "0"
    step: int = 1
    apart: frozenset[str] = frozenset()

    @cached_property
    def epoch(self) -> int:
        """How many samples make an epoch: as many as there are."""
        return sum(len(source) for source in self.sources.values())

    def group(self, name: str) -> str:
        """Whose steps the samples of a source fill: its own, or those that are `SHARED`."""
        return name if name in self.apart else SHARED

    def at(self, position: int) -> tuple[str, int]:
        """Which sample stands at a position: the source's name, and the index in it."""
        step, offset = divmod(position, self.step)
        if step < self._ramped:
            drawn = self._early(step)
            name = drawn[offset]
            return self._drawn(name, self._counts[step][name] + drawn[:offset].count(name))
        position -= self._ramped * self.step
        name = SHARED
        if self.apart:
            name, turn = self._steps.at(step - self._ramped)
            position = turn * self.step + offset
        number = position
        if name == SHARED:
            name, number = self._mixed.at(position)
        return self._drawn(name, self._counts[-1][name] + number)

    @cached_property
    def _ramped(self) -> int:
        """The steps until all ratios stay."""
        ramps = [ratio.over for ratio in self.ratios.values() if isinstance(ratio, Ramp)]
        return max(ramps, default=0)

    def _shares(self, step: int) -> dict[str, float]:
        """The ratios at a step."""
        return {
            name: ratio
            if not isinstance(ratio, Ramp)
            else ratio.start + (ratio.end - ratio.start) * min(1.0, step / ratio.over)
            for name, ratio in self.ratios.items()
        }

    def _groups(self, step: int) -> dict[str, dict[str, float]]:
        """The ratios at a step, by whose steps they fill."""
        found: dict[str, dict[str, float]] = {}
        for name, share in self._shares(step).items():
            found.setdefault(self.group(name), {})[name] = share
        return found

    @cached_property
    def _steps(self) -> _Cycles:
        groups = self._groups(self._ramped)
        return _Cycles({name: sum(one.values()) for name, one in groups.items()}, self.seed, "step")

    @cached_property
    def _mixed(self) -> _Cycles:
        return _Cycles(self._groups(self._ramped)[SHARED], self.seed)

    def _early(self, step: int) -> list[str]:
        """The sources of one step while ratios ramp."""
        chance = generator(f"{self.seed}/ramp/{step}")
        groups = list(self._groups(step).values())
        (chosen,) = _spread([sum(one.values()) for one in groups], 1, chance)
        shares = groups[chosen]
        picked = _spread(list(shares.values()), self.step, chance)
        names = list(shares)
        return [names[number] for number in chance.permutation(picked)]

    @cached_property
    def _counts(self) -> list[dict[str, int]]:
        """How often each source was drawn before each step while ratios ramp, and at their end."""
        counts = [dict.fromkeys(self.ratios, 0)]
        for step in range(self._ramped):
            drawn = Counter(self._early(step))
            counts.append({name: count + drawn[name] for name, count in counts[-1].items()})
        return counts

    def _drawn(self, name: str, number: int) -> tuple[str, int]:
        """The sample that a source gives when it is drawn from for the `number`th time."""
        epoch, index = divmod(number, len(self.sources[name]))
        return name, int(_shuffled(len(self.sources[name]), self.seed, name, epoch)[index])


def _spread(shares: Sequence[float], count: int, chance: np.random.Generator) -> list[int]:
    """`count` numbers of shares in order, each as often as its share says, rounded by chance."""
    edges = np.cumsum(shares) / sum(shares)
    marks = (np.arange(count) + chance.random()) / count
    numbers: list[int] = np.searchsorted(edges, marks, side="right").tolist()
    return numbers


@lru_cache(maxsize=64)
def _shuffled(count: int, seed: str, name: str, round_: int) -> np.ndarray[Any, np.dtype[np.int64]]:
    return generator(f"{seed}/{name}/{round_}").permutation(count)


def generator(key: str) -> np.random.Generator:
    """What is drawn for a text, the same each time."""
    return np.random.Generator(np.random.PCG64(number_of(key)))


def number_of(key: str) -> int:
    """A number that a text stands for, as good as drawn: the seed of what is drawn for it."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest(), "big")


def example_of(record: Any, folder: Path) -> Example:
    """A LLaVA or chat record; ValueError says what is wrong with it."""
    if not isinstance(record, dict):
        raise ValueError("the record is not an object")
    if "messages" in record:
        turns = tuple(_chat_turn(n, turn, folder) for n, turn in _numbered(record, "messages"))
    elif "conversations" in record:
        turns = _llava_turns(record, folder)
    elif "regions" in record:
        turns = (Turn("user", tuple(_paths(record, "image", folder))),)
    else:
        raise ValueError("the record has neither `conversations` nor `messages`")
    example = Example(turns, tuple(_region(one) for one in record.get("regions") or ()))
    pictures = [shown for shown in example.media if shown.input == "image"]
    if example.regions and len(pictures) != 1:
        raise ValueError(f"regions need one picture, and there are {len(pictures)}")
    return example


def _numbered(record: dict[str, Any], key: str) -> list[tuple[int, dict[str, Any]]]:
    turns = record[key]
    if not isinstance(turns, list) or not turns:
        raise ValueError(f"`{key}` is not a list of turns")
    for number, turn in enumerate(turns, 1):
        if not isinstance(turn, dict):
            raise ValueError(f"turn {number} is not an object")
    return list(enumerate(turns, 1))


def _role(number: int, name: Any) -> str:
    if name not in _ROLES:
        raise ValueError(f"turn {number} is from {name!r}, and not from one of {', '.join(_ROLES)}")
    return _ROLES[name]


def _chat_turn(number: int, turn: dict[str, Any], folder: Path) -> Turn:
    content = turn.get("content")
    if isinstance(content, str):
        content = [{"type": "text", "text": content}]
    if not isinstance(content, list) or not content:
        raise ValueError(f"turn {number} has no content")
    parts: list[str | Attachment | Place] = []
    for part in content:
        match part:
            case {"type": "text", "text": str(text)}:
                parts.append(text)
            case {"type": "image", "image": str(name)}:
                parts.append(Attachment("image", folder / name))
            case {"type": "video", "video": str(name)}:
                parts.append(Attachment("video", folder / name))
            case {"ref": str(text)}:
                parts.append(Ref(text))
            case {
                "box": [
                    int() | float() as x0,
                    int() | float() as y0,
                    int() | float() as x1,
                    int() | float() as y1,
                ]
            }:
                parts.append(Box((float(x0), float(y0), float(x1), float(y1))))
            case {"quad": [*corners]} if len(corners) == 8 and _are_numbers(corners):
                parts.append(Quad(tuple(map(float, corners))))
            case _:
                raise ValueError(f"turn {number} has a part that is no text or file: {part!r}")
    return Turn(_role(number, turn.get("role")), tuple(parts))


def _are_numbers(values: list[Any]) -> bool:
    return all(isinstance(value, int | float) for value in values)


def _llava_turns(record: dict[str, Any], folder: Path) -> tuple[Turn, ...]:
    """The turns; what no marker places stands at the head of the first turn of the user."""
    waiting = {kind: _paths(record, kind, folder) for kind in ("image", "video")}
    given = {kind: len(paths) for kind, paths in waiting.items()}
    marked = dict.fromkeys(waiting, 0)
    turns = []
    for number, turn in _numbered(record, "conversations"):
        value = turn.get("value")
        if not isinstance(value, str) or not value:
            raise ValueError(f"turn {number} has no text `value`")
        # split() with a group yields text, kind, text, kind, ..., text.
        pieces = _MARKER.split(value)
        parts: list[str | Attachment] = []
        for place, piece in enumerate(pieces):
            if place % 2 == 0:
                parts.extend([piece] if piece else [])
                continue
            marked[piece] += 1
            if waiting[piece]:
                parts.append(waiting[piece].pop(0))
        turns.append(Turn(_role(number, turn.get("from")), tuple(parts)))
    for kind, count in given.items():
        if marked[kind] != count and (marked[kind] or not count):
            raise ValueError(
                f"`{kind}` names {count}, and the turns have {marked[kind]} markers <{kind}>"
            )
    unmarked = [shown for some in waiting.values() for shown in some]
    first = next((place for place, turn in enumerate(turns) if turn.role == "user"), None)
    if unmarked and first is None:
        raise ValueError("no turn of a user takes what the record shows")
    if unmarked and first is not None:
        turns[first] = replace(turns[first], parts=(*unmarked, *turns[first].parts))
    return tuple(turns)


def _paths(
    record: dict[str, Any], kind: Literal["image", "video"], folder: Path
) -> list[Attachment]:
    given = record.get(kind)
    names = given if isinstance(given, list) else [] if given is None else [given]
    if not all(isinstance(name, str) and name for name in names):
        raise ValueError(f"`{kind}` is neither a path nor a list of paths: {given!r}")
    return [Attachment(kind, folder / name) for name in names]


def _region(value: Any) -> Region:
    match value:
        case {
            "box": [
                int() | float() as x0,
                int() | float() as y0,
                int() | float() as x1,
                int() | float() as y1,
            ],
            "label": str(label),
        } if label and x0 < x1 and y0 < y1:
            return Region((float(x0), float(y0), float(x1), float(y1)), label)
    raise ValueError(f"a region is not a label and a box x0 < x1, y0 < y1: {value!r}")


def bind(needed: Iterable[str], known: Iterable[str], given: Sequence[str]) -> dict[str, Path]:
    """Which path each of the `needed` names stands for, of those `known` to the recipe.

    `given` holds `NAME=PATH` for one name, or a bare path for all that have none of their own.
    """
    names = list(dict.fromkeys(known))
    bound: dict[str, Path] = {}
    everywhere: Path | None = None
    for text in given:
        name, equals, path = text.partition("=")
        if not equals or not name.isidentifier():
            if everywhere is not None:
                raise DataError(f"two paths for everything: {everywhere} and {text}; name them")
            everywhere = Path(text)
        elif name not in names:
            raise DataError(f"no stage draws from {name!r}; the stages draw from {_and(names)}")
        else:
            bound[name] = Path(path)
    found = {name: bound.get(name, everywhere) for name in needed}
    missing = [name for name, path in found.items() if path is None]
    if missing:
        raise DataError(f"no data for {_and(missing)}: say --data {missing[0]}=PATH")
    return {name: path for name, path in found.items() if path is not None}


def _and(names: Sequence[str]) -> str:
    return " and ".join((", ".join(names[:-1]), names[-1])) if len(names) > 1 else names[0]

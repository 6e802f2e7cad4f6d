"""Messages -> runs of text, special tokens and places for features, as a recipe's layout says.

A layout is a set of rules. The rule named for a message's role lays out its content; the rule named
for a kind of medium lays out a picture or a clip. One text gives the training tokens, what is
supervised, the prompt (all that stands before the first supervised token of an answer), and the
tokens that end an answer: they cannot drift apart. No torch, no tokenizer.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Any, TypeAlias

from .places import RULES, Box, Place, Quad, Ref, coordinates
from .tokenizer import Behind


class LayoutError(ValueError):
    """A dialogue does not fit the layout that it is to be written in."""


@dataclass(frozen=True, slots=True)
class Medium:
    """A picture or clip where it stands in a dialogue: its input, and what it takes.

    `tokens` are its places in the language model, by the part whose features go there; `size` is
    its width and height in pixels of the file, which boxes are counted in.
    """

    kind: str
    tokens: Mapping[str, int]
    size: tuple[int, int] = (0, 0)


Part: TypeAlias = str | Medium | Place


@dataclass(frozen=True, slots=True)
class Message:
    """One turn, or one whole sample: the rule that lays it out, and its parts in order.

    A rule of one parameter takes all parts for it; a rule of several takes one part for each. A
    layout without turns (a caption, say) takes an exchange of user and assistant as one sample.
    """

    role: str
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Text:
    """Plain text; whatever it spells, it is never a special token.

    `behind` says what it follows: the start, a special token or place, or other text.
    """

    text: str
    loss: bool = False
    behind: Behind = "token"


@dataclass(frozen=True, slots=True)
class Special:
    """A special token, by id."""

    id: int
    loss: bool = False


@dataclass(frozen=True, slots=True)
class Places:
    """`count` places for the features of a medium, held by one special token; never supervised.

    `medium` counts the media of the whole dialogue, of every kind, from 0; `part` makes the
    features.
    """

    id: int
    count: int
    medium: int
    part: str


Run: TypeAlias = Text | Special | Places


class _Border:
    """Between texts that are tokenised apart."""


_BORDER = _Border()


@dataclass(frozen=True, slots=True)
class _Placed:
    """A medium with its number in the dialogue, and among those of its kind (from 1).

    `rule` lays it out: that of its kind, or the one for pictures that were shown before.
    """

    medium: Medium
    position: int
    index: int
    rule: str


@dataclass(frozen=True, slots=True)
class _Corners:
    """A box or quadrilateral, and the size of the picture that it lies in."""

    place: Box | Quad
    size: tuple[int, int]


_Piece: TypeAlias = str | _Placed | _Corners | Ref
_Content: TypeAlias = tuple[_Piece, ...]


class _Lot:
    """Settles one choice after another by the digits of a whole number."""

    def __init__(self, number: int) -> None:
        self._number = number

    def pick(self, count: int) -> int:
        self._number, picked = divmod(self._number, count)
        return picked


class Layout:
    """One layout of a recipe, from the plain JSON of a feed spec.

    >>> spec = {"system": None, "stop": [1], "rules": {
    ...     "image": {"params": ["x"], "items": [{"repeat": {"id": 3}, "count": "x"}]},
    ...     "ask": {"params": ["q", "a"], "items": [
    ...         {"slot": "q"}, {"text": ": "},
    ...         {"loss": [{"slot": "a"}, {"special": "end", "id": 1}]}]},
    ... }}
    >>> layout = Layout("toy", spec)
    >>> for run in layout.render([Message("ask", ("how", "so"))]):
    ...     print(run)
    Text(text='how: ', loss=False, behind='start')
    Text(text='so', loss=True, behind='text')
    Special(id=1, loss=True)
    >>> layout.prompt([Message("ask", ("how",))]), layout.stops
    ((Text(text='how: ', loss=False, behind='start'),), (1,))
    """

    def __init__(self, name: str, spec: Mapping[str, Any]) -> None:
        self.name = name
        self.stops: tuple[int, ...] = tuple(spec["stop"])
        """The tokens that end an answer."""
        self.stop_texts: tuple[str, ...] = tuple(spec.get("stop_text", ()))
        """The texts that end an answer; they are no part of it."""
        self.strip: bool = spec.get("strip", False)
        """Whether white space at the ends of messages and answers is dropped."""
        self.longest: int | None = spec.get("answer")
        """The most tokens of an answer that are learnt, the one that ends it included."""
        self._system: str | None = spec["system"]
        self._rules: Mapping[str, Mapping[str, Any]] = spec["rules"]
        self._gap: str = spec.get("gap") or ""
        self._clean: Mapping[str, Any] | None = spec.get("clean")
        self._coordinates = coordinates(spec)

    @property
    def answer(self) -> str:
        """The rule that holds what the model says: the first that supervises some content.

        Where no content is supervised, the first that supervises anything.
        """
        for learns in (_learns_content, _learns):
            for name, rule in self._rules.items():
                if any(map(learns, rule["items"])):
                    return name
        raise LayoutError(f"the layout {self.name} supervises nothing, so it has no answer")

    @property
    def draws(self) -> bool:
        """Whether something in it is chosen among several."""
        return any(_draws(rule["items"]) for rule in self._rules.values())

    def render(self, messages: Sequence[Message], lot: int = 0) -> tuple[Run, ...]:
        """A whole dialogue, answers included; `lot`, a whole number, settles every choice."""
        return _joined(self._runs(self._own(messages), _Lot(lot)))

    def prompt(self, messages: Sequence[Message]) -> tuple[Run, ...]:
        """A dialogue up to where the model goes on: the text that `render` gives before an answer.

        Nothing in it is learnt, so earlier answers are tokenised with the text around them, as
        published chats do, unless the layout sets them apart.

        The last message may be an answer of which only the unsupervised parts are given; else the
        opening of an answer is added. Of every choice the first is taken.
        """
        messages = self._own(messages)
        opening = self._opening()
        if not messages or messages[-1].role != self.answer:
            messages.append(Message(self.answer, ()))
        given, wanted = len(messages[-1].parts), len(opening)
        if given != wanted:
            raise LayoutError(
                f"the layout {self.name} lays out {_listed(self._params(self.answer))} by the rule "
                f"`{self.answer}`, and {wanted} of that must stand before the answer: {given} given"
            )
        return _joined(map(_unlearnt, self._runs(messages, _Lot(0), cut=True)))

    def _own(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in terms of this layout: without turns, an exchange is one whole sample."""
        if "user" in self._rules or any(message.role in self._rules for message in messages):
            return list(messages)
        return [Message(self.answer, tuple(part for one in messages for part in one.parts))]

    def _opening(self) -> list[str]:
        """The parameters of the answer's rule that stand before what is supervised."""
        opening = [name for item in self._before() for name in _named(item)]
        return [name for name in self._params(self.answer) if name in opening]

    def _before(self) -> Sequence[Mapping[str, Any]]:
        """The items of the answer's rule that stand before what the model says."""
        items: Sequence[Mapping[str, Any]] = self._rules[self.answer]["items"]
        learns = _learns_content if any(map(_learns_content, items)) else _learns
        return items[: next(number for number, item in enumerate(items) if learns(item))]

    def _params(self, rule: str) -> list[str]:
        params: list[str] = self._rules[rule]["params"]
        return params

    def _runs(
        self, messages: Sequence[Message], lot: _Lot, *, cut: bool = False
    ) -> Iterator[Run | _Border]:
        if self._system is not None and (not messages or messages[0].role != "system"):
            messages = [Message("system", (self._system,)), *messages]
        yield from self._items(self._rules.get("begin", {"items": ()})["items"], {}, lot)
        yield _BORDER
        shown: list[_Placed] = []
        for number, message in enumerate(messages, start=1):
            pieces = self._pieces(message, shown)
            last = cut and number == len(messages)
            yield from self._message(message.role, pieces, lot, cut=last)

    def _pieces(self, message: Message, shown: list[_Placed]) -> _Content:
        """The parts of a message in terms of a dialogue whose media so far are `shown`."""
        pieces: list[_Piece] = []
        recalls = message.role == "user" and "recall" in self._rules
        if recalls and not any(isinstance(part, Medium) for part in message.parts):
            pieces += [replace(placed, rule="recall") for placed in shown]
        for part in self._stripped(message.parts):
            if isinstance(part, Medium):
                index = 1 + sum(placed.medium.kind == part.kind for placed in shown)
                shown.append(_Placed(part, len(shown), index, part.kind))
                pieces.append(shown[-1])
            elif isinstance(part, Box | Quad):
                if not shown:
                    raise LayoutError("a box lies in a picture, and none stands before it")
                pieces.append(_Corners(part, shown[-1].medium.size))
            else:
                pieces.append(part)
        return tuple(pieces)

    def _stripped(self, parts: Sequence[Part]) -> Sequence[Part]:
        """The parts without white space at their ends, where the layout wants that."""
        if not self.strip:
            return parts
        kept = list(parts)
        while kept and isinstance(kept[0], str) and not kept[0].strip():
            del kept[0]
        while kept and isinstance(kept[-1], str) and not kept[-1].strip():
            del kept[-1]
        if kept and isinstance(kept[0], str):
            kept[0] = kept[0].lstrip()
        if kept and isinstance(kept[-1], str):
            kept[-1] = kept[-1].rstrip()
        return kept

    def _message(
        self, role: str, parts: _Content, lot: _Lot, *, cut: bool
    ) -> Iterator[Run | _Border]:
        if role not in self._rules:
            raise LayoutError(
                f"the layout {self.name} has no rule `{role}`; it has {_listed(self._rules)}"
            )
        params = self._params(role)
        if cut:
            params = self._opening()
        if len(params) == 1:
            bound = {params[0]: self._gapped(parts)}
        elif len(params) == len(parts):
            bound = {name: (part,) for name, part in zip(params, parts, strict=True)}
        else:
            raise LayoutError(
                f"the rule `{role}` of the layout {self.name} takes "
                f"{_listed(params) or 'nothing'}, and {len(parts)} parts are given"
            )
        items = self._before() if cut else self._rules[role]["items"]
        yield from self._items(items, bound, lot)

    def _gapped(self, parts: _Content) -> _Content:
        """The parts, with the gap behind each picture that no white space follows."""
        if not self._gap:
            return parts
        pieces = list(parts[:1])
        for part, following in pairwise(parts):
            spaced = isinstance(following, str) and following[:1].isspace()
            pieces += (
                [following]
                if spaced or not isinstance(part, _Placed)
                else [
                    self._gap,
                    following,
                ]
            )
        return tuple(pieces)

    def _items(
        self,
        items: Iterable[Mapping[str, Any]],
        bound: Mapping[str, _Content],
        lot: _Lot,
        loss: bool = False,
    ) -> Iterator[Run | _Border]:
        for item in items:
            yield from self._item(item, bound, lot, loss)

    def _item(
        self, item: Mapping[str, Any], bound: Mapping[str, _Content], lot: _Lot, loss: bool
    ) -> Iterator[Run | _Border]:
        if "text" in item:
            yield Text(item["text"], loss)
        elif "special" in item:
            yield Special(item["id"], loss)
        elif "slot" in item:
            yield from self._content(bound[item["slot"]], lot, loss)
        elif "repeat" in item:
            placed = self._medium(item["count"], bound)
            part, count = self._count(placed.medium, item.get("part"))
            yield Places(item["repeat"]["id"], count, placed.position, part)
        elif "index" in item:
            yield Text(str(self._medium(item["index"], bound).index), loss)
        elif "corners" in item:
            yield Text(self._corners(bound[item["corners"]]), loss)
        elif "rule" in item:
            rule = self._rules[item["rule"]]
            inner = dict(zip(rule["params"], (bound[name] for name in item["args"]), strict=True))
            yield from self._items(rule["items"], inner, lot, loss)
        elif "choice" in item:
            lines = item["choice"]
            yield from self._items(lines[lot.pick(len(lines))], bound, lot, loss)
        elif "apart" in item:
            yield _BORDER
            yield from self._items(item["apart"], bound, lot, loss)
            yield _BORDER
        else:
            yield from self._items(item["loss"], bound, lot, True)

    def _medium(self, name: str, bound: Mapping[str, _Content]) -> _Placed:
        match bound[name]:
            case (_Placed() as placed,):
                return placed
        raise LayoutError(f"the layout {self.name} takes one picture or clip for `{name}`")

    def _count(self, medium: Medium, part: str | None) -> tuple[str, int]:
        """The part whose features are placed, and how many there are."""
        if part is None and len(medium.tokens) == 1:
            (part,) = medium.tokens
        if part is not None and part in medium.tokens:
            return part, medium.tokens[part]
        raise LayoutError(
            f"the layout {self.name} does not say which places of a medium `{medium.kind}` it "
            f"counts; it has those of {_listed(medium.tokens)}"
        )

    def _corners(self, content: _Content) -> str:
        match content:
            case (_Corners(place, size),) if self._coordinates:
                return self._coordinates.written(place.corners, size)
        raise LayoutError(f"the layout {self.name} takes corners of a box or a quadrilateral alone")

    def _content(self, content: _Content, lot: _Lot, loss: bool) -> Iterator[Run | _Border]:
        for part in content:
            if isinstance(part, str):
                yield Text(self._cleaned(part) if loss else part, loss)
                continue
            rule, inner = _rule_of(part)
            if rule not in self._rules:
                raise LayoutError(f"the layout {self.name} has no rule for {_noun(part)} `{rule}`")
            (name,) = self._params(rule)
            yield from self._items(self._rules[rule]["items"], {name: (inner,)}, lot, loss)

    def _cleaned(self, text: str) -> str:
        """What is learnt, cleaned as the layout says."""
        if self._clean is None:
            return text
        return clean_caption(text, self._clean["words"])


def clean_caption(text: str, words: int) -> str:
    """A caption of the web as BLIP takes it: small letters, little punctuation, so many words.

    >>> clean_caption("A Dog, running (fast) on the *beach*!!", 5)
    'a dog, running fast on'
    """
    spaced = re.sub(r"([.!\"()*#:;~])", " ", text.lower())
    joined = re.sub(r"\s{2,}", " ", spaced).rstrip("\n").strip(" ")
    return " ".join(joined.split(" ")[:words])


def _rule_of(part: _Placed | _Corners | Ref) -> tuple[str, _Piece]:
    """The rule that lays out a part, and what its parameter holds."""
    match part:
        case _Placed():
            return part.rule, part
        case Ref():
            return "ref", part.text
        case _Corners(place):
            return next(name for name, kind in RULES.items() if isinstance(place, kind)), part


def _noun(part: _Piece) -> str:
    return "a medium" if isinstance(part, _Placed) else "a place"


def _inside(item: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The items directly inside an item."""
    yield from item.get("loss", ())
    yield from item.get("apart", ())
    for line in item.get("choice", ()):
        yield from line


def _learns(item: Mapping[str, Any]) -> bool:
    return "loss" in item


def _learns_content(item: Mapping[str, Any]) -> bool:
    """Whether an item supervises what a parameter holds, and not fixed text alone."""
    return "loss" in item and any(_named(item))


def _draws(items: Iterable[Mapping[str, Any]]) -> bool:
    return any("choice" in item or _draws(_inside(item)) for item in items)


def _named(item: Mapping[str, Any]) -> Iterator[str]:
    """The parameters that an item speaks of."""
    for key in ("slot", "count", "index", "corners"):
        if key in item:
            yield item[key]
    yield from item.get("args", ())
    for inner in _inside(item):
        yield from _named(inner)


def _unlearnt(run: Run | _Border) -> Run | _Border:
    return replace(run, loss=False) if isinstance(run, Text | Special) else run


def _joined(runs: Iterable[Run | _Border]) -> tuple[Run, ...]:
    """Neighbouring text as one run, so that a tokenizer sees it as it would the written page.

    Runs that differ in `loss` stay apart: what stands before an answer is tokenised in training as
    in a prompt, where the answer is not there yet.
    """
    joined: list[Run] = []
    behind: Behind = "start"
    for run in runs:
        if isinstance(run, _Border):
            behind = "start"
        elif not isinstance(run, Text):
            joined.append(run)
            behind = "token"
        elif run.text:
            last = joined[-1] if joined else None
            if behind == "text" and isinstance(last, Text) and last.loss == run.loss:
                joined[-1] = replace(last, text=last.text + run.text)
            else:
                joined.append(replace(run, behind=behind))
            behind = "text"
    return tuple(joined)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)

"""Messages -> runs of text, special tokens and places for features, as a recipe's layout says.

A layout is a set of rules. The rule named for a message's role lays out its content; the rule named
for a kind of medium lays out a picture or a clip. One text gives the training tokens, what is
supervised, the prompt (all that stands before the first supervised token of an answer), and the
tokens that end an answer: they cannot drift apart. No torch, no tokenizer.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias


class LayoutError(ValueError):
    """A dialogue does not fit the layout that it is to be written in."""


@dataclass(frozen=True, slots=True)
class Medium:
    """A picture or clip where it stands in a dialogue: its input, and the tokens it takes.

    They are told apart by the part of the model whose features take their places.
    """

    kind: str
    tokens: Mapping[str, int]


Part: TypeAlias = str | Medium


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
    """Plain text; whatever it spells, it is never a special token."""

    text: str
    loss: bool = False


@dataclass(frozen=True, slots=True)
class Special:
    """A special token, by id."""

    id: int
    loss: bool = False


@dataclass(frozen=True, slots=True)
class Places:
    """`count` places for the features of a medium, held by one special token; never supervised.

    `medium` counts the media of the whole dialogue, of every kind, from 0; `part` is that of the
    model whose features these are.
    """

    id: int
    count: int
    medium: int
    part: str


Run: TypeAlias = Text | Special | Places


@dataclass(frozen=True, slots=True)
class _Placed:
    """A medium with its number in the dialogue, and among those of its kind (from 1)."""

    medium: Medium
    position: int
    index: int


_Content: TypeAlias = "tuple[str | _Placed, ...]"


class Layout:
    """One layout of a recipe, from the plain JSON of a feed spec.

    >>> spec = {"system": None, "stop": [1], "rules": {
    ...     "image": {"params": ["x"], "items": [{"repeat": {"id": 3}, "count": "x"}]},
    ...     "ask": {"params": ["q", "a"], "items": [
    ...         {"slot": "q"}, {"text": ": "},
    ...         {"loss": [{"slot": "a"}, {"special": "end", "id": 1}]}]},
    ... }}
    >>> layout = Layout("toy", spec)
    >>> layout.render([Message("ask", ("how", "so"))])
    (Text(text='how: ', loss=False), Text(text='so', loss=True), Special(id=1, loss=True))
    >>> layout.prompt([Message("ask", ("how",))]), layout.stops
    ((Text(text='how: ', loss=False),), (1,))
    """

    def __init__(self, name: str, spec: Mapping[str, Any]) -> None:
        self.name = name
        self.stops: tuple[int, ...] = tuple(spec["stop"])
        """The tokens that end an answer."""
        self._system: str | None = spec["system"]
        self._rules: Mapping[str, Mapping[str, Any]] = spec["rules"]

    @property
    def answer(self) -> str:
        """The rule that holds what the model says: the first that supervises something."""
        for name, rule in self._rules.items():
            if any("loss" in item for item in rule["items"]):
                return name
        raise LayoutError(f"the layout {self.name} supervises nothing, so it has no answer")

    def render(self, messages: Sequence[Message]) -> tuple[Run, ...]:
        """A whole dialogue, answers included."""
        return _joined(self._runs(self._own(messages)))

    def prompt(self, messages: Sequence[Message]) -> tuple[Run, ...]:
        """A dialogue up to where the model goes on: a prefix of what `render` gives with an answer.

        The last message may be an answer of which only the unsupervised parts are given; else the
        opening of an answer is added.
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
        return _joined(self._runs(messages, cut=True))

    def _own(self, messages: Sequence[Message]) -> list[Message]:
        """The messages in terms of this layout: without turns, an exchange is one whole sample."""
        if "user" in self._rules or any(message.role in self._rules for message in messages):
            return list(messages)
        return [Message(self.answer, tuple(part for one in messages for part in one.parts))]

    def _opening(self) -> list[str]:
        """The parameters of the answer's rule that stand before what is supervised."""
        opening: list[str] = []
        for item in self._rules[self.answer]["items"]:
            if "loss" in item:
                break
            opening += _named(item)
        return [name for name in self._params(self.answer) if name in opening]

    def _params(self, rule: str) -> list[str]:
        params: list[str] = self._rules[rule]["params"]
        return params

    def _runs(self, messages: Sequence[Message], *, cut: bool = False) -> Iterator[Run]:
        if self._system is not None and (not messages or messages[0].role != "system"):
            messages = [Message("system", (self._system,)), *messages]
        counts: dict[str, int] = {}
        for number, message in enumerate(messages, start=1):
            placed: list[str | _Placed] = []
            for part in message.parts:
                if isinstance(part, Medium):
                    position = sum(counts.values())
                    counts[part.kind] = counts.get(part.kind, 0) + 1
                    placed.append(_Placed(part, position, counts[part.kind]))
                else:
                    placed.append(part)
            last = cut and number == len(messages)
            yield from self._message(message.role, tuple(placed), cut=last)

    def _message(self, role: str, parts: _Content, *, cut: bool) -> Iterator[Run]:
        if role not in self._rules:
            raise LayoutError(
                f"the layout {self.name} has no rule `{role}`; it has {_listed(self._rules)}"
            )
        params = self._params(role)
        if cut:
            params = self._opening()
        if len(params) == 1:
            bound = {params[0]: parts}
        elif len(params) == len(parts):
            bound = {name: (part,) for name, part in zip(params, parts, strict=True)}
        else:
            raise LayoutError(
                f"the rule `{role}` of the layout {self.name} takes "
                f"{_listed(params) or 'nothing'}, and {len(parts)} parts are given"
            )
        for item in self._rules[role]["items"]:
            if cut and "loss" in item:
                return
            yield from self._item(item, bound, loss=False)

    def _item(
        self, item: Mapping[str, Any], bound: Mapping[str, _Content], *, loss: bool
    ) -> Iterator[Run]:
        if "text" in item:
            yield Text(item["text"], loss)
        elif "special" in item:
            yield Special(item["id"], loss)
        elif "slot" in item:
            yield from self._content(bound[item["slot"]], loss=loss)
        elif "repeat" in item:
            placed = self._medium(item["count"], bound)
            tokens = placed.medium.tokens
            for part in tokens if item.get("part") is None else [item["part"]]:
                yield Places(item["repeat"]["id"], tokens[part], placed.position, part)
        elif "index" in item:
            yield Text(str(self._medium(item["index"], bound).index), loss)
        elif "rule" in item:
            rule = self._rules[item["rule"]]
            inner = dict(zip(rule["params"], (bound[name] for name in item["args"]), strict=True))
            for child in rule["items"]:
                yield from self._item(child, inner, loss=loss)
        else:
            for child in item["loss"]:
                yield from self._item(child, bound, loss=True)

    def _medium(self, name: str, bound: Mapping[str, _Content]) -> _Placed:
        content = bound[name]
        if len(content) != 1 or isinstance(content[0], str):
            raise LayoutError(f"the layout {self.name} takes one picture or clip for `{name}`")
        return content[0]

    def _content(self, content: _Content, *, loss: bool) -> Iterator[Run]:
        for part in content:
            if isinstance(part, str):
                yield Text(part, loss)
                continue
            kind = part.medium.kind
            if kind not in self._rules:
                raise LayoutError(f"the layout {self.name} has no rule for a medium `{kind}`")
            (name,) = self._params(kind)
            for item in self._rules[kind]["items"]:
                yield from self._item(item, {name: (part,)}, loss=loss)


def _named(item: Mapping[str, Any]) -> Iterator[str]:
    """The parameters that an item speaks of."""
    for key in ("slot", "count", "index"):
        if key in item:
            yield item[key]
    yield from item.get("args", ())


def _joined(runs: Iterable[Run]) -> tuple[Run, ...]:
    """Neighbouring text as one run, so that a tokenizer sees it as it would the written page.

    Runs that differ in `loss` stay apart: the tokens of a prompt are those of training.
    """
    joined: list[Run] = []
    for run in runs:
        last = joined[-1] if joined else None
        if not isinstance(run, Text):
            joined.append(run)
        elif isinstance(last, Text) and run.loss == last.loss:
            joined[-1] = Text(last.text + run.text, run.loss)
        elif run.text:
            joined.append(run)
    return tuple(joined)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(f"`{name}`" for name in names)

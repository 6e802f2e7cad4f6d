"""Where in a recipe a cursor stands, read off the text before it, however broken it is."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

from ...dsl.whole import ENTRY_HOMES, NAMED_BLOCKS, SINGLE_BLOCKS

_TOKEN = re.compile(
    r"""(?P<string>"(?:\\.|[^"\\\n])*"?)|(?P<comment>\#[^\n]*)|(?P<number>[0-9]\w*(?:\.[0-9]\w*)?)
    |(?P<name>[A-Za-z_]\w*)|(?P<symbol>->|\.\.|[=!<>]=|[^\s\w])""",
    re.VERBOSE,
)
VERBS = ("amend", "add", "replace")
ENTRIES = tuple(kind for kind in ENTRY_HOMES if kind != "rule")
"""Statements that begin with a word of their own."""
_OPENS = {")": "(", "]": "[", "}": "{"}


@dataclass(frozen=True, slots=True)
class Token:
    """A word, number, string or sign of the text."""

    kind: str
    text: str
    start: int
    end: int


@dataclass
class Frame:
    """What a bracket holds, the file itself being the outermost.

    `tail` is what stands in it since its last comma or the start of its last statement; `names` are
    the settings, arguments or words that are written in it, `at` the argument or member that is
    being written; `given` are the parameters of the rule that is being written.
    """

    kind: Literal["file", "recipe", "block", "call", "list", "group", "items", "index"]
    header: tuple[Token, ...] = ()
    tail: list[Token] = field(default_factory=list)
    names: list[str] = field(default_factory=list)
    at: str | int = 0
    given: list[str] = field(default_factory=list)

    @property
    def words(self) -> list[str]:
        """The words of what is being written in it."""
        return [token.text for token in self.tail]


@dataclass(frozen=True)
class Context:
    """The brackets around a cursor, and the word that it stands at the end of.

    `path` holds the names before that word, where it goes on a path: `("lm",)` in `lm.wi`.
    """

    frames: tuple[Frame, ...]
    word: Token | None
    path: tuple[str, ...]
    is_free: bool
    """Whether it stands in neither a string nor a comment."""

    def frame(self, kind: str) -> Frame | None:
        """The innermost frame of a kind."""
        return next((frame for frame in reversed(self.frames) if frame.kind == kind), None)

    @property
    def inner(self) -> Frame:
        """The innermost frame."""
        return self.frames[-1]

    @property
    def values(self) -> tuple[Frame, ...]:
        """The frames inside the block, from the outermost: the calls and lists of a value."""
        at = max((i for i, frame in enumerate(self.frames) if frame.kind == "block"), default=-1)
        return self.frames[at + 1 :] if at >= 0 else ()


def header_of(frame: Frame) -> tuple[str | None, str, str, str | None]:
    """The verb, kind, name and type that a block's header says; what is missing is empty.

    >>> header_of(context_at("recipe a { amend encoder vit : ViT { ", 37).inner)
    ('amend', 'encoder', 'vit', 'ViT')
    """
    words = [token.text for token in frame.header]
    verb = words.pop(0) if words[:1] and words[0] in VERBS else None
    type_ = None
    if ":" in words:
        colon = words.index(":")
        type_ = "".join(words[colon + 1 : colon + 2]) or None
        words = words[:colon]
    kind = words[0] if words else ""
    return verb, kind, words[1] if len(words) > 1 else kind, type_


def context_at(text: str, offset: int) -> Context:
    """Where an offset stands."""
    every = list(_tokens(text))
    before = [token for token in every if token.end <= offset]
    over = next((token for token in every if token.start < offset < token.end), None)
    last = before[-1] if before else None
    at_end = last is not None and last.end == offset
    if over is None and last and at_end and last.kind in ("comment", "string"):
        is_closed = last.kind == "string" and last.text.endswith('"') and len(last.text) > 1
        over = None if is_closed else last
    if over and over.kind in ("comment", "string"):
        return Context((Frame("file"),), None, (), is_free=False)
    word = over if over and over.kind in ("name", "number") else None
    if word:
        word = Token(word.kind, text[word.start : offset], word.start, word.end)
    elif last and at_end and last.kind in ("name", "number"):
        word = before.pop()
    before = [token for token in before if token.kind != "comment"]
    frames = _frames(before)
    path = _path(frames[-1].tail)
    return Context(tuple(frames), word, path, is_free=True)


def _tokens(text: str) -> Iterator[Token]:
    for match in _TOKEN.finditer(text):
        assert match.lastgroup
        yield Token(match.lastgroup, match[0], match.start(), match.end())


def _path(tail: Sequence[Token]) -> tuple[str, ...]:
    """The names of a path that ends in a dot; indices are left out."""
    names: list[str] = []
    rest = list(tail)
    while rest and rest[-1].text == ".":
        rest.pop()
        if rest and rest[-1].text == "]":
            while rest and rest.pop().text != "[":
                pass
        if not rest or rest[-1].kind != "name":
            break
        names.insert(0, rest.pop().text)
    return tuple(names)


def _frames(tokens: Sequence[Token]) -> list[Frame]:
    frames = [Frame("file")]
    for number, token in enumerate(tokens):
        frame = frames[-1]
        following = tokens[number + 1].text if number + 1 < len(tokens) else ""
        if token.text in _OPENS:
            frames = _popped(frames, token)
            continue
        if token.text == "{":
            frames.append(_opened_block(frames))
            continue
        if token.text in ("(", "["):
            frame.tail.append(token)
            frames.append(_opened_value(frame, token))
            continue
        if frame.kind in ("recipe", "block") and _begins(frame, tokens, number):
            frame.tail = []
        if frame.kind in ("call", "list", "group", "items") and token.text == ",":
            frame.tail = []
            frame.at = frame.at + 1 if isinstance(frame.at, int) else len(frame.names)
            continue
        if frame.kind == "call" and token.text == ":" and len(frame.tail) == 1:
            frame.at = frame.tail.pop().text
            frame.names.append(frame.at)
            continue
        is_setting = frame.kind == "block" and not frame.tail and following == "="
        if is_setting or (frame.kind == "items" and token.kind == "name"):
            frame.names.append(token.text)
        frame.tail.append(token)
    return frames


def _popped(frames: list[Frame], token: Token) -> list[Frame]:
    """The frames after a closing bracket; one that fits nothing changes nothing."""
    wanted = (
        ("recipe", "block") if token.text == "}" else ("call", "list", "group", "items", "index")
    )
    found = next((i for i in reversed(range(len(frames))) if frames[i].kind in wanted), 0)
    holds_block = any(frame.kind in ("recipe", "block") for frame in frames[found + 1 :])
    if found == 0 or (token.text != "}" and holds_block):
        return frames
    closed, frames = frames[found], frames[:found]
    around = frames[-1]
    if token.text == "}":
        around.tail = []
        return frames
    if closed.kind == "items" and around.kind == "block" and "->" not in around.words:
        around.given = closed.names
    around.tail.append(token)
    return frames


def _opened_block(frames: list[Frame]) -> Frame:
    while frames[-1].kind not in ("file", "recipe", "block"):
        frames.pop()
    header = tuple(frames[-1].tail)
    frames[-1].tail = []
    return Frame("recipe" if frames[-1].kind == "file" else "block", header)


def _opened_value(frame: Frame, token: Token) -> Frame:
    """The frame of `(` or `[`, which the tail of the frame around it ends in."""
    before = frame.tail[-2] if len(frame.tail) > 1 else None
    adjacent = before is not None and before.kind == "name" and before.end == token.start
    if token.text == "[":
        return Frame("index" if adjacent else "list", tuple(frame.tail[-2:-1]))
    words = frame.words
    if frame.kind == "items" or "->" in words[:-1] or (frame.kind == "block" and "=" not in words):
        is_map = words[:1] == ["map"] or words[1:2] == ["map"]
        return Frame("call" if is_map else "items", tuple(frame.tail[-2:-1]))
    return Frame("call" if before and before.kind == "name" else "group", tuple(frame.tail[-2:-1]))


def _begins(frame: Frame, tokens: Sequence[Token], number: int) -> bool:
    """Whether a token begins a statement of a block or a recipe."""
    token = tokens[number]
    after = [one.text for one in tokens[number + 1 : number + 2]]
    if token.kind != "name" or not frame.tail:
        return False
    first = frame.tail[0].text
    if after == ["="]:
        return frame.tail[-1].text != "special"
    if after == ["("] and "->" in _after_bracket(tokens, number + 1):
        return True
    if not is_complete(frame):
        return False
    starts = (*VERBS, *ENTRIES, "drop", "assert", "import", *SINGLE_BLOCKS, *NAMED_BLOCKS)
    return token.text in starts and not (first == "drop" and len(frame.tail) == 1)


def _after_bracket(tokens: Sequence[Token], number: int) -> list[str]:
    """What follows the bracket that opens there, if that holds names alone."""
    for at in range(number + 1, len(tokens)):
        if tokens[at].text == ")":
            return [token.text for token in tokens[at + 1 : at + 2]]
        if tokens[at].kind != "name" and tokens[at].text != ",":
            break
    return []


def is_complete(frame: Frame) -> bool:
    """Whether what is being written in a block or a recipe could end here."""
    words, tail = frame.words, frame.tail
    if not tail:
        return True
    ends = tail[-1].kind in ("name", "number", "string") or tail[-1].text in (")", "]")
    if words[0] in VERBS and frame.kind == "block":
        words, tail = words[1:], tail[1:]
    match words[:1]:
        case ["drop"]:
            if words[1:2] == ["assert"]:
                return ends and any(len(word) == 2 and word[1] == "=" for word in words)
            named = words[1:2] and words[1] not in (*ENTRY_HOMES, *NAMED_BLOCKS)
            return len(words) > (1 if named else 2)
        case ["assert"]:
            return ends and any(word in ("==", "!=", "<=", ">=", "<", ">") for word in words)
        case ["import"]:
            return "from" in words[:-1]
        case ["special"]:
            return ends and "@" in words
        case ["map"]:
            return ends and "->" in words
        case ["ignore"]:
            return ends and ":" in words
        case ["fresh"]:
            return len(words) > 1 and ends
    if words[1:2] == ["="]:
        return len(words) > 2 and ends
    return "->" in words

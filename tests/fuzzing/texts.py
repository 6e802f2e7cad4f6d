"""Texts from texts: gaps and comments put anywhere, pieces spliced, letters flipped."""

from __future__ import annotations

import re

from triptych.tests.fuzzing.chance import Chance

TOKEN = re.compile(
    r'"(?:\\.|[^"\\\n])*"|#[^\n]*\n?|->|\.\.|[<>=!]=|[A-Za-z_]\w*'
    r"|[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?\w*|\S"
)
GAPS = (" ", " ", " ", "\n", "\n\n\n", " # a note\n", "\n# its own line\n", "\t", "\r\n", " #\n")
DICTIONARY = (
    *"{}[]()=,:.*+-/@#\"\\ \n\t;'%é\0😀\u2028",
    *("..", "->", "<=", "==", " by ", "2x2", "1e999", "9" * 400, "28px", "600Gtok", "7nits", "-0"),
    *("recipe r {", "amend ", "add ", "drop ", "replace ", "extends ", "assert ", "special "),
    *("import vit from ", " as ", "map ", "ignore ", "loss(", "apart(", "choice(", "assumed("),
    *("this.width", "lm.width", "vit.blocks[3..1]", "in = ", "lm", "vit", "true", '"text"'),
    *('"open', "x.tokens", "x.index", "true.false", "null", "\ufeff", "\x7f", "1_000", "0x1F"),
)


def decorated(text: str, chance: Chance) -> str:
    """The same tokens, with other gaps between them and comments wherever they may stand."""
    pieces = []
    for token in TOKEN.findall(text):
        if token.startswith("#"):
            continue
        pieces += [token, chance.one(GAPS) if chance.maybe(20) else " "]
    return "".join(pieces)


def mutated(text: str, chance: Chance) -> str:
    """A few pieces cut, copied, moved, flipped or put in: bytes, not grammar."""
    for _ in range(1 + chance.below(5)):
        start = chance.below(len(text) + 1)
        end = min(len(text), start + chance.one((1, 0, 3, 20, 200)))
        form = chance.below(5)
        if form < 2:
            piece = chance.one(DICTIONARY)
        elif form == 2:
            piece = "".join(chr(ord(letter) ^ (1 << chance.below(7))) for letter in text[start:end])
        else:
            piece = text[start:end]
        at = chance.below(len(text) + 1) if form > 2 else start
        text = text[:at] + piece + text[max(at, end) :]
    return text


def reworded(text: str, chance: Chance) -> str:
    """A few words, numbers and strings exchanged: it mostly follows the grammar."""
    words = list(re.finditer(r'"[^"\n]*"|[A-Za-z_]\w*|[0-9][\w.]*', text))
    for _ in range(1 + chance.below(3)):
        if not words:
            break
        word = chance.one(words)
        alike = [match[0] for match in words if _kind(match[0]) == _kind(word[0])]
        other = chance.one(alike if chance.maybe(80) else DICTIONARY)
        text = text[: word.start()] + other + text[word.end() :]
        words = [match for match in words if match.end() < word.start()]
    return text


def _kind(word: str) -> str:
    return "word" if word[0].isalpha() else word[0] if word[0] == '"' else "number"

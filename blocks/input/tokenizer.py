"""Text <-> tokens, over rank files of tiktoken and `tokenizer.json` files of tokenizers.

Text is always plain: no spelling of a special token in it becomes that token.
"""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen cuts text before byte pairs are merged (`tokenization_qwen.py`)."""


class TokenizerError(ValueError):
    """A vocabulary and the special tokens of a recipe do not fit, or its file cannot be used."""


class Vocabulary(Protocol):
    """What a kind of file gives: ids of plain text, and text of ids that are no special tokens."""

    def encode(self, text: str) -> list[int]:
        """The ids of plain text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        ...


class TiktokenVocabulary:
    """Byte-pair ranks, one `base64 rank` a line, with Qwen's way of cutting text."""

    def __init__(self, file: Path, specials: Mapping[str, int]) -> None:
        import tiktoken

        lines = (line.split() for line in file.read_bytes().splitlines() if line)
        ranks = {base64.b64decode(token): int(rank) for token, rank in lines}
        taken = sorted(name for name, id in specials.items() if id < len(ranks))
        if taken:
            raise TokenizerError(
                f"{file.name} has {len(ranks)} ranks, so the ids of {taken} are in use already"
            )
        self._encoding = tiktoken.Encoding(
            file.stem, pat_str=QWEN_PATTERN, mergeable_ranks=ranks, special_tokens={}
        )

    def encode(self, text: str) -> list[int]:
        """Ids of the text in Unicode normal form C, as the published tokenizer takes it."""
        return self._encoding.encode_ordinary(unicodedata.normalize("NFC", text))

    def decode(self, ids: Sequence[int]) -> str:
        """Ids beyond the ranks, whose embedding rows no text uses, become U+FFFD."""
        known = self._encoding.n_vocab
        pieces = (
            self._encoding.decode_single_token_bytes(id) if id < known else b"\xff" for id in ids
        )
        return b"".join(pieces).decode("utf-8", errors="replace")


class JsonVocabulary:
    """A `tokenizer.json`; its own special tokens are taken out, for they would match in text."""

    def __init__(self, file: Path, specials: Mapping[str, int]) -> None:
        from tokenizers import Tokenizer as Tokens

        spec: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        added = {token["content"]: token for token in spec.get("added_tokens", ())}
        known = {text: token["id"] for text, token in added.items()}
        wrong = sorted(text for text, id in specials.items() if known.get(text, id) != id)
        if wrong:
            raise TokenizerError(f"{file.name} gives other ids to the special tokens {wrong}")
        spec["added_tokens"] = [
            token for text, token in added.items() if text not in specials and not token["special"]
        ]
        self._tokens = Tokens.from_str(json.dumps(spec))

    def encode(self, text: str) -> list[int]:
        """Ids as the file's own model makes them, with nothing put before or after."""
        return self._tokens.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text as the file's own decoder makes it."""
        return self._tokens.decode(list(ids), skip_special_tokens=False)


KINDS: Mapping[str, Callable[[Path, Mapping[str, int]], Vocabulary]] = MappingProxyType(
    {"tiktoken": TiktokenVocabulary, "hf_json": JsonVocabulary}
)
"""Every kind of vocabulary file, by the name that recipes use."""


class Tokenizer:
    """A vocabulary with the special tokens of a recipe, which only `specials` and layouts name."""

    def __init__(self, vocabulary: Vocabulary, specials: Mapping[str, int]) -> None:
        """`specials` maps what a special token is written as to its id."""
        self._vocabulary = vocabulary
        # What stands between contents is the same in every dialogue.
        self._known = lru_cache(maxsize=8192)(lambda text: tuple(vocabulary.encode(text)))
        self._written = {id: text for text, id in specials.items()}

    @classmethod
    def load(cls, kind: str, file: Path, specials: Mapping[str, int]) -> Tokenizer:
        """Read a vocabulary file of a kind; `specials` maps what is written to its id."""
        if kind not in KINDS:
            raise TokenizerError(f"{kind} vocabularies cannot be read yet; {list(KINDS)} can")
        if not file.is_file():
            raise TokenizerError(f"there is no vocabulary file {file}")
        return cls(KINDS[kind](file, specials), specials)

    def encode(self, text: str) -> list[int]:
        """The ids of plain text; never a special token."""
        return list(self._known(text)) if len(text) < 256 else self._vocabulary.encode(text)

    def decode(self, ids: Iterable[int], *, specials: bool = False) -> str:
        """The text of ids; special tokens are left out, or written where `specials`."""
        written: list[str] = []
        plain: list[int] = []
        for id in ids:
            if id not in self._written:
                plain.append(id)
            elif specials:
                written += [self._vocabulary.decode(plain), self._written[id]]
                plain = []
        return "".join([*written, self._vocabulary.decode(plain)])

    def stream(self) -> Stream:
        """A decoder for ids that come one at a time."""
        return Stream(self)


class Stream:
    """Gives out text as its tokens arrive, and keeps back letters that are not whole yet.

    What it has given out is never taken back, and adds up to the text of all tokens.
    """

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self._ids: list[int] = []
        self._begin = 0  # where the window starts that is decoded again with each token
        self._said = 0  # tokens of which the text has been given out

    def push(self, id: int) -> str:
        """The text that the token makes certain; empty while a letter is not whole."""
        self._ids.append(id)
        before, now = self._window()
        if now.endswith("�") or len(now) <= len(before):
            return ""
        self._begin, self._said = self._said, len(self._ids)
        return now[len(before) :]

    def end(self) -> str:
        """What is still kept back, broken letters included."""
        before, now = self._window()
        self._said = len(self._ids)
        return now[len(before) :]

    def _window(self) -> tuple[str, str]:
        window = self._ids[self._begin :]
        said = self._said - self._begin
        return self._tokenizer.decode(window[:said]), self._tokenizer.decode(window)

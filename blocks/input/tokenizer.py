"""Text <-> tokens: rank files of tiktoken, `tokenizer.json` files, models of SentencePiece.

Text is always plain: no spelling of a special token in it becomes that token.
"""

from __future__ import annotations

import base64
import json
import unicodedata
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, Protocol, TypeAlias

QWEN_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""How Qwen cuts text before byte pairs are merged (`tokenization_qwen.py`)."""


Behind: TypeAlias = Literal["start", "token", "text"]
"""What a piece of text stands behind: nothing, a token that no text spells, or more text."""


class TokenizerError(ValueError):
    """A vocabulary and the special tokens of a recipe do not fit, or its file cannot be used."""


class Vocabulary(Protocol):
    """What a kind of file gives: ids of plain text, and text of ids that are no special tokens."""

    def encode(self, text: str, behind: Behind = "start") -> list[int]:
        """The ids of plain text."""
        ...

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; bytes that are no UTF-8 become U+FFFD."""
        ...


class TiktokenVocabulary:
    """Byte-pair ranks, one `base64 rank` a line, with Qwen's way of cutting text."""

    def __init__(self, file: Path, specials: Mapping[str, int], options: Mapping[str, Any]) -> None:
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

    def encode(self, text: str, behind: Behind = "start") -> list[int]:
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

    def __init__(self, file: Path, specials: Mapping[str, int], options: Mapping[str, Any]) -> None:
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

    def encode(self, text: str, behind: Behind = "start") -> list[int]:
        """Ids as the file's own model makes them, with nothing put before or after."""
        return self._tokens.encode(text, add_special_tokens=False).ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text as the file's own decoder makes it."""
        return self._tokens.decode(list(ids), skip_special_tokens=False)


NO_DUMMY_PREFIX = bytes([0x1A, 2, 0x18, 0])
"""`normalizer_spec.add_dummy_prefix = false`, in the encoding of protocol buffers.

Behind a serialised model it counts as the last word on that field.
"""

SPACE = "▁"
"""What SentencePiece writes for a space."""


class SentencePieceVocabulary:
    """A SentencePiece model, with the rules of the slow LLaMA tokenizers of transformers.

    Where a text begins, a space is put before it that nobody wrote. By the old rules (`legacy`) a
    text begins behind every special token, else only at the start; what continues another text
    never begins. Special tokens may lie behind the pieces of the file.
    """

    def __init__(self, file: Path, specials: Mapping[str, int], options: Mapping[str, Any]) -> None:
        from sentencepiece import SentencePieceProcessor

        model = file.read_bytes()
        try:
            self._begin = SentencePieceProcessor(model_proto=model)
            self._continue = SentencePieceProcessor(model_proto=model + NO_DUMMY_PREFIX)
        except RuntimeError as error:
            raise TokenizerError(f"{file.name} is no SentencePiece model") from error
        self._legacy: bool = options.get("legacy", True)
        self._specials = frozenset(specials.values())
        self._bytes = [self._spelled(id) for id in range(self._begin.get_piece_size())]
        taken = sorted(text for text, id in specials.items() if self._is_text(id))
        if taken:
            raise TokenizerError(f"the ids of {taken} are those of text in {file.name}")

    def _spelled(self, id: int) -> bytes:
        """What a token adds to a text."""
        piece = self._begin.id_to_piece(id)
        if self._begin.is_byte(id):
            return bytes([int(piece[1:-1], 16)])
        if self._begin.is_control(id):
            return b""
        return b"\xff" if self._begin.is_unknown(id) else piece.replace(SPACE, " ").encode()

    def _is_text(self, id: int) -> bool:
        """Whether an id is that of a byte, or of a piece that is not written in brackets."""
        if id >= len(self._bytes) or self._begin.is_control(id) or self._begin.is_unknown(id):
            return False
        piece = self._begin.id_to_piece(id)
        return self._begin.is_byte(id) or not (piece[0] in "<[" and piece[-1] in ">]")

    def encode(self, text: str, behind: Behind = "start") -> list[int]:
        """Ids of the text; pieces of the file that are special tokens are cut up."""
        begins = behind == "start" or (behind == "token" and self._legacy)
        ids: list[int] = (self._begin if begins else self._continue).encode(text)
        if self._specials.isdisjoint(ids):
            return ids
        return [part for id in ids for part in self._cut(id)]

    def _cut(self, id: int) -> list[int]:
        if id not in self._specials or self._begin.is_unknown(id):
            return [id]
        letters = self._begin.id_to_piece(id).replace(SPACE, " ")
        return [part for letter in letters for part in self._continue.encode(letter)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text without the space that was put before it; ids beyond the file become U+FFFD."""
        known = len(self._bytes)
        spelled = b"".join(self._bytes[id] if id < known else b"\xff" for id in ids)
        return spelled.decode("utf-8", errors="replace").removeprefix(" ")


KINDS: Mapping[str, Callable[[Path, Mapping[str, int], Mapping[str, Any]], Vocabulary]] = (
    MappingProxyType(
        {
            "tiktoken": TiktokenVocabulary,
            "hf_json": JsonVocabulary,
            "sentencepiece": SentencePieceVocabulary,
        }
    )
)
"""Every kind of vocabulary file, by the name that recipes use."""


class Tokenizer:
    """A vocabulary with the special tokens of a recipe, which only `specials` and layouts name."""

    def __init__(
        self, vocabulary: Vocabulary, specials: Mapping[str, int], *, strip: bool = False
    ) -> None:
        """`specials` maps what a special token is written as to its id; with `strip`, white space
        beside special tokens is dropped."""
        self._vocabulary = vocabulary
        self.strip = strip
        # What stands between contents is the same in every dialogue.
        self._known = lru_cache(maxsize=8192)(
            lambda text, behind: tuple(vocabulary.encode(text, behind))
        )
        self._written = {id: text for text, id in specials.items()}

    @classmethod
    def load(
        cls,
        kind: str,
        file: Path,
        specials: Mapping[str, int],
        options: Mapping[str, Any] = MappingProxyType({}),
    ) -> Tokenizer:
        """Read a vocabulary file of a kind; `specials` maps what is written to its id.

        `options` are the other arguments of the recipe's call, such as `legacy`.
        """
        if kind not in KINDS:
            raise TokenizerError(f"{kind} vocabularies cannot be read; {list(KINDS)} can")
        if not file.is_file():
            raise TokenizerError(f"there is no vocabulary file {file}")
        vocabulary = KINDS[kind](file, specials, options)
        return cls(vocabulary, specials, strip=options.get("strip", False))

    def encode(self, text: str, behind: Behind = "start") -> list[int]:
        """The ids of plain text; never a special token."""
        if len(text) < 256:
            return list(self._known(text, behind))
        return self._vocabulary.encode(text, behind)

    def decode(
        self, ids: Iterable[int], *, specials: bool = False, shown: Container[int] = ()
    ) -> str:
        """The text of ids; special tokens are left out but for those of `shown`, or `specials`."""
        written: list[str] = []
        plain: list[int] = []
        for id in ids:
            if id not in self._written:
                plain.append(id)
            elif specials or id in shown:
                written += [self._vocabulary.decode(plain), self._written[id]]
                plain = []
        return "".join([*written, self._vocabulary.decode(plain)])

    def stream(self, shown: Container[int] = ()) -> Stream:
        """A decoder for ids that come one at a time; `shown` as above."""
        return Stream(self, shown)


class Stream:
    """Gives out text as its tokens arrive, and keeps back letters that are not whole yet.

    What it has given out is never taken back, and adds up to the text of all tokens.
    """

    def __init__(self, tokenizer: Tokenizer, shown: Container[int] = ()) -> None:
        self._tokenizer = tokenizer
        self._shown = shown
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
        before = self._tokenizer.decode(window[:said], shown=self._shown)
        return before, self._tokenizer.decode(window, shown=self._shown)

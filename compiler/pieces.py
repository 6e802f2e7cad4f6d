"""What a vocabulary file says of single tokens, without the tokenizer: read in milliseconds.

Proofs ask a few questions of files with more than a hundred thousand tokens, so that these are
searched, not parsed.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Protocol

PLACEHOLDER = re.compile(r"unused|unk|reserved|dummy|extra_|placeholder|pad", re.IGNORECASE)
"""Pieces that a vocabulary keeps free for tokens that are named later, or never writes."""


class Pieces(Protocol):
    """The tokens of a vocabulary file, by id and by text."""

    def id_of(self, text: str) -> int | None:
        """The id of the token that is spelled exactly so; None where there is none."""
        ...

    def piece(self, id: int) -> str | None:
        """How the token of an id is spelled; None for an id that the file leaves free."""
        ...

    def is_text(self, id: int) -> bool:
        """Whether plain text can become this token."""
        ...


class RankPieces:
    """A file of byte-pair ranks, one `base64 rank` a line: all of them are text."""

    def __init__(self, file: Path) -> None:
        self._lines = b"\n" + file.read_bytes().rstrip() + b"\n"
        self._count = self._lines.count(b"\n") - 1

    def id_of(self, text: str) -> int | None:
        """The rank of the bytes of a text."""
        line = b"\n" + base64.b64encode(text.encode()) + b" "
        start = self._lines.find(line)
        if start < 0:
            return None
        start += len(line)
        return int(self._lines[start : self._lines.find(b"\n", start)])

    def piece(self, id: int) -> str | None:
        """The bytes of a rank as text."""
        found = re.search(rb"\n(\S+) %d\n" % id, self._lines) if self.is_text(id) else None
        return base64.b64decode(found[1]).decode(errors="replace") if found else None

    def is_text(self, id: int) -> bool:
        """Ranks are without gaps."""
        return id < self._count


class JsonPieces:
    """A `tokenizer.json`: its added tokens are read, the rest is searched."""

    def __init__(self, file: Path) -> None:
        self._text = file.read_text(encoding="utf-8")
        start = re.search(r'"added_tokens"\s*:\s*', self._text)
        added: list[dict[str, Any]] = []
        if start:
            added, _ = json.JSONDecoder().raw_decode(self._text, start.end())
        self._ids: dict[str, int] = {token["content"]: token["id"] for token in added}
        self._added: dict[int, str] = {token["id"]: token["content"] for token in added}
        found = re.search(r'"vocab"\s*:\s*\{', self._text)
        self._vocab = found.end() if found else len(self._text)

    def id_of(self, text: str) -> int | None:
        """Of an added token, or of a piece of the model."""
        if text in self._ids:
            return self._ids[text]
        for written in {json.dumps(text), json.dumps(text, ensure_ascii=False)}:
            found = re.compile(re.escape(written) + r"\s*:\s*(\d+)").search(self._text, self._vocab)
            if found:
                return int(found[1])
        return None

    def piece(self, id: int) -> str | None:
        """Of an added token, or of a piece of the model."""
        if id in self._added:
            return self._added[id]
        written = re.compile(rf'("(?:[^"\\]|\\.)*")\s*:\s*{id}\s*[,}}]')
        # What stands before the number is looked at only where the number stands.
        for number in re.compile(rf":\s*{id}\s*[,}}]").finditer(self._text, self._vocab):
            line = self._text.rfind(",", 0, self._text.rfind('"', 0, number.start()) - 1)
            found = written.search(self._text, max(line, self._vocab - 1))
            if found:
                return str(json.loads(found[1]))
        return None

    def is_text(self, id: int) -> bool:
        """Added tokens are cut out of what text can become."""
        return id not in self._added and self.piece(id) is not None


class SentencePieces:
    """A SentencePiece model; pieces in brackets that stand for nothing are no text."""

    def __init__(self, file: Path) -> None:
        from sentencepiece import SentencePieceProcessor

        self._model = SentencePieceProcessor(model_file=str(file))

    def id_of(self, text: str) -> int | None:
        """The id of a piece, a space being written as it is there."""
        id: int = self._model.piece_to_id(text)
        return None if self._model.is_unknown(id) and self._model.id_to_piece(id) != text else id

    def piece(self, id: int) -> str | None:
        """The piece as it stands in the file."""
        return str(self._model.id_to_piece(id)) if id < self._model.get_piece_size() else None

    def is_text(self, id: int) -> bool:
        """Bytes, and pieces that are not written in brackets."""
        model = self._model
        piece = self.piece(id)
        if piece is None or model.is_control(id) or model.is_unknown(id):
            return False
        return bool(model.is_byte(id)) or not (piece[0] in "<[" and piece[-1] in ">]")


KINDS: Mapping[str, Callable[[Path], Pieces]] = MappingProxyType(
    {"tiktoken": RankPieces, "hf_json": JsonPieces, "sentencepiece": SentencePieces}
)
"""Every kind of vocabulary file, by the name that recipes use."""

"""A dialogue that a layout has laid out, in the tokens of a vocabulary; no torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

from .layout import Places, Run, Special, Text
from .tokenizer import Tokenizer

SHIPPED = Path(__file__).resolve().parents[2] / "recipes" / "vocabularies"
"""The folder of the vocabularies that ship."""


@dataclass(frozen=True, slots=True)
class Written:
    """A run and its tokens; `learnt` says whether they are targets."""

    run: Run
    ids: tuple[int, ...]
    learnt: bool


def written(
    runs: Sequence[Run], tokenizer: Tokenizer, longest: int | None = None
) -> Iterator[Written]:
    """The tokens of each run; of an answer no more than its first `longest`, its end included."""
    learnt = 0
    for run, following in zip_longest(runs, runs[1:]):
        match run:
            case Text(text, loss, behind):
                if tokenizer.strip and behind == "token":
                    text = text.lstrip()
                if tokenizer.strip and isinstance(following, Special | Places):
                    text = text.rstrip()
                new = tokenizer.encode(text, behind)
            case Special(id, loss):
                new = [id]
            case Places(id, count):
                new, loss = [id] * count, False
        if loss and longest is not None:
            new = new[: longest - learnt]
        learnt = learnt + len(new) if loss else 0
        yield Written(run, tuple(new), loss)


def tokenised(
    runs: Sequence[Run], tokenizer: Tokenizer, longest: int | None = None
) -> tuple[list[int], list[bool], dict[int, dict[str, list[int]]]]:
    """The tokens of runs, which of them are learnt, and where the features of each medium begin."""
    ids: list[int] = []
    supervised: list[bool] = []
    starts: dict[int, dict[str, list[int]]] = {}
    for one in written(runs, tokenizer, longest):
        if isinstance(one.run, Places):
            starts.setdefault(one.run.medium, {}).setdefault(one.run.part, []).append(len(ids))
        ids += one.ids
        supervised += [one.learnt] * len(one.ids)
    return ids, supervised, starts


def vocabulary_file(tokenizer: Mapping[str, Any], resources: Path | None = None) -> Path:
    """The file of a tokenizer: below `resources` if it is there, else among those that ship.

    `tokenizer` is what the spec says of it; a name without an ending is that of a rank file.
    """
    path = Path(tokenizer["path"] if "path" in tokenizer else tokenizer["name"])
    if not path.suffix:
        path = path.parent / f"{path.name}.tiktoken"
    if resources is not None and (resources / path).is_file():
        return resources / path
    return SHIPPED / path

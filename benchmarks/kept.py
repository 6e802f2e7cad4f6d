"""Rows of a table that takes long to measure, kept one by one in a file of JSON lines."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Row = TypeVar("Row")


def keep(row: DataclassInstance, file: Path) -> None:
    """Add a row to those that are there."""
    with file.open("a", encoding="utf-8") as rows:
        rows.write(json.dumps(asdict(row)) + "\n")


def kept(kind: Callable[..., Row], file: Path) -> list[Row]:
    """The rows of a file."""
    lines = file.read_text(encoding="utf-8").splitlines()
    return [kind(**json.loads(line)) for line in lines]

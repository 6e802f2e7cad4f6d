"""Recipe files: those that ship, by name, and how one is read and written."""

import os
import re
import shutil
from importlib.resources import files
from importlib.resources.abc import Traversable
from itertools import takewhile
from pathlib import Path

from .diagnostics import Diagnostic, RecipeError

SUFFIX = ".vlm"


def is_path(name: str) -> bool:
    """Whether this is meant as a file, not as the name of a shipped recipe."""
    return SUFFIX in name or "/" in name or "\\" in name


def shipped_recipes() -> dict[str, Traversable]:
    """The recipes that come with triptych: from name to file, sorted by name."""
    folder = files("triptych.recipes")
    found = {item.name.removesuffix(SUFFIX): item for item in folder.iterdir()}
    return {name: found[name] for name in sorted(found) if found[name].name.endswith(SUFFIX)}


def title_of(name: str) -> str:
    """The first sentence of the comment that opens a shipped recipe."""
    lines = shipped_recipes()[name].read_text(encoding="utf-8").splitlines()
    comment = takewhile(lambda line: line.startswith("#"), lines)
    text = " ".join(line.lstrip("# ") for line in comment)
    return re.split(r"(?<=[.?!])\s", text, maxsplit=1)[0]


def read_text(path: Path) -> str:
    """The text of a recipe file; raises `RecipeError` when there is none."""
    try:
        return path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        why = (
            "it is not UTF-8 text"
            if isinstance(error, ValueError)
            else (error.strerror or str(error)).lower()
        )
        raise RecipeError([Diagnostic("E107", f"{path} cannot be read", reason=why)]) from None


def write_text(path: Path, text: str, newline: str = "\n") -> None:
    """Write a recipe file whole or not at all; raises `RecipeError` where that cannot be done."""
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with beside.open("w", encoding="utf-8", newline=newline) as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        if path.exists():
            shutil.copymode(path, beside)
        beside.replace(path)
    except OSError as error:
        beside.unlink(missing_ok=True)
        why = (error.strerror or str(error)).lower()
        raise RecipeError([Diagnostic("E109", f"{path} cannot be written", reason=why)]) from None

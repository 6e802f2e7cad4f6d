"""Lowered module to executable to artefact; training and generation run on executables."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import Backend

# Name -> (file in this folder, class). A file is imported when its backend is asked for, so that an
# artefact runs without the compiler, and nothing waits for TensorRT.
BACKENDS: dict[str, tuple[str, str]] = {
    "eager": ("eager", "Eager"),
    "inductor": ("inductor", "Inductor"),
    "aot": ("aot", "Aot"),
    "tensorrt": ("tensorrt", "TensorRT"),
}


def backend(name: str) -> Backend:
    """The backend of that name, with its default options."""
    file, kind = BACKENDS[name]
    made: Backend = getattr(importlib.import_module(f".{file}", __package__), kind)()
    return made


def able(name: str) -> Backend:
    """The same; MissingError where this machine lacks what the backend needs."""
    from .base import MissingError

    made = backend(name)
    if missing := made.missing():
        raise MissingError(str(missing))
    return made

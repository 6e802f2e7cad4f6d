"""What compiles C++ on this machine, how its code rounds, and where that is kept between runs."""

from __future__ import annotations

import hashlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

from .base import Missing

ROUNDING: dict[str, Any] = {"emulate_precision_casts": True}
"""Options of Inductor by which operations in bfloat16 that it fuses are each rounded, as in eager:
answers are eager's then, token by token, and nothing takes longer (docs/architecture.md)."""


def missing_compiler(backend: str) -> Missing | None:
    """A C++ compiler, where torch finds none."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    try:
        get_cpp_compiler()
    except RuntimeError:
        return Missing(
            backend,
            ("a C++ compiler: it turns generated kernels into machine code",),
            "Install g++ (Debian, Ubuntu: apt install g++; Fedora: dnf install gcc-c++), or name "
            "another compiler in the environment variable CXX.",
        )
    return None


def compiler_version() -> str:
    """The C++ compiler that torch finds, by its own words: `g++ (Debian 12.2.0-14) 12.2.0`."""
    from torch._inductor.cpp_builder import get_cpp_compiler

    asked = [get_cpp_compiler(), "--version"]
    said = subprocess.run(asked, capture_output=True, text=True, check=True).stdout
    return said.splitlines()[0].strip()


def cache_folder(kind: str, program: str = "") -> Path:
    """The user's folder for compiled code: of a program, made by these versions.

    Inductor's own keys do not see the kernels that only describe an operator's shapes, so the
    versions are part of the folder's name. TRIPTYCH_CACHE moves it. The path is absolute: compilers
    run in folders of their own.
    """
    home = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    root = Path(os.environ.get("TRIPTYCH_CACHE") or Path(home) / "triptych").absolute()
    made_by = f"{program} torch {torch.__version__} triptych {version('triptych')}"
    return root / kind / hashlib.sha256(made_by.encode()).hexdigest()[:20]


@contextmanager
def code_in(folder: Path) -> Iterator[None]:
    """Inside, Inductor keeps what it compiles in this folder, and finds it there again."""
    folder.mkdir(parents=True, exist_ok=True)
    before = os.environ.get("TORCHINDUCTOR_CACHE_DIR")
    os.environ["TORCHINDUCTOR_CACHE_DIR"] = str(folder)
    try:
        with _read_after_written():
            yield
    finally:
        if before is None:
            del os.environ["TORCHINDUCTOR_CACHE_DIR"]
        else:
            os.environ["TORCHINDUCTOR_CACHE_DIR"] = before


@contextmanager
def _read_after_written() -> Iterator[None]:
    """Inside, compiled code reads a buffer behind all that writes into it.

    Inductor names such a buffer anew at each write, so that readers wait for it. Where it fits one
    loop to another to fuse them, it takes the names anew from their code, and renames them only if
    a loop has further dependencies (torch 2.13; github.com/pytorch/pytorch/pull/185873 mends it). A
    gradient that is scattered into zeros was then read before it was there (docs/training.md).
    """
    from torch._inductor.scheduler import SchedulerNode

    recompute = SchedulerNode.recompute_size_and_body

    def renamed(node: SchedulerNode, *given: Any, **named: Any) -> None:
        recompute(node, *given, **named)
        node.set_read_writes(node.read_writes.rename(node.mutation_renames))

    SchedulerNode.recompute_size_and_body = renamed  # type: ignore[assignment, method-assign]
    try:
        yield
    finally:
        SchedulerNode.recompute_size_and_body = recompute  # type: ignore[method-assign]

"""Our own C++ kernels: built by the compiler of this machine, once, and loaded into torch.

The operators that they compute are defined in `blocks/operators.py`, in plain torch; where the
library is loaded, its kernels take their place on a CPU.
"""

from __future__ import annotations

import functools
import hashlib
import os
import shutil
import subprocess
import warnings
from pathlib import Path

import torch

from .manifest import Target
from .toolchain import cache_folder, compiler_version

SOURCES = Path(__file__).with_name("kernels")
LIBRARY = "kernels/triptych.so"
"""Where an artefact has its copy, made for the processor that its other code was made for."""

FLAGS = ("-std=c++20", "-O3", "-march=native", "-fopenmp-simd", "-fPIC", "-shared", "-w")


@functools.cache
def built() -> Path | None:
    """The library, from the user's cache folder; made where it is not there yet.

    None, with a warning, when the compiler refuses it: torch's own kernels then serve.
    """
    made_by = (compiler_version(), Target.here().features, FLAGS)
    digest = hashlib.sha256(repr(made_by).encode())
    for source in sorted(SOURCES.iterdir()):
        digest.update(source.name.encode() + source.read_bytes())
    library = cache_folder("kernels") / f"triptych-{digest.hexdigest()[:20]}.so"
    if library.exists():
        return library
    library.parent.mkdir(parents=True, exist_ok=True)
    beside = library.with_name(f"{library.name}.{os.getpid()}")
    said = subprocess.run(
        _command(beside, FLAGS), cwd=SOURCES, capture_output=True, text=True, check=False
    )
    if said.returncode:
        telling = (line for line in said.stderr.splitlines() if "error" in line or "ld: " in line)
        reason = next(telling, said.stderr)
        warnings.warn(
            f"the C++ compiler refuses triptych's kernels, and torch's are used: {reason}",
            stacklevel=2,
        )
        return None
    beside.rename(library)
    return library


def put_into(folder: Path) -> None:
    """Copy the library to its place in an artefact, where there is one."""
    if library := built():
        (folder / LIBRARY).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(library, folder / LIBRARY)


def load() -> None:
    """Let torch call the kernels of this machine."""
    if library := built():
        load_from(library)


def load_from(library: Path) -> None:
    """Let torch call the kernels of a library, if it is there: what is loaded first serves the
    whole process."""
    if library.exists() and not torch._C._dispatch_has_kernel_for_dispatch_key(
        "triptych::linear", "CPU"
    ):
        torch.ops.load_library(library)


def _command(library: Path, flags: tuple[str, ...]) -> list[str]:
    from torch._inductor.cpp_builder import get_cpp_compiler

    home = Path(torch.__file__).parent
    return [
        get_cpp_compiler(),
        *flags,
        # What a check says when it fails names no folder of this machine.
        f"-fmacro-prefix-map={home}=torch",
        "-isystem",
        str(home / "include"),
        *sorted(source.name for source in SOURCES.glob("*.cpp")),
        "-o",
        str(library),
        f"-L{home / 'lib'}",
        "-ltorch_cpu",
    ]

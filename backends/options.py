"""What a training run may choose."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from . import backend
from .base import Missing, MissingError


@dataclass(frozen=True, slots=True)
class Options:
    """What a run may choose; None leaves it as the recipe says."""

    steps: int | None = None
    """Of each stage."""
    batch: int | None = None
    precision: Literal["bf16", "f32"] | None = None
    seed: int | None = None
    backend: Literal["eager", "inductor", "aot"] | None = None
    """None is `aot` where there are `artefacts`, and else `inductor`, or `eager` on a machine that
    cannot compile."""
    artefacts: tuple[Path, ...] = ()
    """Where compiled stages lie, for `aot`; a stage without one is compiled into the cache."""
    device: str = "cpu"
    workers: int = 1
    """Threads that each compute a share of every batch."""
    loaders: int = 1
    """Threads that read and prepare samples."""
    memory: int = 512 * 2**20
    """Bytes of prepared samples that are kept for the next epoch."""
    save_every: int = 250
    """Steps from one checkpoint to the next."""
    keep: int = 2
    """Checkpoints that are kept beside the end of each stage."""


def with_backend(options: Options) -> tuple[Options, Missing | None]:
    """The options with a backend that this machine has, and what it lacks for the one that a run
    takes unless told otherwise.

    MissingError when it lacks something for a backend that was asked for.
    """
    if options.artefacts and options.backend is None:
        return replace(options, backend="aot"), None
    missing = backend(options.backend or "inductor").missing()
    if options.backend is None:
        return replace(options, backend="eager" if missing else "inductor"), missing
    if missing and not options.artefacts:
        raise MissingError(str(missing))
    return options, None

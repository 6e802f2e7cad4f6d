"""What a training run may choose."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypeAlias

from . import backend
from .base import Missing, MissingError

Backend: TypeAlias = Literal["eager", "inductor", "aot"]
"""How a step can be computed."""


@dataclass(frozen=True, slots=True)
class Options:
    """What a run may choose; None leaves it as the recipe says."""

    steps: int | None = None
    """Of each stage."""
    batch: int | None = None
    precision: Literal["bf16", "f32"] | None = None
    seed: int | None = None
    backend: Backend | None = None
    """None is `aot` where there are `artefacts`; else as a stage was begun; else `inductor`, or
    `eager` where that cannot compile or errs."""
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


@dataclass(frozen=True, slots=True)
class Choice:
    """How the steps of a run are computed."""

    backend: Backend
    asked: bool
    """Whether somebody asked for that. If not, eager takes over where a step cannot be compiled."""
    lacking: Missing | None = None
    """What this machine lacks for the backend that a run takes unless told otherwise."""

    @classmethod
    def of(cls, options: Options) -> Choice:
        """What the options come to on this machine.

        MissingError when it lacks something for a backend that was asked for.
        """
        if options.artefacts and options.backend is None:
            return cls("aot", asked=True)
        missing = backend(options.backend or "inductor").missing()
        if options.backend is None:
            return cls("eager" if missing else "inductor", asked=False, lacking=missing)
        if missing and not options.artefacts:
            raise MissingError(str(missing))
        return cls(options.backend, asked=True)

    def for_stage(self, begun: Backend | None) -> Backend:
        """How a stage is computed that was `begun` so: unless told otherwise, it goes on as it was
        begun."""
        return self.backend if self.asked or self.lacking or begun is None else begun

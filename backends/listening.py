"""Who is told how a training run goes."""

from __future__ import annotations

from typing import Protocol

from ..dsl.kinds import Amount
from .report import Metrics


class Listener(Protocol):
    """Who is told how a run goes."""

    def stage(self, name: str, stop: Amount, done: float) -> None:
        """A stage begins, or goes on after the share `done` of it."""

    def step(self, metrics: Metrics, done: float) -> None:
        """A step is done, and with it the share `done` of the stage."""

    def notice(self, text: str) -> None:
        """Something that a person should know."""


class Silence:
    """Listens to nothing."""

    def stage(self, name: str, stop: Amount, done: float) -> None:
        """Nothing."""

    def step(self, metrics: Metrics, done: float) -> None:
        """Nothing."""

    def notice(self, text: str) -> None:
        """Nothing."""

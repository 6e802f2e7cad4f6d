"""Ctrl-C while a run trains: the step is finished and saved, where there is one to save."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType


@dataclass(slots=True)
class Stop:
    """What Ctrl-C has to know, and what it has done."""

    steps: bool = False
    """Whether steps have been made that are not saved."""
    asked: bool = False


@contextmanager
def finishing_the_step() -> Iterator[Stop]:
    """Inside, where there are steps to save, the first Ctrl-C only asks for it; the second one, and
    one before them, while code is compiled, interrupts as usual."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def ask(number: int, frame: FrameType | None) -> None:
        signal.signal(signal.SIGINT, before)
        if not stop.steps:
            signal.raise_signal(number)
        stop.asked = True

    signal.signal(signal.SIGINT, ask)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)

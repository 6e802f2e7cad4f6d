"""Ends a training run as a power cut would."""

from __future__ import annotations

import signal
import subprocess
import time
from pathlib import Path


def kill_after(process: subprocess.Popen[str], metrics: Path, steps: int) -> None:
    """Kills a run once it has told of so many steps; it may compile before the first."""
    deadline = time.monotonic() + 300
    while not metrics.exists() or metrics.read_bytes().count(b"\n") < steps:
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.communicate()

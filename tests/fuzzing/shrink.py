"""A smaller text that fails in the same way, for a person to read."""

from __future__ import annotations

import time
from collections.abc import Callable

PATIENCE = 30.0
"""So many seconds are given to one text."""


def shrunk(text: str, fails: Callable[[str], bool]) -> str:
    """The text with as many pieces left out as it takes for it not to fail: lines, then words."""
    ends = time.monotonic() + PATIENCE
    for joint in ("\n", " "):
        pieces = text.split(joint)
        size = max(1, len(pieces) // 2)
        while time.monotonic() < ends:
            pieces, changed = _without(pieces, size, joint, fails, ends)
            if size == 1 and not changed:
                break
            size = max(1, size // 2)
        text = joint.join(pieces)
    return text


def _without(
    pieces: list[str], size: int, joint: str, fails: Callable[[str], bool], ends: float
) -> tuple[list[str], bool]:
    """The pieces without every run of so many that is not needed; whether there was one."""
    changed = False
    at = 0
    while at < len(pieces) and time.monotonic() < ends:
        fewer = pieces[:at] + pieces[at + size :]
        if fails(joint.join(fewer)):
            pieces, changed = fewer, True
        else:
            at += size
    return pieces, changed

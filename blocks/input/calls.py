"""How prompts are fed: in pieces of so many tokens, into a cache of one of a few sizes."""

from __future__ import annotations

CHUNK = 1024
"""Tokens of a prompt that are fed at a time: masks and activations are no larger than that."""

SMALLEST_CACHE = 128
"""Slots of the smallest cache; each next size doubles, up to what an executable takes."""

SLOT_STEP = 16
"""Caches are made in steps of so many slots."""


def slot_range(most: int) -> tuple[int, int]:
    """The slots of the smallest and the largest cache, where a mode needs `most`.

    >>> slot_range(1020)
    (32, 1024)
    """
    return 2 * SLOT_STEP, max(-(-most // SLOT_STEP), 2) * SLOT_STEP


def cache_slots(tokens: int, least: int, most: int) -> int:
    """The slots of the smallest cache for so many tokens; the largest when none is large enough.

    >>> cache_slots(100, 32, 1024), cache_slots(300, 32, 1024), cache_slots(9000, 32, 1024)
    (128, 512, 1024)
    """
    slots = min(max(SMALLEST_CACHE, least), most)
    while slots < min(tokens, most):
        slots = min(2 * slots, most)
    return slots

"""How long OpenMP's threads stay awake between two loops: said before torch is imported."""

import os

SPINS = "10000"
"""Turns that a thread waits before it sleeps: longer than from one layer to the next, and under a
millisecond. Asleep, it is late for each layer, and with two threads a token takes a quarter longer;
awake for as long as OpenMP likes, 300,000 turns, it starves whatever else wants its core."""


def wait_a_little() -> None:
    """Threads wait `SPINS` turns, unless the user has chosen how they wait."""
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

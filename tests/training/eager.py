"""Trains operation by operation unless told otherwise: what a compiler takes, few tests need."""

from __future__ import annotations

from dataclasses import replace

from triptych.backends import training
from triptych.backends.options import Options


def train(*given, options=None, **more):
    """As `triptych.backends.training.train`."""
    options = options or Options()
    chosen = options.backend or ("aot" if options.artefacts else "eager")
    return training.train(*given, options=replace(options, backend=chosen), **more)

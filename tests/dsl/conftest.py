"""A small recipe that is right in every way, for tests to vary."""

from __future__ import annotations

from pathlib import Path

import pytest

SMALL = (Path(__file__).parent / "small.vlm").read_text(encoding="utf-8")


@pytest.fixture
def small() -> str:
    """The text of a recipe named `small`."""
    return SMALL


@pytest.fixture
def load_variant():
    """Load a variant of `small` from the statements of its body."""
    from triptych.dsl.load import load_text

    def load(body: str, **options):
        return load_text(
            f"{SMALL}\nrecipe case extends small {{\n{body}\n}}\n", "case.vlm", **options
        )

    return load

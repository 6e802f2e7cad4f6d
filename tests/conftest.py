"""Fixtures that all tests share."""

from __future__ import annotations

from pathlib import Path

import pytest

GOLDEN = Path(__file__).parent / "golden"


def pytest_addoption(parser):
    parser.addoption(
        "--update-golden", action="store_true", help="rewrite the golden files; read their diff"
    )


class Golden:
    """Compares a text with the file that holds what it should be."""

    def __init__(self, update: bool) -> None:
        self.update = update

    def check(self, name: str, text: str) -> None:
        """Fail when tests/golden/NAME differs from `text`; with --update-golden, write it."""
        path = GOLDEN / name
        if not text.endswith("\n"):
            text += "\n"
        if self.update:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        assert path.exists(), f"no golden file {name}: run `make golden`, then read it"
        assert text == path.read_text(encoding="utf-8")


@pytest.fixture
def golden(request) -> Golden:
    """`golden.check("passes/drop_unused.txt", text)`."""
    return Golden(request.config.getoption("--update-golden"))

"""Fixtures of the parity tests, and the line at the end that says how many cases were compared."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

import pytest

from triptych.blocks.operators import lowering
from triptych.tests.parity.golden import FOLDER, Kernels, folders, system


@pytest.fixture(params=[True, False], ids=["published_order", "default_kernels"])
def kernels(request: pytest.FixtureRequest) -> Iterator[Kernels]:
    """Both orders of operations, one after the other."""
    with lowering(published=request.param):
        yield Kernels(request.param)


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    ran = {
        part
        for outcome in ("passed", "failed")
        for report in terminalreporter.stats.get(outcome, ())
        for part in report.nodeid.partition("[")[2].rstrip("]").split("-")
    }
    compared = [folder.name for folder in folders() if folder.name in ran]
    if not compared:
        return
    counts = Counter(map(system, compared))
    listed = ", ".join(f"{count} of {name}" for name, count in counts.items())
    terminalreporter.write_line(f"golden cases in {FOLDER.name}: {len(compared)} ({listed})")

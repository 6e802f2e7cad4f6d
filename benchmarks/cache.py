"""What `cache` gains: epochs of a stage whose tower is frozen, with and without it.

Trains the stage `connect` of the recipe `scenes`, its tower made larger, on drawn scenes, once
without a cache and once with `cache = vit`. Printed are the seconds of each epoch, the pictures
that were read and computed, and whether the losses are the same to the last bit.

    python benchmarks/cache.py --pictures 256 --epochs 3
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
from itertools import pairwise
from pathlib import Path

from triptych.backends.listening import Silence
from triptych.backends.options import Options
from triptych.backends.report import Metrics
from triptych.backends.training import train
from triptych.dsl.load import load_recipe

BATCH = 32
TOWER = ("vit.depth=12", "vit.width=256", "vit.heads=8", "vit.ffn=1024")


class Heard(Silence):
    """Remembers what a run tells."""

    def __init__(self) -> None:
        self.metrics: list[Metrics] = []
        self.last = ""

    def step(self, metrics: Metrics, done: float) -> None:
        """A step is done."""
        self.metrics.append(metrics)

    def notice(self, text: str) -> None:
        """Something was said."""
        self.last = text


def trained(data: Path, out: Path, epochs: int, *amend: str) -> Heard:
    """A run of the stage, and what it told."""
    stage = (f"connect.stop={epochs}epochs", f"connect.batch={BATCH}seq", *TOWER, *amend)
    heard = Heard()
    train(
        load_recipe("scenes", amend=stage),
        [f"drawn={data / 'drawn.json'}"],
        out,
        stages=["connect"],
        weights={},
        options=Options(save_every=10**6, backend="eager"),
        listener=heard,
    )
    return heard


def seconds(heard: Heard, epochs: int) -> list[float]:
    """How long each epoch took."""
    each = len(heard.metrics) // epochs
    ends = [0.0, *(one.seconds for one in heard.metrics[each - 1 :: each])]
    return [after - before for before, after in pairwise(ends)]


def main() -> None:
    """Train twice and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--pictures", type=int, default=256)
    parser.add_argument("--epochs", type=int, default=3)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data = Path(folder) / "data"
        drawn = ["--drawn", str(options.pictures), "--told", "8", "--tests", "8"]
        command = [sys.executable, "-m", "triptych", "scenes", "--out", str(data), *drawn]
        subprocess.run(command, check=True, capture_output=True)
        plain = trained(data, Path(folder) / "plain", options.epochs)
        kept = trained(data, Path(folder) / "kept", options.epochs, "connect.cache=vit")
    print("epoch  without  with cache")
    rows = zip(seconds(plain, options.epochs), seconds(kept, options.epochs), strict=True)
    for number, (without, with_cache) in enumerate(rows, 1):
        print(f"{number:>5}  {without:6.1f}s  {with_cache:6.1f}s")
    print(kept.last)
    same = [one.loss for one in plain.metrics] == [one.loss for one in kept.metrics]
    print(f"losses {'the same to the last bit' if same else 'differ'}")


if __name__ == "__main__":
    main()

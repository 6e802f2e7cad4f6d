"""Cold start: how long `check`, `fmt`, `plan` and the like take in a fresh process.

The peer answers the same question (how many parameters has this model, part by part?) the
usual way: import transformers, build the model on the meta device, count. Each command is a new
process; the median of several is printed with its ratio to the peer's.

Needs the extra `benchmarks` (transformers). No GPU, no weights, no network.

    python benchmarks/startup.py --runs 7
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

PEER = """
import collections, torch
from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration
with torch.device("meta"):
    model = Qwen2VLForConditionalGeneration(Qwen2VLConfig())
parts = collections.Counter()
for name, parameter in model.named_parameters():
    parts[name.split(".")[1]] += parameter.numel()
print(parts)
"""
RECIPE = Path(__file__).parent.parent / "recipes" / "qwen2_vl_7b.vlm"
OURS = {
    "check": ["check", "qwen2_vl_72b"],
    "fmt": ["fmt", "--check", str(RECIPE)],
    "explain": ["explain", "T504"],
    "plan": ["plan", "qwen2_vl_72b"],
    "tokens": ["tokens", "qwen2_vl_7b", "--image", "1280x720"],
    "diff": ["diff", "qwen2_vl_7b", "qwen2_vl_2b"],
}


def seconds(command: list[str], runs: int) -> float:
    """The median wall time of `command` in fresh processes, after one that warms the file cache."""
    times = []
    for _ in range(runs + 1):
        start = time.perf_counter()
        done = subprocess.run(command, capture_output=True, check=False)
        times.append(time.perf_counter() - start)
        if done.returncode not in (0, 1):
            raise SystemExit(done.stderr.decode())
    return statistics.median(times[1:])


def main() -> None:
    """Print one row a command."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=int, default=5, help="fresh processes a row")
    runs = parser.parse_args().runs
    bare = seconds([sys.executable, "-c", "pass"], runs)
    peer = seconds([sys.executable, "-c", PEER], runs)
    print(f"{'command':<28}{'seconds':>9}{'x bare python':>15}{'x peer':>9}")
    print(f"{'python -c pass':<28}{bare:>9.3f}{1.0:>15.1f}{bare / peer:>9.3f}")
    for name, argv in OURS.items():
        took = seconds([sys.executable, "-m", "triptych", *argv], runs)
        print(f"{'triptych ' + name:<28}{took:>9.3f}{took / bare:>15.1f}{took / peer:>9.3f}")
    print(f"{'transformers on meta (peer)':<28}{peer:>9.3f}{peer / bare:>15.1f}{1.0:>9.3f}")


if __name__ == "__main__":
    main()

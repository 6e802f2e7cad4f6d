"""Cold start, in fresh processes: of the commands that answer in a blink, and to a first token.

`commands`: how long `check`, `fmt`, `plan` and the like take. The peer answers the same question
(how many parameters has this model, part by part?) the usual way: import transformers, build the
model on the meta device, count.

`token`: from a command line to the first token of an answer about a picture, of the tiny Qwen2-VL:
from an artefact; and from its recipe by torch.compile, with an empty cache folder and with the one
that this has filled. Importing torch is in all of them, and stands beside them.

Printed are medians: seconds on the clock, and of a processor, which a busy machine changes less.
`commands` needs the extra `benchmarks` (transformers), `token` g++. No GPU, no weights, no network.

    python benchmarks/startup.py commands --runs 7
    python benchmarks/startup.py token --runs 5 --keep build/startup
"""

from __future__ import annotations

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
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
ROOT = Path(__file__).parent.parent
RECIPE = ROOT / "recipes" / "qwen2_vl_7b.vlm"
OURS = {
    "check": ["check", "qwen2_vl_72b"],
    "fmt": ["fmt", "--check", str(RECIPE)],
    "explain": ["explain", "T504"],
    "plan": ["plan", "qwen2_vl_72b"],
    "tokens": ["tokens", "qwen2_vl_7b", "--image", "1280x720"],
    "diff": ["diff", "qwen2_vl_7b", "qwen2_vl_2b"],
}
TINY = "qwen2_vl_tiny"
PICTURE = ROOT / "recipes" / "pictures" / "noto.png"
TRIPTYCH = [sys.executable, "-m", "triptych"]


@dataclass(frozen=True, slots=True)
class Took:
    """Seconds of a command: on the clock, and of all processors together."""

    clock: float
    processor: float


def took(
    command: list[str], environment: Mapping[str, str] | None = None, codes: tuple[int, ...] = (0,)
) -> Took:
    """One fresh process; SystemExit with what it said where it fails."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(
        command, capture_output=True, check=False, env={**os.environ, **(environment or {})}
    )
    clock, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    if done.returncode not in codes:
        raise SystemExit(done.stderr.decode())
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Took(clock, used)


def median(once: Callable[[], Took], runs: int) -> Took:
    """Of several, after one that warms the file cache."""
    once()
    each = [once() for _ in range(runs)]
    return Took(
        statistics.median(one.clock for one in each),
        statistics.median(one.processor for one in each),
    )


def commands(runs: int) -> dict[str, Took]:
    """Python itself, our commands, and last the peer."""
    lines = {"python -c pass": [sys.executable, "-c", "pass"]}
    lines |= {f"triptych {name}": [*TRIPTYCH, *argv] for name, argv in OURS.items()}
    lines["transformers on meta (peer)"] = [sys.executable, "-c", PEER]
    found = {}
    # `diff` leaves with 1 where two recipes differ.
    for name, line in lines.items():
        found[name] = median(partial(took, line, codes=(0, 1)), runs)
    return found


def first_token(runs: int, keep: Path) -> dict[str, Took]:
    """torch alone, an artefact, and last torch.compile with an empty cache folder."""
    artefact, cache = keep / "tiny.artefact", keep / "cache"
    if not artefact.exists():
        made = ["compile", TINY, "--backend", "aot", "--random-weights", "0", "--out", artefact]
        took([*TRIPTYCH, *map(str, made)], {"TRIPTYCH_CACHE": str(keep / "aot")})
    asked = ["--image", str(PICTURE), "--prompt", "What is this?", "--max-new", "1"]
    jit = [*TRIPTYCH, "run", TINY, "--backend", "inductor", "--random-weights", "0", *asked]
    kept = {"TRIPTYCH_CACHE": str(cache)}

    def empty() -> Took:
        shutil.rmtree(cache, ignore_errors=True)
        return took(jit, kept)

    answer = [*TRIPTYCH, "run", str(artefact), *asked]
    torch = [sys.executable, "-c", "import torch"]
    found = {"import torch": median(lambda: took(torch), runs)}
    found["artefact"] = median(lambda: took(answer), runs)
    cold = empty()
    found["torch.compile, full cache"] = median(lambda: took(jit, kept), 1)
    found["torch.compile, empty cache"] = cold
    return found


def main() -> None:
    """Print one row a command; the ratios are to the last one."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("commands", "token"), nargs="?", default="commands")
    parser.add_argument("--runs", type=int, default=5, help="fresh processes a row")
    parser.add_argument("--keep", type=Path, help="a folder for the artefact, found there again")
    options = parser.parse_args()
    if options.what == "commands":
        rows = commands(options.runs)
    else:
        with tempfile.TemporaryDirectory() as folder:
            rows = first_token(options.runs, options.keep or Path(folder))
    last = list(rows.values())[-1]
    print(f"{'':<28}{'clock, s':>10}{'of last':>9}{'processor, s':>14}{'of last':>9}")
    for name, one in rows.items():
        print(
            f"{name:<28}{one.clock:>10.3f}{one.clock / last.clock:>9.3f}"
            f"{one.processor:>14.3f}{one.processor / last.processor:>9.3f}"
        )


if __name__ == "__main__":
    main()

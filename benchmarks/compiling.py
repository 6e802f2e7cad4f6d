"""What it takes to compile just in time: each block by itself, blocks that repeat once, and again.

The methods of `tests/backends/tiny.vlm`, made as deep as asked for, in bfloat16: each is compiled
in an empty folder, and then once more by another process that finds the folder as it was left.
Printed are seconds of processor time, those of the C++ compiler included, which a busy machine
lengthens less than those on the wall.

    python benchmarks/compiling.py --depth 28 --each
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from contextlib import nullcontext
from pathlib import Path

import torch

from triptych.backends import inductor
from triptych.backends.job import job
from triptych.backends.probe import probe
from triptych.dsl.load import load_recipe

RECIPE = Path(__file__).resolve().parents[1] / "tests" / "backends" / "tiny.vlm"


def spent() -> float:
    """Seconds of processor time so far, of this process and of those that it started."""
    used = map(resource.getrusage, (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(sum(one[:2]) for one in used)


def seconds(folder: Path, depth: int, *, each: bool) -> dict[str, float]:
    """How long each bucket's first call takes; with `each`, no block shares the code of another."""
    if each:
        setattr(inductor, "compiled_once", nullcontext)  # noqa: B010
    recipe = load_recipe(str(RECIPE), amend=[f"lm.depth={depth}", f"vit.depth={depth}"])
    work = job(recipe, "chat", weights=0, dtype=torch.bfloat16)
    ours = inductor.Inductor(folder).compile(work)
    found: dict[str, float] = {}
    for name, method in work.methods.items():
        for batch in (1, 2) if name == "decode" else (2,):
            given = probe(method, work.limits, work.tokens, batch=batch, slots=128)
            before = spent()
            ours.run(name, given)
            found[f"{name}, {batch} at a time" if name == "decode" else name] = spent() - before
    assert ours.recompiles == 0
    return found


def apart(folder: Path, depth: int, *, each: bool) -> Mapping[str, float]:
    """The same in a process of its own."""
    command = [sys.executable, __file__, "--depth", str(depth), "--folder", str(folder)]
    done = subprocess.run(
        [*command, *(["--each"] if each else [])], capture_output=True, text=True, check=True
    )
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


def main() -> None:
    """Compile, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--depth", type=int, default=12, help="blocks of the tower and of the LM")
    parser.add_argument("--each", action="store_true", help="also with each block by itself")
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.folder:
        print(json.dumps(seconds(options.folder, options.depth, each=options.each)))
        return
    columns: dict[str, Mapping[str, float]] = {}
    with tempfile.TemporaryDirectory() as root:
        if options.each:
            columns["each"] = apart(Path(root) / "each", options.depth, each=True)
        columns["once"] = apart(Path(root) / "once", options.depth, each=False)
        columns["again"] = apart(Path(root) / "once", options.depth, each=False)
    print(f"{'':24}" + "".join(f"{name:>8}" for name in columns))
    for name in columns["once"]:
        print(f"{name:24}" + "".join(f"{found[name]:8.1f}" for found in columns.values()))
    print(f"{'all':24}" + "".join(f"{sum(found.values()):8.1f}" for found in columns.values()))


if __name__ == "__main__":
    main()

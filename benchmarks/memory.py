"""The peak memory of an answer, against what `triptych plan` says: weights, cache, activations.

Each row is a process of its own that answers about a picture of 448x448. `allocator` is what
torch's allocator has given out at the fullest moment, with the tensors that lived before.
`process` is how much larger the process was at its largest, while it answered, than one that has
answered with the smallest model: so Python, torch and the vocabulary are not in it, and what
kernels take on their own is. The models are the smallest that ship, of which a process would tell
nothing, and a published one with fewer blocks, in bfloat16; weights are random.

Needs Linux, g++ for the backends that compile, and 3 GB of memory. Takes minutes, most of which
compile, once where a folder is given.

    python benchmarks/memory.py --keep build/memory
    python benchmarks/memory.py --only qwen2_vl_tiny --backend eager
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from triptych.benchmarks.plan import markdown

PIXELS = 448
NEW = 16
"""Tokens of an answer."""
SMALLEST = "minigpt4_tiny"
WHOLE = (
    "qwen2_vl_tiny",
    "qwen_vl_tiny",
    "deepseek_vl_tiny",
    "internvl_1_5_tiny",
    "internvl_14b_tiny",
    "internvl_chat_qllama_tiny",
    "minigpt4_tiny",
)
CUT = {"qwen2_vl_2b": ("vit.depth=4", "lm.depth=4")}
"""Published models whose vocabulary ships, with what is left of them on a small machine."""
COMPILED = ("qwen2_vl_tiny", "qwen2_vl_2b")
"""Those that are compiled too."""
HEADER = ("recipe", "in", "backend", "weights", "cache", "planned", "allocator", "", "process", "")


@dataclass(frozen=True)
class Ready:
    """A model that can be asked, and what is planned for it.

    `weights`, `cache` and `peak` are bytes: at the peak, of all together.
    """

    ask: Callable[[], object]
    weights: int
    cache: int
    peak: int


def ready(name: str, backend: str, dtype: str, keep: Path, amend: Sequence[str] = ()) -> Ready:
    """The mode of a recipe that chats, or else answers; random weights, asked about a picture."""
    from triptych.backends.generation import Session
    from triptych.backends.job import job
    from triptych.benchmarks.answers import answered, endless, question, words
    from triptych.benchmarks.compiled import executable
    from triptych.blocks.input.processor import Processor
    from triptych.compiler.outlay import Asked, mode_outlay
    from triptych.dsl.load import load_recipe
    from triptych.dsl.modes import Mode

    modes = load_recipe(name).modes
    answers = [mode for mode, given in modes.items() if isinstance(given, Mode)]
    mode = "chat" if "chat" in modes else answers[0]
    said = (f"{mode}.target = eager(precision: {dtype})", f"{mode}.new = {NEW}tok")
    recipe = load_recipe(name, amend=[*amend, *said])
    work = job(recipe, mode, weights=0)
    processor = endless(Processor(work.spec))
    session = Session(executable(backend, recipe, work, keep), processor, work.spec)
    sample = question(processor, side=PIXELS)
    planned = mode_outlay(recipe, mode, Asked(text=words(processor, sample)))

    def ask() -> object:
        return answered(session, [sample], NEW)

    return Ready(ask, planned.weights, planned.cache, planned.peak)


def allocated(*case: Any) -> dict[str, int]:
    """Bytes planned, and at the fullest moment of torch's allocator."""
    from triptych.benchmarks.measured import living, peak_of

    gc.collect()
    foreign = living()
    model = ready(*case)
    model.ask()
    found = {"weights": model.weights, "cache": model.cache, "planned": model.peak}
    return found | {"measured": peak_of(model.ask, foreign)}


def resident(*case: Any) -> dict[str, int]:
    """Bytes by which the process was larger than one that has answered with the smallest model."""
    ready(SMALLEST, "eager", "f32", case[3]).ask()
    gc.collect()
    before = _status("VmRSS")
    model = ready(*case)
    if case[1] == "inductor":
        # Compiling takes memory that answering does not.
        model.ask()
    gc.collect()
    Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    model.ask()
    return {"measured": _status("VmHWM") - before}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    (line,) = (line for line in lines if line.startswith(f"{field}:"))
    return int(line.split()[1]) * 1024


KINDS: dict[str, Callable[..., dict[str, int]]] = {"allocator": allocated, "process": resident}


def _alone(kind: str, *case: str) -> dict[str, int]:
    """What a measurement finds in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--alone", kind, *case], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{kind} of {' '.join(case)} failed:\n{done.stderr[-2000:]}")
    found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    return found


def row(name: str, backend: str, keep: Path) -> list[str]:
    """One line of the table."""
    amend = CUT.get(name, ())
    dtype = "bf16" if amend else "f32"
    case = (name, backend, dtype, str(keep), *amend)
    found = _alone("allocator", *case)
    figures = []
    for measured in (found["measured"], _alone("process", *case)["measured"] if amend else 0):
        off = f"{100 * (found['planned'] / measured - 1):+.1f} %" if measured else ""
        figures += [f"{measured / 1e6:,.1f}" if measured else "", off]
    planned = [f"{found[what] / 1e6:,.1f}" for what in ("weights", "cache", "planned")]
    return [name, dtype, backend, *planned, *figures]


def main() -> None:
    """Print the table, as Markdown, row by row."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--only", action="append", metavar="RECIPE", help="repeatable")
    parser.add_argument("--backend", action="append", help="repeatable; all, unless given")
    parser.add_argument("--keep", type=Path, help="a folder for compiled code, found there again")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    options: Any = parser.parse_args()
    if options.alone:
        kind, name, backend, dtype, folder, *amend = options.alone
        print(json.dumps(KINDS[kind](name, backend, dtype, Path(folder), amend)))
        return
    cases = [
        (name, backend)
        for name in (*WHOLE, *CUT)
        for backend in (("eager", "inductor", "aot") if name in COMPILED else ("eager",))
        if name in (options.only or [name]) and backend in (options.backend or [backend])
    ]
    with tempfile.TemporaryDirectory() as folder:
        keep = options.keep or Path(folder)
        print(markdown(HEADER, []), end="")
        for case in cases:
            print(f"| {' | '.join(row(*case, keep))} |", flush=True)


if __name__ == "__main__":
    main()

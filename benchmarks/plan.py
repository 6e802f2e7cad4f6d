"""What `triptych plan` says, against real steps and answers: operations and memory, in a table.

Every stage and mode of every recipe whose name ends in `_tiny`, for its operations; every stage of
the recipes that train on drawn scenes, at several batch sizes, for the peak of its memory, each in
a process of its own. Draws a few scenes into a temporary folder. Takes ten minutes on
two cores, and needs 2 GiB of memory; nothing else.

    python benchmarks/plan.py                        the tables
    python benchmarks/plan.py --write docs/plan.md   in their places in the page
    python benchmarks/plan.py --only qwen2_vl_tiny --only scenes
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

from rich.progress import track

from triptych.compiler.costing import Shapes
from triptych.compiler.memory import answering, held, training_step
from triptych.compiler.outlay import Asked, one_call, outlay, sample_of
from triptych.compiler.pipeline import for_inference
from triptych.compiler.plan import plan
from triptych.compiler.workload import shapes_of
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe

BATCHES = (1, 4)
PRECISIONS = ("f32", "bf16")
SYSTEMS = (
    "qwen2_vl_7b",
    "qwen_vl_7b",
    "deepseek_vl_7b",
    "internvl_14b",
    "internvl_1_5_26b",
    "minigpt4_13b",
)
DEVICES, MEMORY = 8, 80 * 2**30


def stages(name: str) -> Iterator[list[str]]:
    """The operations of a step of each stage, planned and counted: a batch of two."""
    from triptych.benchmarks.measured import step_of

    for stage in load_recipe(name).stages:
        step = step_of(name, stage, 2)
        planned = [training_step(step.program, step.planned, shapes) for shapes in step.shapes]
        yield [name, stage, *_pair(sum(one.total for one in planned), step.flops())]


def modes(name: str) -> Iterator[list[str]]:
    """The operations of a call of each method of each mode, planned and counted: two prompts."""
    from triptych.benchmarks.measured import answer_flops

    recipe = load_recipe(name)
    for mode, settings in recipe.modes.items():
        program = for_inference(recipe, mode)
        sample, _ = sample_of(recipe, mode, settings, Asked())
        shapes = shapes_of(recipe, settings, sample, 2)
        calls: dict[str, Shapes] = {one: one_call(one, shapes) for one in program.methods}
        counted = answer_flops(name, mode, calls)
        for method, sizes in calls.items():
            planned = answering(program, method, sizes, settings.target.precision).total
            yield [name, f"{mode}: {method}", *_pair(planned, counted[method])]


def peaks(name: str, stage: str, data: str) -> Iterator[list[str]]:
    """The peak of a step, planned and measured, at each batch size and precision."""
    from triptych.benchmarks.measured import step_of

    for precision in PRECISIONS:
        for batch in BATCHES:
            step = step_of(name, stage, batch, precision, Path(data))
            have = held(step.program, step.planned)
            most = max(
                training_step(step.program, step.planned, shapes).peak for shapes in step.shapes
            )
            planned, measured = have.total + have.beside + most, step.peak()
            off = f"{100 * (planned / measured - 1):+.2f} %"
            yield [name, stage, precision, str(batch), f"{planned:,}", f"{measured:,}", off]


def fits() -> Iterator[list[str]]:
    """What the six systems need on eight GPUs: a picture of 448x448, 256 tokens of text; in GiB."""
    for name in SYSTEMS:
        recipe = load_recipe(name)
        found = outlay(recipe, plan(recipe), Asked(devices=DEVICES, memory=MEMORY))
        for stage in found.stages:
            placed = stage.placement
            assert placed
            said = str(placed.sharding) if placed.sharding else "does not fit"
            rows = f"{placed.rows:,}" if placed.rows else ""
            held_, step, need = (
                f"{count / 2**30:,.1f}"
                for count in (stage.held.total, stage.step.peak, placed.need)
            )
            yield [name, stage.name, f"{stage.tokens.total:,}", held_, step, said, rows, need]


def _pair(planned: int, counted: int) -> list[str]:
    return [f"{planned:,}", f"{counted:,}", "equal" if planned == counted else "NOT EQUAL"]


COUNTED = ("recipe", "stage, or mode: method", "planned", "counted", "")
MEASURED = ("recipe", "stage", "precision", "batch", "planned", "measured", "off by")
FITS = ("recipe", "stage", "tokens", "held", "a step", "on 8 x 80 GiB", "rows", "a device")


def markdown(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table as Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def written(page: str, name: str, table: str) -> str:
    """The page with a table between its two marks."""
    begin, end = f"<!-- {name}: made by benchmarks/plan.py -->\n", "<!-- end -->"
    before, mark, rest = page.partition(begin)
    if not mark:
        raise SystemExit(f"the page has no line {begin.strip()}")
    return f"{before}{begin}\n{table}\n{end}{rest.partition(end)[2]}"


def _alone(*arguments: str) -> list[list[str]]:
    """What this program finds in a process of its own."""
    done = subprocess.run(
        [sys.executable, __file__, "--alone", *arguments], capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    found: list[list[str]] = json.loads(done.stdout.splitlines()[-1])
    return found


def _found(arguments: Sequence[str]) -> list[list[str]]:
    kinds: dict[str, Callable[..., Iterator[list[str]]]] = {
        "operations": lambda name: chain(stages(name), modes(name)),
        "peaks": peaks,
    }
    kind, *rest = arguments
    return list(kinds[kind](*rest))


def main() -> None:
    """Measure, and print or write the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="put the tables into this page")
    parser.add_argument("--only", action="append", metavar="RECIPE", help="repeatable")
    parser.add_argument("--alone", nargs="+", help=argparse.SUPPRESS)
    options: Any = parser.parse_args()
    if options.alone:
        print(json.dumps(_found(options.alone)))
        return

    chosen = [name for name in shipped_recipes() if not options.only or name in options.only]
    tiny = [name for name in chosen if name.endswith("_tiny")]
    small = [name for name in chosen if name.endswith("_small") or name == "scenes"]
    with tempfile.TemporaryDirectory() as folder:
        if small:
            scenes = ["--out", folder, "--drawn", "200", "--told", "200", "--tests", "10"]
            subprocess.run(
                [sys.executable, "-m", "triptych", "scenes", *scenes],
                check=True,
                capture_output=True,
            )
        data = str(Path(folder) / "drawn.json")
        runs = [(name, stage) for name in small for stage in load_recipe(name).stages]
        counted = [row for name in track(tiny, "operations") for row in _alone("operations", name)]
        measured = [
            row
            for name, stage in track(runs, "memory")
            for row in _alone("peaks", name, stage, data)
        ]
    tables = {
        "operations": markdown(COUNTED, counted),
        "memory": markdown(MEASURED, measured),
        "systems": markdown(FITS, list(fits())),
    }
    if options.write is None:
        print("\n".join(tables.values()))
        return
    page: str = options.write.read_text(encoding="utf-8")
    for name, table in tables.items():
        page = written(page, name, table)
    options.write.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()

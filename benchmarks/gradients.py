"""The gradients of compiled steps against eager's, in every stage of every small recipe.

Each stage of each recipe whose name ends in `_tiny`, or of the one that is named, is given batches
of several sizes: noise with captions of several lengths, at a rate of 0, so that no weight moves.
Of the gradient of every parameter, what differs most from eager's is printed as a share of the
largest number in it, as the trainer holds its first batch (backends/foreseen.py); and how often
something was compiled beyond once for each method. In bfloat16, beside it stands how far eager and
the compiled step are off what the same weights give in float32. Exits with 1 where a step cannot be
compiled, is refused, or is further off than its bound and than a millionth. Needs g++, and half an
hour a backend.

    python benchmarks/gradients.py --recipe qwen2_vl_tiny --backend inductor --out build/steps.jsonl
    python benchmarks/gradients.py --show build/steps.jsonl
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import product
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from triptych.backends.base import BackendError
from triptych.backends.data import Example
from triptych.backends.drops import Drops
from triptych.backends.foreseen import Distance, Foreseen
from triptych.backends.from_stage import methods_of, stage_artefact
from triptych.backends.options import Options
from triptych.backends.resources import resources
from triptych.backends.samples import PairSamples, Samples
from triptych.backends.stage_job import StageJob
from triptych.backends.toolchain import cache_folder, code_in
from triptych.backends.training import completed, overridden
from triptych.backends.training_stage import StageRun
from triptych.benchmarks.kept import keep, kept
from triptych.blocks.input.sample import Attachment, Turn
from triptych.compiler.lower import PRECISIONS
from triptych.compiler.pipeline import for_training
from triptych.compiler.plan import plan
from triptych.compiler.text import text_of_methods
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe

BOUND = {"f32": 2e-5, "bf16": 5e-2}
"""How far off a gradient may be as a share of its largest number, by the precision of the stage."""
FAINT = 1e-6
"""How far off any gradient may be: that of a key's bias is nothing but rounding."""

Batch = Sequence[Mapping[str, Tensor]]


@dataclass(frozen=True)
class Row:
    """One stage in one backend."""

    recipe: str
    stage: str
    dtype: str
    backend: str
    methods: int
    batches: tuple[int, ...]
    error: float = 0.0
    """How far off a gradient is, at most, as a share of its largest number."""
    off: float = 0.0
    """The same as a number."""
    parameter: str = ""
    """Whose."""
    rounding: float | None = None
    """How far off float32 eager is by its precision."""
    own: float | None = None
    """How far off float32 the compiled step is."""
    recompiles: int = 0
    seconds: float = 0.0
    problem: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is as near to eager as it must be."""
        return not self.problem and (self.error <= BOUND[self.dtype] or self.off <= FAINT)


class Stage:
    """A stage in one precision, with the weights that it starts from, and batches of noise."""

    def __init__(self, name: str, stage: str, dtype: str, amend: Sequence[str]) -> None:
        recipe = load_recipe(name, amend=amend)
        recipe = overridden(recipe, Options(precision=dtype))  # type: ignore[arg-type]
        self.program, self.plan = for_training(recipe, stage), plan(recipe)[stage]
        self.job = StageJob.of(name, self.program, self.plan)
        self._settings, self._resources = recipe.stages[stage], resources(recipe)

    def batches(self, sizes: Sequence[int]) -> list[Batch]:
        """So many samples in each."""
        kind = PairSamples if "pairs" in self.program.spec else Samples
        samples = kind(self.program.spec, self._settings, self._resources)
        drops, made, begin = Drops(self.program.methods, "0"), [], 0
        for size in sizes:
            some = examples(range(begin, begin + size), next(iter(self._settings.data.shares)))
            made.append(drops.into(samples.collate([*map(samples.prepare, some)]), begin))
            begin += size
        return made

    def run(self, backend: str, weights: Mapping[str, Tensor]) -> StageRun:
        """The stage from these weights on; ahead of time, compiled into the cache folder."""
        start = partial(StageRun, self.program, self.plan, weights)
        if backend == "aot":
            return start(code=partial(methods_of, stage_artefact(self.job)))
        return start(compiled=backend == "inductor")

    def found(self, run: StageRun, batches: Iterable[Batch]) -> Iterator[Foreseen]:
        """What a run makes of each batch, its gradients as AdamW's first moment tells them."""
        beta = self.plan.settings.optim.betas[0]
        state = run.optimizer.state()
        for batch in batches:
            for one in state.values():
                one.zero_()
            losses, norm = run.step(batch, 0.0)
            gradients = {name: state[f"{name}/exp_avg"] / (1 - beta) for name in self.plan.trained}
            yield Foreseen(losses["loss"], norm, gradients)


def examples(numbers: Iterable[int], kind: str) -> Iterator[Example]:
    """Pictures of noise with captions; both of several sizes."""
    for number in numbers:
        size = (40 + 8 * (number % 3), 48 + 8 * (number % 8), 3)
        noise = np.random.default_rng(number).integers(0, 256, size, np.uint8)
        said = "Nothing but noise." + f" There is more to be seen: {number}." * (1 + number % 3)
        shown = Attachment("image", Image.fromarray(noise))
        yield Example((Turn("user", (shown,)), Turn("assistant", (said,))), kind=kind)


def compare(
    name: str, stage: str, dtype: str, backend: str, amend: Sequence[str], sizes: Sequence[int]
) -> Row:
    """How far a compiled step is from eager. One run lives at a time: wide models fit so."""
    case = Stage(name, stage, dtype, amend)
    weights = completed({}, case.program, 0)
    batches = case.batches(sizes)
    wanted = list(case.found(case.run("eager", weights), batches))
    row = Row(name, stage, dtype, backend, len(case.program.methods), tuple(sizes))
    exact: list[Foreseen] = []
    if dtype != "f32":
        true = Stage(name, stage, "f32", amend)
        rounded = {one: weight.to(PRECISIONS[dtype]).float() for one, weight in weights.items()}
        exact = list(true.found(true.run("eager", rounded), true.batches(sizes)))
        row = replace(row, rounding=furthest(wanted, exact, dtype).share)
    started = time.perf_counter()
    try:
        with code_in(cache_folder("train", text_of_methods(case.program.methods))):
            run = case.run(backend, weights)
            made = list(case.found(run, batches))
    except BackendError as problem:
        return replace(row, problem=str(problem), seconds=time.perf_counter() - started)
    off = furthest(made, wanted, dtype)
    return replace(
        row,
        error=off.share,
        off=off.off,
        parameter=off.name,
        own=furthest(made, exact, dtype).share if exact else None,
        recompiles=run.recompiles,
        seconds=time.perf_counter() - started,
    )


def furthest(ours: Sequence[Foreseen], theirs: Sequence[Foreseen], dtype: str) -> Distance:
    """The gradient of all batches that is furthest off."""
    every = (
        wanted.furthest(one.gradients, PRECISIONS[dtype])
        for one, wanted in zip(ours, theirs, strict=True)
    )
    return max(every, key=lambda distance: distance.share)


def table(found: Sequence[Row]) -> str:
    """A row for each stage and backend."""
    lines = [
        "| stage | dtype | backend | methods | off eager at most | in | eager off float32 "
        "| off float32 | compiled again |",
        "| --- | --- | --- | ---: | ---: | --- | ---: | ---: | ---: |",
    ]
    for row in sorted(found, key=lambda row: (row.backend, row.dtype, row.recipe, row.stage)):
        rounding, own = ("" if x is None else f"{x:.1e}" for x in (row.rounding, row.own))
        off = row.problem or f"{row.error:.1e}"
        lines.append(
            f"| {row.recipe}, {row.stage} | {row.dtype} | {row.backend} | {row.methods} | {off} | "
            f"`{row.parameter}` | {rounding} | {own} | {row.recompiles} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compare, or show what was compared."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", action="append", help="every `_tiny` one unless given")
    parser.add_argument("--stage", action="append", help="all unless given")
    parser.add_argument("--backend", action="append", choices=["inductor", "aot"])
    parser.add_argument("--dtype", action="append", choices=list(BOUND))
    parser.add_argument("--batches", type=int, nargs="+", default=[4, 5, 6], help="their samples")
    parser.add_argument("--set", action="append", default=[], metavar="PATH=VALUE", dest="amend")
    parser.add_argument("--out", type=Path, help="add each row to this file, as JSON")
    parser.add_argument("--show", type=Path, help="print the rows of such a file as a table")
    options = parser.parse_args()
    if options.show:
        print(table(kept(Row, options.show)))
        return
    found = []
    for name in options.recipe or [name for name in shipped_recipes() if "_tiny" in name]:
        for stage in options.stage or load_recipe(name).stages:
            for dtype, backend in product(
                options.dtype or ["f32"], options.backend or ["inductor", "aot"]
            ):
                row = compare(name, stage, dtype, backend, options.amend, options.batches)
                found.append(row)
                print(_line(row), flush=True)
                if options.out:
                    keep(row, options.out)
    far = [row for row in found if not row.holds]
    sys.exit(f"not as eager: {', '.join(map(_line, far))}" if far else 0)


def _line(row: Row) -> str:
    named = f"{row.recipe} {row.stage} {row.dtype} {row.backend}"
    if row.problem:
        return f"{named} {row.problem}"
    true = "" if row.own is None else f" (off float32 {row.own:.1e}, eager {row.rounding:.1e})"
    return (
        f"{named} off {row.error:.1e} ({row.off:.1e}){true} in {row.parameter}, {row.methods} "
        f"methods, compiled again {row.recompiles} times, {row.seconds:.0f} s"
    )


if __name__ == "__main__":
    main()

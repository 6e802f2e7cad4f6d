"""Every method of every small recipe in every backend, held against eager: how far off it is.

For each mode of each recipe whose name ends in `_tiny` (of modes with the same methods the last),
in float32 and in bfloat16, each method is called with inputs of several sizes, and what it yields,
its caches included, is compared with what eager yields: printed is the largest difference, as a
share of the largest number in the tensor. In bfloat16, beside it stands how far eager and the
backend are off what the same weights give in float32. A mode that answers is asked some questions;
along eager's greedy answers, token by token, it must choose the same, but at near ties
(agreement.py).

Weights are drawn from a seed, and doubled in the blocks of the language model, so that each token
changes what is said next. With `--demo`, it is the model that `triptych demo` has trained, asked
about scenes it has not seen. Exits with 1 when a method is further off than its bound, or a token
differs that is no near tie.

    python benchmarks/parity.py --recipe qwen2_vl_tiny --out build/parity.jsonl
    python benchmarks/parity.py --demo demo --out build/parity.jsonl
    python benchmarks/parity.py --show build/parity.jsonl
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from torch import Tensor

from triptych.backends import backend
from triptych.backends.base import Executable
from triptych.backends.data import Records
from triptych.backends.job import Job, job_from
from triptych.backends.probe import difference, probe
from triptych.benchmarks.agreement import places
from triptych.benchmarks.kept import keep, kept
from triptych.blocks.input.sample import Attachment, Turn
from triptych.cli.scenes import HELD_OUT, UNSEEN
from triptych.compiler.lower import PRECISIONS
from triptych.compiler.pipeline import for_inference
from triptych.compiler.text import text_of_methods
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe

BOUND = {"f32": 2e-5, "bf16": 5e-2}
"""How far off a method may be, by its precision."""

SIZES: tuple[Mapping[str, int], ...] = ({"slots": 128, "batch": 1}, {"slots": 128, "length": 40})
"""What is overridden in a small call, as far as a recipe's limits let it be: one answer at a time,
and two with a prompt that is longer."""

TRAINED = "scenes"
ASKED = 50
"""The recipe of the demo, and the pictures of each kind that its model is asked about."""


@dataclass(frozen=True)
class Row:
    """One method of one mode in one backend; or `greedy`, its tokens."""

    recipe: str
    mode: str
    dtype: str
    backend: str
    method: str
    error: float
    """How far off a method is, at most; of the tokens that differ, by how much eager preferred its
    own, at most, as a share of what its precision moved a logit there."""
    rounding: float | None = None
    """How far off float32 eager is by its precision."""
    own: float | None = None
    """How far off float32 the backend is."""
    tokens: int = 0
    same: int = 0
    ties: int = 0
    """Tokens that were compared, that are the same, and that differ at a near tie."""
    seconds: float = 0.0

    @property
    def holds(self) -> bool:
        """Whether it is as near to eager as it must be."""
        if self.method == "greedy":
            return self.tokens > 0 and self.same + self.ties == self.tokens
        return self.error <= BOUND[self.dtype]


@dataclass(frozen=True)
class Subject:
    """A model: a recipe in one mode, and the folder of the demo where it is trained."""

    recipe: str
    mode: str
    demo: Path | None = None

    def job(self, dtype: str) -> Job:
        """What is compiled, with weights that say something."""
        if self.demo:
            run = self.demo / "runs" / self.recipe
            return job_from(load_recipe(self.recipe), self.mode, run, PRECISIONS[dtype])
        made = job_from(load_recipe(self.recipe), self.mode, 0, PRECISIONS[dtype])
        for parameter, tensor in made.lowered.module.state_dict().items():
            if parameter.startswith("lm.blocks") and tensor.dim() > 1:
                tensor.mul_(2)
        return made

    def questions(self, job: Job) -> Iterator[Sequence[Turn]]:
        """What is asked."""
        if not self.demo:
            yield from questions(job)
            return
        for kind in (HELD_OUT, UNSEEN):
            records = Records(self.demo / "data" / f"{kind.name}.json")
            for number in range(min(ASKED, len(records))):
                yield [turn for turn in records.read(number).turns if turn.role == "user"]


def subjects(name: str) -> list[Subject]:
    """The modes of a recipe whose methods are no others' behind them: limits change no code."""
    recipe = load_recipe(name)
    last: dict[str, str] = {}
    for mode in recipe.modes:
        methods = for_inference(recipe, mode).methods
        last[text_of_methods(dict(methods))] = mode
    return [Subject(name, mode) for mode in last.values()]


def inputs(job: Job, method: str) -> Iterator[dict[str, Tensor]]:
    """Calls of a method, of sizes that it takes."""
    shown = set()
    for wanted in SIZES:
        sizes = {name: size for name, size in wanted.items() if size in job.limits.get(name, ())}
        if frozenset(sizes.items()) not in shown:
            shown.add(frozenset(sizes.items()))
            yield probe(job.methods[method], job.limits, job.tokens, **sizes)


Calls = Sequence[Mapping[str, Tensor]]
"""What each call of a method is given, or yields."""


def yielded(job: Job, ours: Executable, method: str, calls: Calls) -> Calls:
    """What a method yields, with the caches that it wrote."""
    kinds = {feed: port.dtype for feed, port in ours.methods[method].inputs.items()}
    found = []
    for given in calls:
        copy = {feed: tensor.to(kinds[feed], copy=True) for feed, tensor in given.items()}
        made = ours.run(method, copy)
        found.append({**made, **{feed: copy[feed] for feed in job.methods[method].caches}})
    return found


def furthest(ours: Calls, theirs: Calls) -> float:
    """The largest difference of all calls."""
    return max(difference(*both) for both in zip(ours, theirs, strict=True))


def in_float32(subject: Subject, job: Job) -> Executable:
    """Eager with just the weights of a job, computing in float32."""
    made = subject.job("f32")
    weights = job.lowered.module.state_dict()
    for name, tensor in made.lowered.module.state_dict().items():
        tensor.copy_(weights[name])
    return backend("eager").compile(made)


def rows(subject: Subject, dtype: str, backends: Sequence[str]) -> Iterator[Row]:
    """Every method and the greedy tokens of a mode."""
    job = subject.job(dtype)
    eager = backend("eager").compile(job)
    exact = None if dtype == "f32" else in_float32(subject, job)
    calls = {method: list(inputs(job, method)) for method in job.methods}
    theirs = {method: yielded(job, eager, method, some) for method, some in calls.items()}
    true = {method: yielded(job, exact, method, some) for method, some in calls.items() if exact}
    named = (subject.recipe, subject.mode, dtype)
    for chosen in backends:
        started = time.perf_counter()
        ours = backend(chosen).compile(job)
        for method, some in calls.items():
            found = yielded(job, ours, method, some)
            yield Row(
                *(*named, chosen, method, furthest(found, theirs[method])),
                rounding=furthest(theirs[method], true[method]) if exact else None,
                own=furthest(found, true[method]) if exact else None,
                seconds=time.perf_counter() - started,
            )
            started = time.perf_counter()
        if job.spec["kind"] == "chat":
            all_places = places(job, ours, eager, exact, subject.questions(job))
            other = [place for place in all_places if not place.same]
            shares = [place.margin / max(place.rounding, 1e-9) for place in other]
            yield Row(
                *(*named, chosen, "greedy", max(shares, default=0.0)),
                tokens=len(all_places),
                same=len(all_places) - len(other),
                ties=sum(place.tie for place in other),
                seconds=time.perf_counter() - started,
            )


def questions(job: Job) -> list[list[Turn]]:
    """What is asked: text alone and pictures of several sizes; of a captioner, pictures alone."""

    def shown(width: int, height: int) -> Attachment:
        noise = np.random.default_rng(width).integers(0, 256, (height, width, 3), np.uint8)
        return Attachment(next(iter(job.spec["inputs"])), Image.fromarray(noise))

    pictures = [shown(90, 60), shown(60, 120), shown(100, 100)]
    if job.spec.get("caption"):
        return [[Turn("user", (picture,))] for picture in pictures]
    return [
        [Turn("user", ("hello there",))],
        *([Turn("user", (picture, "what is this?"))] for picture in pictures),
        [Turn("user", (pictures[0], pictures[1], "compare"))],
    ]


def table(found: Sequence[Row]) -> str:
    """The rows as a table of Markdown: for each mode and precision, the worst of each backend."""
    lines = [
        "| recipe, mode | dtype | backend | furthest method | off eager | eager off float32 "
        "| off float32 | tokens |",
        "| --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    keys = dict.fromkeys((row.recipe, row.mode, row.dtype, row.backend) for row in found)
    for key in sorted(keys, key=lambda key: (key[2] != "f32", key[0], key[1], key[3])):
        some = [row for row in found if (row.recipe, row.mode, row.dtype, row.backend) == key]
        methods = [row for row in some if row.method != "greedy"]
        worst = max(methods, key=lambda row: row.error)
        rounding, own = ("" if x is None else f"{x:.1e}" for x in (worst.rounding, worst.own))
        said = next((row for row in some if row.method == "greedy"), None)
        recipe, mode, dtype, backend = key
        lines.append(
            f"| {recipe}, {mode} | {dtype} | {backend} | {worst.method} of {len(methods)} | "
            f"{worst.error:.1e} | {rounding} | {own} | {_tokens(said) if said else ''} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compare, or show what was compared."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tiny = [name for name in shipped_recipes() if "_tiny" in name]
    parser.add_argument("--recipe", action="append", choices=tiny, help="all unless given")
    parser.add_argument("--demo", type=Path, help="the folder of `triptych demo`: its model alone")
    parser.add_argument("--backend", action="append", choices=["inductor", "aot"])
    parser.add_argument("--dtype", action="append", choices=list(BOUND))
    parser.add_argument("--out", type=Path, help="add each row to this file, as JSON")
    parser.add_argument("--show", type=Path, help="print the rows of such a file as a table")
    options = parser.parse_args()
    if options.show:
        print(table(kept(Row, options.show)))
        return
    chosen = [one for name in options.recipe or tiny for one in subjects(name)]
    if options.demo:
        chosen = [Subject(TRAINED, next(iter(load_recipe(TRAINED).modes)), options.demo)]
    found: list[Row] = []
    for subject in chosen:
        for dtype in options.dtype or BOUND:
            for row in rows(subject, dtype, options.backend or ("inductor", "aot")):
                found.append(row)
                print(_line(row), flush=True)
                if options.out:
                    keep(row, options.out)
    far = [row for row in found if not row.holds]
    sys.exit(f"too far from eager: {', '.join(map(_line, far))}" if far else 0)


def _line(row: Row) -> str:
    named = f"{row.recipe} {row.mode} {row.dtype} {row.backend:8} {row.method:16}"
    if row.method == "greedy":
        return f"{named} {_tokens(row)}, {row.seconds:.0f} s"
    true = "" if row.own is None else f" (off float32 {row.own:.1e}, eager {row.rounding:.1e})"
    return f"{named} off {row.error:.1e}{true}, {row.seconds:.0f} s"


def _tokens(row: Row) -> str:
    said = f"{row.same} of {row.tokens}"
    if row.same < row.tokens:
        said += f", {row.ties} near ties (to {row.error:.1f})"
    if not row.holds:
        said += f", {row.tokens - row.same - row.ties} errors"
    return said


if __name__ == "__main__":
    main()

"""Every method of every small recipe in every backend, held against eager: how far off it is.

For each mode of each recipe whose name ends in `_tiny` (modes of the same methods once), in float32
and in bfloat16, each method is called with inputs of several sizes, and what it yields, its caches
included, is compared with what eager yields: printed is the largest difference, as a share of the
largest number in the tensor. Beside a method in bfloat16 stands how far eager itself is off in that
precision, from the same weights in float32. A mode that answers is asked some questions, whose
greedy tokens are compared; where one differs, `gap` is by how much eager preferred its own, as a
share of its largest logit, and what follows in that answer is not counted.

Weights are drawn from a seed, and doubled, so that each token changes what is said next. Exits
with 1 when a method is further off than its bound.

    python benchmarks/parity.py --recipe qwen2_vl_tiny --out build/parity.jsonl
    python benchmarks/parity.py --show build/parity.jsonl
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from torch import Tensor

from triptych.backends import backend
from triptych.backends.base import Executable
from triptych.backends.embedding import AnySession, session_of
from triptych.backends.generation import Session
from triptych.backends.job import Job, job_from
from triptych.backends.probe import difference, probe
from triptych.backends.sampling import Chooser, Sampling
from triptych.backends.sight import Sight
from triptych.blocks.input.sample import Attachment, Turn
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

NEW = 12


@dataclass(frozen=True)
class Row:
    """One method of one mode in one backend; or `greedy`, its tokens."""

    recipe: str
    mode: str
    dtype: str
    backend: str
    method: str
    error: float
    """Of a method how far off it is; of tokens, the largest gap where one differs."""
    rounding: float | None = None
    """How far off eager is by its precision."""
    tokens: int = 0
    same: int = 0
    """Tokens that were compared, and that are the same."""
    seconds: float = 0.0


def work(name: str, mode: str, dtype: str) -> Job:
    """What is compiled, with weights that say something."""
    made = job_from(load_recipe(name), mode, 0, PRECISIONS[dtype])
    for parameter, tensor in made.lowered.module.state_dict().items():
        if tensor.dim() > 1 and tensor.is_floating_point() and "embed" not in parameter:
            tensor.mul_(2)
    return made


def distinct(name: str) -> list[str]:
    """The modes of a recipe whose methods are no others' before them: limits change no code."""
    recipe = load_recipe(name)
    first: dict[str, str] = {}
    for mode in recipe.modes:
        methods = for_inference(recipe, mode).methods
        first.setdefault(text_of_methods(dict(methods)), mode)
    return list(first.values())


def inputs(job: Job, method: str) -> Iterator[dict[str, Tensor]]:
    """Calls of a method, of sizes that it takes."""
    shown = set()
    for wanted in SIZES:
        sizes = {name: size for name, size in wanted.items() if size in job.limits.get(name, ())}
        if frozenset(sizes.items()) not in shown:
            shown.add(frozenset(sizes.items()))
            yield probe(job.methods[method], job.limits, job.tokens, **sizes)


def yielded(job: Job, ours: Executable, method: str, given: Mapping[str, Tensor]) -> dict[str, Any]:
    """What a method yields, with the caches that it wrote."""
    kinds = {feed: port.dtype for feed, port in ours.methods[method].inputs.items()}
    copy = {feed: tensor.to(kinds[feed], copy=True) for feed, tensor in given.items()}
    found = ours.run(method, copy)
    return {**found, **{feed: copy[feed] for feed in job.methods[method].caches}}


def rows(name: str, mode: str, dtype: str, backends: Sequence[str]) -> Iterator[Row]:
    """Every method and the greedy tokens of a mode."""
    job = work(name, mode, dtype)
    eager = backend("eager").compile(job)
    exact = backend("eager").compile(work(name, mode, "f32")) if dtype != "f32" else None
    calls = {method: list(inputs(job, method)) for method in job.methods}
    theirs = {
        method: [yielded(job, eager, method, given) for given in some]
        for method, some in calls.items()
    }
    rounding: dict[str, float] = {}
    if exact:
        rounding = {
            method: max(
                difference(made, yielded(job, exact, method, given))
                for made, given in zip(theirs[method], some, strict=True)
            )
            for method, some in calls.items()
        }
    for chosen in backends:
        started = time.perf_counter()
        ours = backend(chosen).compile(job)
        for method, some in calls.items():
            error = max(
                difference(yielded(job, ours, method, given), made)
                for given, made in zip(some, theirs[method], strict=True)
            )
            seconds = time.perf_counter() - started
            yield Row(
                name, mode, dtype, chosen, method, error, rounding.get(method), seconds=seconds
            )
            started = time.perf_counter()
        if job.spec["kind"] == "chat":
            yield greedy(name, mode, dtype, chosen, job, ours, eager)


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


def greedy(
    name: str, mode: str, dtype: str, chosen: str, job: Job, ours: Executable, eager: Executable
) -> Row:
    """The greedy tokens of both, up to where an answer differs, and what eager thought of it."""
    sessions = [session_of(one, job.resources, job.spec) for one in (ours, eager)]
    same = total = 0
    gap = 0.0
    for turns in questions(job):
        mine, theirs = (_chosen(one, turns) for one in sessions)
        total += len(theirs)
        for (left, _), (right, scores_V) in zip(mine, theirs, strict=False):
            if left != right:
                gap = max(gap, float((scores_V[right] - scores_V[left]) / scores_V.abs().max()))
                break
            same += 1
    return Row(name, mode, dtype, chosen, "greedy", gap, None, total, same)


class _Watching(Chooser):
    """Remembers what each token was chosen from."""

    def __init__(self, sampling: Sampling) -> None:
        super().__init__(sampling, 0, [0])
        self.seen: list[tuple[int, Tensor]] = []

    def choose(self, logits_BV: Tensor) -> Tensor:
        token_B = super().choose(logits_BV)
        self.seen.append((int(token_B[0]), logits_BV[0].float()))
        return token_B


def _chosen(session: AnySession, turns: Sequence[Turn]) -> list[tuple[int, Tensor]]:
    """The likeliest tokens of an answer, and the logits that each was chosen from."""
    assert isinstance(session, Session)
    sample = session.processor.prompt(turns)
    prompts, new = session.prompts([sample]), min(NEW, session.new)
    slots = session.slots(prompts.length, new)
    caches = session.executable.caches(1, slots)
    sight = Sight(session.executable, session.processor, session.spec)
    logits_BV = session.prefill(prompts, sample.media, caches, sight)
    chooser, telling = _Watching(Sampling()), session.processor.telling()
    for _ in session.go_on(prompts, logits_BV, caches, slots, new, [telling], chooser):
        pass
    return chooser.seen


def table(found: Sequence[Row]) -> str:
    """The rows as a table of Markdown: for each mode and precision, the worst of each backend."""
    lines = [
        "| recipe, mode | dtype | backend | furthest method | off | eager's rounding | tokens |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    keys = dict.fromkeys((row.recipe, row.mode, row.dtype, row.backend) for row in found)
    for key in keys:
        some = [row for row in found if (row.recipe, row.mode, row.dtype, row.backend) == key]
        methods = [row for row in some if row.method != "greedy"]
        worst = max(methods, key=lambda row: row.error)
        rounding = "" if worst.rounding is None else f"{worst.rounding:.1e}"
        said = next((row for row in some if row.method == "greedy"), None)
        tokens = "" if said is None else f"{said.same} of {said.tokens}"
        if said and said.same < said.tokens:
            tokens += f", gap {said.error:.1e}"
        recipe, mode, dtype, backend = key
        lines.append(
            f"| {recipe}, {mode} | {dtype} | {backend} | {worst.method} of {len(methods)} | "
            f"{worst.error:.1e} | {rounding} | {tokens} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Compare, or show what was compared."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    tiny = [name for name in shipped_recipes() if "_tiny" in name]
    parser.add_argument("--recipe", action="append", choices=tiny, help="all unless given")
    parser.add_argument("--backend", action="append", choices=["inductor", "aot"])
    parser.add_argument("--dtype", action="append", choices=list(BOUND))
    parser.add_argument("--out", type=Path, help="add each row to this file, as JSON")
    parser.add_argument("--show", type=Path, help="print the rows of such a file as a table")
    options = parser.parse_args()
    if options.show:
        lines = options.show.read_text(encoding="utf-8").splitlines()
        print(table([Row(**json.loads(line)) for line in lines]))
        return
    found: list[Row] = []
    for name in options.recipe or tiny:
        for mode in distinct(name):
            for dtype in options.dtype or BOUND:
                for row in rows(name, mode, dtype, options.backend or ("inductor", "aot")):
                    found.append(row)
                    print(_line(row), flush=True)
                    if options.out:
                        with options.out.open("a", encoding="utf-8") as file:
                            file.write(json.dumps(asdict(row)) + "\n")
    far = [row for row in found if row.error > BOUND[row.dtype]]
    sys.exit(f"further off than the bound: {', '.join(map(_line, far))}" if far else 0)


def _line(row: Row) -> str:
    named = f"{row.recipe} {row.mode} {row.dtype} {row.backend:8} {row.method:16}"
    if row.method == "greedy":
        return f"{named} {row.same} of {row.tokens} tokens, gap {row.error:.1e}"
    rounding = "" if row.rounding is None else f", eager's rounding {row.rounding:.1e}"
    return f"{named} off {row.error:.1e}{rounding}, {row.seconds:.0f} s"


if __name__ == "__main__":
    main()

"""What a prompt and a token cost, by answers at a time and by the length of the prompt.

Some of the 28 blocks of the published 2B model and its whole head, random weights, prompts of
text. Two tables are printed, and drawn: a token for 1, 2, 4 and 8 answers that grow at once, and
the first and each next token behind prompts from 256 tokens on. Beside each stands what the machine
allows, measured in the same run: the bytes of weights and cache at the read bandwidth, the
operations of the maths at the rate of a bfloat16 product; and, with --peer, how many times as long
the plain Hugging Face implementation takes, with the same weights in the same memory. A third table
says where the time goes: for each operator that torch's profiler sees, its share; what it does not
see are compiled loops.

Needs g++ and 4 GB of memory for 4 blocks in bf16, for --peer the extra `benchmarks`. Compiles for
minutes, once where a folder is given. Measure on a quiet machine, or with one thread.

    python benchmarks/curves.py --threads 1 --peer --keep build/curves --draw costs.svg
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from triptych.cli.waiting import SPINS

os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

import torch
from torch.profiler import ProfilerActivity, profile

from triptych.backends.generation import Session
from triptych.backends.job import Job, job
from triptych.backends.probe import probe
from triptych.benchmarks.answers import Timed, answered, endless, question
from triptych.benchmarks.compiled import executable, stills
from triptych.benchmarks.limits import product_rate, read_bandwidth
from triptych.benchmarks.peer import ask_peer, peer_inputs, peer_model
from triptych.blocks.input.calls import CHUNK, cache_slots
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Sample
from triptych.compiler.costing import Shapes
from triptych.compiler.lower import PRECISIONS
from triptych.compiler.memory import answering
from triptych.dsl.load import load_recipe

BATCHES = (1, 2, 4, 8)
LENGTHS = (256, 512, 1024, 2048, 4096, 8192)
SHORT = 256
"""Tokens of the prompts whose answers grow together."""
LONG = cache_slots(LENGTHS[-1] + 1, 1, 2 * LENGTHS[-1])
PROFILED: tuple[tuple[str, dict[str, int]], ...] = (
    ("decode", {"batch": 1, "slots": 512}),
    ("decode", {"batch": 8, "slots": 512}),
    ("decode", {"batch": 1, "slots": LONG}),
    ("prefill", {"batch": 1, "slots": 512, "length": SHORT}),
    ("prefill", {"batch": 1, "slots": LONG, "length": CHUNK}),
)
"""Calls at the ends of the curves: a cache of so many slots, and a piece of a prompt."""
WORTH = 0.02
"""An operator with a smaller share of the time is not named."""


@dataclass(frozen=True)
class Point:
    """One call: what was asked, the medians of its seconds, and what the machine allows."""

    batch: int
    length: int
    first: float
    next: float
    least_first: float
    least_next: float
    peer: tuple[float, float] | None
    """The peer's seconds, to the first token and to each next."""


@dataclass(frozen=True)
class Bench:
    """A session, and what its model weighs."""

    session: Session
    work: Job
    new: int
    runs: int
    peer: Any = None
    """The model of the plain implementation, where it is asked too."""

    def ask(self, batch: int, length: int, new: int) -> Timed:
        """Prompts of text, all of one length."""
        return answered(self.session, self.prompts(batch, length), new)

    def ask_peer(self, batch: int, length: int, new: int) -> Timed:
        """The same of the peer."""
        pad = self.work.spec["tokens"]["specials"]["image_pad"]["id"]
        prompts = self.prompts(batch, length)
        return ask_peer(self.peer, peer_inputs(self.session.processor, prompts, pad), new)

    def prompts(self, batch: int, length: int) -> list[Sample]:
        """Equal ones."""
        return [question(self.session.processor, length)] * batch

    def point(self, batch: int, length: int) -> Point:
        """Medians of some answers, after one that warms up; of the limits before and behind them,
        the higher."""
        self.ask(batch, length, 2)
        before = product_rate(5), read_bandwidth(5)
        said = self.medians(self.ask, batch, length)
        rate, read = map(max, before, (product_rate(5), read_bandwidth(5)))
        return Point(
            batch,
            length,
            *said,
            self.operations(batch, length) / rate,
            (self.weights + batch * length * self.slot) / read,
            self.medians(self.ask_peer, batch, length) if self.peer else None,
        )

    def medians(
        self, ask: Callable[[int, int, int], Timed], batch: int, length: int
    ) -> tuple[float, float]:
        """Seconds to the first token, and to each next."""
        said = [ask(batch, length, self.new) for _ in range(self.runs)]
        return (
            statistics.median(one.first for one in said),
            statistics.median(one.next for one in said),
        )

    @property
    def weights(self) -> int:
        """Bytes of weights that a token reads."""
        state = self.work.lowered.module.state_dict()
        return sum(state[name].nbytes for name in self.work.methods["decode"].parameters)

    @property
    def slot(self) -> int:
        """Bytes of keys and values of one token."""
        caches = self.session.executable.caches(1, 32)
        return sum(cache.nbytes for cache in caches.values()) // 32

    def operations(self, batch: int, length: int) -> int:
        """What the maths of prompts takes, all tokens of one attending to all of it."""
        values = {"batch": batch, "length": length, "slots": length, "features": 1}
        program = self.work.lowered.program
        return answering(program, "prefill", Shapes(values, {}), "f32").total

    def profiled(self, method: str, **sizes: int) -> dict[str, float]:
        """The share of each operator in the time of a call of a method."""
        given = probe(self.work.methods[method], self.work.limits, self.work.tokens, **sizes)
        self.session.executable.run(method, given)
        with profile(activities=[ProfilerActivity.CPU]) as seen:
            begin = time.perf_counter()
            self.session.executable.run(method, given)
            whole = (time.perf_counter() - begin) * 1e6
        shares = {event.key: event.self_cpu_time_total / whole for event in seen.key_averages()}
        said = {name: share for name, share in shares.items() if share > WORTH}
        said["compiled loops"] = 1 - sum(shares.values())
        return dict(sorted(said.items(), key=lambda pair: -pair[1]))


def draw(batches: Sequence[Point], lengths: Sequence[Point], path: Path, title: str) -> None:
    """The curves beside what the machine allows; a prompt's on two axes of powers."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 3.4), layout="constrained")
    figure.suptitle(title)
    panels: Mapping[str, tuple[str, Sequence[tuple[int, float, float, float | None]]]] = {
        "a token of all answers": (
            "answers at a time",
            [(p.batch, p.next, p.least_next, p.peer and p.peer[1]) for p in batches],
        ),
        "the first token": (
            "tokens of the prompt",
            [(p.length, p.first, p.least_first, p.peer and p.peer[0]) for p in lengths],
        ),
        "each next token": (
            "tokens of the prompt",
            [(p.length, p.next, p.least_next, p.peer and p.peer[1]) for p in lengths],
        ),
    }
    for axes, (name, (beneath, points)) in zip(
        figure.subplots(1, len(panels)), panels.items(), strict=True
    ):
        places = [place for place, *_ in points]
        if all(theirs for *_, theirs in points):
            axes.plot(places, [theirs for *_, theirs in points], "s:", label="transformers")
        axes.plot(places, [took for _, took, *_ in points], "o-", label="measured")
        axes.plot(places, [least for *_, least, _ in points], "--", label="what the machine allows")
        axes.set(title=name, xlabel=beneath, ylabel="seconds", xscale="log")
        if name == "the first token":
            axes.set(yscale="log")
        else:
            axes.set(ylim=(0, None))
        axes.set_xticks(places, [f"{place:,}" for place in places], minor=False)
        axes.minorticks_off()
        axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None})


def main() -> None:
    """Print three tables, and draw the first two."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", default="aot")
    parser.add_argument("--dtype", choices=PRECISIONS, default="bf16")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the language model")
    parser.add_argument("--new", type=int, default=8, help="tokens of an answer")
    parser.add_argument("--runs", type=int, default=3, help="answers a figure, a median")
    parser.add_argument("--longest", type=int, default=LENGTHS[-1], help="tokens of a prompt")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--keep", type=Path, help="a folder for compiled code, found there again")
    parser.add_argument("--compile-only", action="store_true", help="fill that folder, and stop")
    parser.add_argument("--peer", action="store_true", help="ask transformers too")
    parser.add_argument("--draw", type=Path, metavar="FILE", help="an .svg or .png of the curves")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = tempfile.TemporaryDirectory()

    changes = [f"lm.depth = {options.depth}", "vit.depth = 1", "chat.target = eager()"]
    recipe = load_recipe("qwen2_vl_2b", amend=changes)
    work = stills(job(recipe, "chat", weights=0, dtype=PRECISIONS[options.dtype]))
    processor = endless(Processor(work.spec))
    made = executable(options.backend, recipe, work, options.keep or Path(folder.name))
    bench = Bench(Session(made, processor, work.spec), work, options.new, options.runs)
    lengths = [length for length in LENGTHS if length <= options.longest]
    if options.compile_only:
        for batch in BATCHES:
            bench.ask(batch, SHORT, 2)
        for length in lengths:
            bench.ask(1, length, 2)
        return
    if options.peer:
        peer = peer_model(recipe, work.lowered.module.state_dict(), work.dtype)
        bench = replace(bench, peer=peer)

    title = (
        f"{options.backend}, {options.depth} of 28 blocks, {bench.weights / 1e6:.0f} MB in "
        f"{options.dtype}, threads: {options.threads}"
    )
    print(title)
    head = f"{'first, s':>10}{'of limit':>10}{'next, ms':>10}{'of limit':>10}{'tokens/s':>10}"
    head += f"{'x first':>10}{'x next':>10}" if options.peer else ""
    print(f"\n{'answers':<8}{head}")
    batches = [bench.point(batch, SHORT) for batch in BATCHES]
    for one in batches:
        print(f"{one.batch:<8}{_told(one)}", flush=True)
    print(f"\n{'prompt':<8}{head}")
    prompts = []
    for length in lengths:
        prompts.append(bench.point(1, length))
        print(f"{length:<8}{_told(prompts[-1])}", flush=True)
    print("\nwhere the time goes")
    for method, sizes in PROFILED:
        shares = bench.profiled(method, **sizes).items()
        said = ", ".join(f"{name} {share:.0%}" for name, share in shares)
        where = ", ".join(f"{name} {size:,}" for name, size in sizes.items())
        print(f"{method}, {where}: {said}", flush=True)
    if options.draw:
        draw(batches, prompts, options.draw, title)


def _told(one: Point) -> str:
    told = (
        f"{one.first:>10.3f}{one.least_first / one.first:>10.2f}"
        f"{one.next * 1e3:>10.1f}{one.least_next / one.next:>10.2f}{one.batch / one.next:>10.1f}"
    )
    if one.peer:
        told += f"{one.peer[0] / one.first:>10.2f}{one.peer[1] / one.next:>10.2f}"
    return told


if __name__ == "__main__":
    main()

"""Generation against the plain Hugging Face implementation, and against what the machine allows.

A picture and some text are answered greedily by both, with the same weights in the same memory, one
after the other in each of several rounds; the machine's limits are measured in each round too.
Printed are medians over the rounds: seconds to the first token (tower, adapter and prompt) and for
each token after it, how many times as quick as the first row that is, and its share of the limit:
the operations of the maths at the rate of a bfloat16 product; the bytes of the language model's
weights at the read bandwidth. Weights are random.

Needs the extra `benchmarks` (transformers), and g++ for the backends that compile. `tiny` and
`small` run anywhere in a minute or two. `2b` needs 12 GB of memory, and compiles for minutes: do
that before, into a folder that is kept, and measure then. On a machine that is not quiet, with one
thread: its own processor time is then the clock (benchmarks/limits.py).

    python benchmarks/generate.py --size small --backend aot --backend inductor
    python benchmarks/generate.py --size 2b --keep build/2b --compile-only
    python benchmarks/generate.py --size 2b --keep build/2b
    python benchmarks/generate.py --size 2b --keep build/2b --quantize "int8(lm.blocks)"
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

from triptych.cli.waiting import SPINS

os.environ.setdefault("GOMP_SPINCOUNT", SPINS)

import torch

from triptych.backends.generation import Session
from triptych.backends.job import Job, job
from triptych.benchmarks.answers import Timed, answered, endless, question
from triptych.benchmarks.compiled import executable, stills
from triptych.benchmarks.limits import product_rate, read_bandwidth
from triptych.benchmarks.peer import SIZES, ask_peer, peer_inputs, peer_model
from triptych.blocks.input.processor import Processor
from triptych.compiler.costing import Shapes
from triptych.compiler.lower import PRECISIONS
from triptych.compiler.memory import answering
from triptych.compiler.workload import Item, Sample, shapes_of
from triptych.dsl.load import load_recipe
from triptych.dsl.recipe import Recipe

PEER = "transformers"


@dataclass(frozen=True)
class Row:
    """What is measured of one implementation, a figure a round."""

    ask: Callable[[int], Timed]
    """The answer, of so many tokens."""
    first: list[float] = field(default_factory=list)
    next: list[float] = field(default_factory=list)
    rate: list[float] = field(default_factory=list)
    read: list[float] = field(default_factory=list)

    def measure(self, new: int) -> None:
        """One round, and the machine's limits just before it."""
        self.rate.append(product_rate(5))
        self.read.append(read_bandwidth(5))
        said = self.ask(new)
        self.first.append(said.first)
        self.next.append(said.next)

    def shares(self, operations: int, size: int) -> tuple[float, float]:
        """Of what the product rate and the read bandwidth allow: medians."""
        first = zip(self.rate, self.first, strict=True)
        following = zip(self.read, self.next, strict=True)
        return (
            statistics.median(operations / rate / seconds for rate, seconds in first),
            statistics.median(size / read / seconds for read, seconds in following),
        )


def operations(recipe: Recipe, work: Job, side: int, text: int) -> dict[str, int]:
    """What the maths of a prompt takes by method, one multiplication and one addition being two: a
    picture through tower and adapter, all tokens through the language model, each attending to all.
    """
    sample = Sample((Item("image", (side, side)),), text, text)
    sizes = shapes_of(recipe, recipe.modes["chat"], sample, 1)
    sizes = Shapes({**sizes.values, "slots": sizes.values["length"]}, sizes.segments)
    methods = ("vision_image", "project", "prefill")
    program = work.lowered.program
    return {method: answering(program, method, sizes, "f32").total for method in methods}


def main() -> None:
    """Print one row an implementation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=SIZES, default="small")
    parser.add_argument("--backend", action="append", help="repeatable; aot unless given")
    parser.add_argument("--dtype", choices=PRECISIONS, default="bf16")
    parser.add_argument("--pixels", type=int, default=448, help="sides of the picture")
    parser.add_argument("--text", type=int, default=64, help="tokens beside the picture's")
    parser.add_argument("--new", type=int, default=64, help="tokens of an answer")
    parser.add_argument("--runs", type=int, default=3, help="rounds, whose medians are printed")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument(
        "--quantize",
        metavar="WHAT",
        help="as a recipe says it, `int8(lm.blocks)`: without the peer",
    )
    parser.add_argument("--keep", type=Path, help="a folder for compiled code, found there again")
    parser.add_argument("--compile-only", action="store_true", help="fill that folder, and stop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = tempfile.TemporaryDirectory()
    keep = options.keep or Path(folder.name)

    changes = [*SIZES[options.size], "chat.target = eager()"]
    changes += [f"chat.quantize = {options.quantize}"] if options.quantize else []
    recipe = load_recipe("qwen2_vl_2b", amend=changes)
    work = stills(job(recipe, "chat", weights=0, dtype=PRECISIONS[options.dtype]))
    processor = endless(Processor(work.spec))
    sample = question(processor, options.text, options.pixels)

    rows: dict[str, Row] = {}
    for name in options.backend or ["aot"]:
        session = Session(executable(name, recipe, work, keep), processor, work.spec)

        def ask(new: int, session: Session = session) -> Timed:
            return answered(session, [sample], new)

        started = time.perf_counter()
        ask(2)
        print(f"{name} is ready after {time.perf_counter() - started:.0f} s")
        rows[name] = Row(ask)
    if options.compile_only:
        return

    if not options.quantize:
        peer = peer_model(recipe, work.lowered.module.state_dict(), work.dtype)
        fed = peer_inputs(processor, [sample], work.spec["tokens"]["specials"]["image_pad"]["id"])
        rows = {PEER: Row(lambda new: ask_peer(peer, fed, new)), **rows}
    said = {name: row.ask(8).tokens[0] for name, row in rows.items()}
    for _ in range(options.runs):
        for row in rows.values():
            row.measure(options.new)

    state, decode = work.lowered.module.state_dict(), work.methods["decode"]
    size = sum(state[name].nbytes for name in decode.parameters)
    todo = sum(operations(recipe, work, options.pixels, options.text).values())
    print(
        f"{options.size}, {options.dtype}, {options.threads} threads: {sample.length} tokens in, "
        f"{todo / 1e12:.3g} TFLOP; {options.new} out, {size / 1e9:.3g} GB each"
    )
    rate = statistics.median(rate for row in rows.values() for rate in row.rate)
    read = statistics.median(read for row in rows.values() for read in row.read)
    print(f"the machine: {rate / 1e12:.2f} TFLOP/s in bfloat16, {read / 1e9:.1f} GB/s read")
    titles = f"{'x first':>9}{'of limit':>10}"
    print(f"{'':<14}{'first token, s':>15}{titles}{'next token, s':>15}{titles}   tokens alike")
    base = next(iter(rows.values()))
    for name, row in rows.items():
        first, following = statistics.median(row.first), statistics.median(row.next)
        shares = row.shares(todo, size)
        pairs = zip(said[name], next(iter(said.values())), strict=True)
        same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))
        print(
            f"{name:<14}{first:>15.3f}{statistics.median(base.first) / first:>9.2f}"
            f"{shares[0]:>10.2f}{following:>15.4f}{statistics.median(base.next) / following:>9.2f}"
            f"{shares[1]:>10.2f}{same:>6} of {len(said[name])}"
        )


if __name__ == "__main__":
    main()

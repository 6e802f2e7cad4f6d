"""A prompt with a picture, up to its first token, against the rate of a bfloat16 product.

Tower with adapter and prompt of the published 2B model with random weights, one prompt at a time,
beside transformers with the same weights in the same memory. Each implementation takes its turn in
every round, right behind the machine's rate; the quickest of each counts. A share is the operations
of the maths at that rate / seconds: one multiplication and one addition are two, and every token
attends to every other. Two rates are printed: that of a square product (`limits.py`), which shares
refer to, and that of torch's own linear layers of just these sizes, one after the other.

Needs g++ for the backends that compile, the extra `benchmarks` for `--peer`, and 2 GB of memory for
4 blocks of each part. For the clock, see benchmarks/limits.py.

    python benchmarks/prefill.py --depth 4 --vit-depth 4 --backend inductor --peer --threads 1
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from torch import Tensor
from torch.nn import functional

from triptych.backends.generation import Session
from triptych.backends.job import Job, job
from triptych.backends.sight import Sight
from triptych.benchmarks.answers import question
from triptych.benchmarks.compiled import executable
from triptych.benchmarks.generate import operations
from triptych.benchmarks.limits import product_rate, quickest
from triptych.benchmarks.peer import peer_inputs, peer_model
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Sample
from triptych.compiler.lower import PRECISIONS
from triptych.dsl.load import load_recipe

Seconds = Mapping[str, float]
"""What the tower with its adapter took, and what the prompt took."""

PARTS = {"tower": ("vision_image", "project"), "prompt": ("prefill",)}
"""The methods of each part."""


@contextmanager
def clocked(
    owner: Any, name: str, seconds: dict[str, float], key: Callable[..., str]
) -> Iterator[None]:
    """Inside, calls of a function are timed, under what `key` makes of what they are given."""
    clock = time.thread_time if torch.get_num_threads() == 1 else time.perf_counter
    called = getattr(owner, name)

    def timed(*given: Any, **named: Any) -> Any:
        started = clock()
        made = called(*given, **named)
        seconds[key(*given, **named)] += clock() - started
        return made

    with mock.patch.object(owner, name, timed):
        yield


def ours(session: Session, sample: Sample) -> Seconds:
    """One prompt through an executable of ours."""
    prompts = session.prompts([sample])
    caches = session.executable.caches(1, session.slots(prompts.length, 2))
    sight = Sight(session.executable, session.processor, session.spec)
    methods: dict[str, float] = defaultdict(float)
    with clocked(session.executable, "run", methods, lambda method, inputs: method):
        session.prefill(prompts, sample.media, caches, sight)
    return {part: sum(methods[name] for name in names) for part, names in PARTS.items()}


def theirs(peer: Any, fed: Mapping[str, Tensor]) -> Seconds:
    """One prompt through transformers."""
    found: dict[str, float] = defaultdict(float)
    with (
        torch.inference_mode(),
        clocked(peer.model.visual, "forward", found, lambda *given, **named: "tower"),
        clocked(peer, "forward", found, lambda *given, **named: "whole"),
    ):
        peer(**fed, use_cache=True, logits_to_keep=1)
    return {"tower": found["tower"], "prompt": found["whole"] - found["tower"]}


def layers_rate(work: Job, patches: int, tokens: int, runs: int) -> float:
    """Operations a second of the linear layers of tower, adapter and prompt, by torch's own."""
    state = work.lowered.module.state_dict()
    shapes = Counter[tuple[int, int, int]]()
    for name, weight in state.items():
        if weight.dim() == 2 and not name.startswith(("lm.embed", "lm.head")):
            rows = tokens if name.startswith("lm.") else patches
            if not name.startswith(("lm.", "vit.")):
                rows //= 4
            shapes[rows, *weight.shape] += 1
    seconds = flops = 0.0
    for (rows, outputs, width), count in shapes.items():
        x, weight = (torch.randn(size, width).to(torch.bfloat16) for size in (rows, outputs))
        seconds += count * quickest(partial(functional.linear, x, weight), runs)
        flops += count * 2 * rows * outputs * width
    return flops / seconds


def main() -> None:
    """Print one row an implementation."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", action="append", help="repeatable; inductor unless given")
    parser.add_argument("--peer", action="store_true", help="transformers too")
    parser.add_argument("--depth", type=int, default=28, help="blocks of the language model")
    parser.add_argument("--vit-depth", type=int, default=32, help="blocks of the tower")
    parser.add_argument("--pixels", type=int, default=448, help="sides of the picture")
    parser.add_argument("--text", type=int, default=66, help="tokens beside the picture's")
    parser.add_argument("--dtype", choices=PRECISIONS, default="bf16")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=5, help="rounds")
    parser.add_argument("--keep", type=Path, help="a folder for compiled code, found there again")
    parser.add_argument("--compile-only", action="store_true", help="fill that folder, and stop")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    folder = tempfile.TemporaryDirectory()
    keep = options.keep or Path(folder.name)

    depths = [f"lm.depth = {options.depth}", f"vit.depth = {options.vit_depth}"]
    recipe = load_recipe("qwen2_vl_2b", amend=[*depths, "chat.target = eager()"])
    work = job(recipe, "chat", weights=0, dtype=PRECISIONS[options.dtype])
    processor = Processor(work.spec)
    sample = question(processor, options.text, options.pixels)

    rows: dict[str, Callable[[], Seconds]] = {}
    for name in options.backend or ["inductor"]:
        session = Session(executable(name, recipe, work, keep), processor, work.spec)
        rows[name] = partial(ours, session, sample)
        rows[name]()
    if options.compile_only:
        return
    if options.peer:
        model = peer_model(recipe, work.lowered.module.state_dict(), work.dtype)
        fed = peer_inputs(processor, [sample], work.spec["tokens"]["specials"]["image_pad"]["id"])
        rows = {"transformers": partial(theirs, model, fed), **rows}
        rows["transformers"]()

    rates: list[float] = []
    found: dict[str, list[Seconds]] = defaultdict(list)
    for _ in range(options.runs):
        for name, run in rows.items():
            rates.append(product_rate(3))
            found[name].append(run())
    layers = layers_rate(work, options.pixels**2 // 14**2, sample.length, 3)

    todo = operations(recipe, work, options.pixels, options.text)
    parts = {part: sum(todo[method] for method in names) for part, names in PARTS.items()}
    rate = statistics.median(rates)
    print(
        f"{options.vit_depth} blocks of the tower, {options.depth} of the language model, "
        f"{options.dtype}, {options.threads} threads: {sample.length} tokens, "
        + ", ".join(f"{part} {flops / 1e12:.3f} TFLOP" for part, flops in parts.items())
    )
    print(f"a square product {rate / 1e12:.2f} TFLOP/s, torch's layers {layers / 1e12:.2f} TFLOP/s")
    print(f"{'':<14}" + "".join(f"{part + ', s':>10}{'of limit':>10}" for part in (*parts, "both")))
    for name, seconds in found.items():
        quick = {part: min(one[part] for one in seconds) for part in parts}
        quick["both"] = min(sum(one.values()) for one in seconds)
        flops = {**parts, "both": sum(parts.values())}
        print(
            f"{name:<14}"
            + "".join(f"{s:>10.3f}{flops[part] / rate / s:>10.2f}" for part, s in quick.items())
        )


if __name__ == "__main__":
    main()

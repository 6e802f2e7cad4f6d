"""One token of the published 2B language model, against the time to read its weights.

Some of its 28 blocks and the whole head, random weights. Each row is a backend: the
quickest step, and how near it comes to the read bandwidth measured in the same run (1.00: weights
are read as fast as the machine reads). "torch's layers" is the same backend without the operators
that read matrices as streams. With `--weights int8` or `int4`, the layers of the blocks are in few
bits (the head, which is the table of embeddings too, is not), and it is their own bytes that count.
For the clock, see benchmarks/limits.py.

Needs g++, and 3 GB of memory for 4 blocks in bf16, 8 GB for all 28.

    python benchmarks/decode.py --backend inductor --threads 1
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from unittest import mock

import torch

from triptych.backends import backend
from triptych.backends.base import Executable
from triptych.backends.job import Job, job
from triptych.backends.probe import probe
from triptych.benchmarks.limits import quickest, read_bandwidth
from triptych.compiler.lower import PRECISIONS
from triptych.dsl.load import load_recipe

TORCH = {
    "cache_attention": "operator",
    "linear": "torch",
    "few_bits": "torch",
    "activation": "apart",
}
"""The forms of `exporting.compiled_forms` with torch's own layers."""


def executables(work: Job, names: list[str], torchs: bool) -> Iterator[tuple[str, Executable]]:
    """Each backend, and if asked again with torch's own linear layers where it has another form."""
    users = {"inductor": "inductor", "aot": "exporting"}
    for name in names:
        yield name, backend(name).compile(work)
        if torchs and name in users:
            forms = f"triptych.backends.{users[name]}.compiled_forms"
            with mock.patch(forms, return_value=TORCH):
                yield f"{name}, torch's layers", backend(name).compile(work)


def main() -> None:
    """Print one row a backend and form."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--backend", action="append", help="repeatable; eager and inductor")
    parser.add_argument("--dtype", choices=PRECISIONS, default="bf16")
    parser.add_argument("--weights", choices=["int8", "int4"], help="of the blocks; else --dtype")
    parser.add_argument("--torch", action="store_true", help="measure torch's layers too")
    parser.add_argument("--depth", type=int, default=4, help="blocks of the language model")
    parser.add_argument("--batch", type=int, default=1, help="answers that grow at once")
    parser.add_argument("--slots", type=int, default=512, help="slots of the cache, all in use")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=7, help="the quickest of so many counts")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)

    changes = [f"lm.depth = {options.depth}", "vit.depth = 1", "chat.target = eager()"]
    if options.weights:
        changes.append(f"chat.quantize = [{options.weights}(lm.blocks)]")
    recipe = load_recipe("qwen2_vl_2b", amend=changes)
    whole = job(recipe, "chat", weights=0, dtype=PRECISIONS[options.dtype])
    work = replace(whole, methods={"decode": whole.methods["decode"]})
    method = work.methods["decode"]
    state = work.lowered.module.state_dict()
    size = sum(state[name].nbytes for name in method.parameters)
    given = probe(method, work.limits, work.tokens, batch=options.batch, slots=options.slots)

    print(
        f"{options.depth} blocks, {size / 1e6:.0f} MB of {options.weights or options.dtype}, "
        f"{options.threads} threads"
    )
    print(f"{'':<28}{'a token, ms':>12}{'read, GB/s':>12}{'share':>8}")
    for name, made in executables(work, options.backend or ["eager", "inductor"], options.torch):
        made.run("decode", given)
        bandwidth = read_bandwidth(options.runs)
        seconds = quickest(partial(made.run, "decode", given), options.runs)
        share = size / bandwidth / seconds
        print(f"{name:<28}{seconds * 1e3:>12.1f}{bandwidth / 1e9:>12.1f}{share:>8.2f}", flush=True)


if __name__ == "__main__":
    main()

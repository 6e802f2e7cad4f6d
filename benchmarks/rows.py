"""What a row costs in training: a block of a decoder, forward and backward, over its tokens.

Each case in a process of its own: rows of several lengths, of one sample or of many, and attention
told where segments are (as a stage is trained) or under a mask, which is what eager torch would do.
Printed are the peak of torch's allocator beyond the weights, that of the process beyond what it was
before, and the seconds of a step, the best of some.

    python benchmarks/rows.py
    python benchmarks/rows.py --lengths 4096 8192 --samples 1 --dtype f32 --width 256 --heads 4
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from triptych.benchmarks.measured import living, peak_of
from triptych.blocks.causal import segment_mask
from triptych.blocks.language.decoder import DecoderBlocks
from triptych.blocks.operators import in_segments
from triptych.compiler.lower import PRECISIONS


@dataclass(frozen=True, slots=True)
class Case:
    """A block, and the row that it is trained on."""

    length: int
    samples: int
    told: str
    """How attention is told what a token sees: `segments` or `mask`."""
    dtype: str
    width: int
    heads: int


def measured(case: Case, times: int) -> tuple[int, int, float]:
    """Bytes of the allocator, bytes of the process, seconds."""
    torch.manual_seed(0)
    width = case.width // case.heads
    blocks = DecoderBlocks(
        1,
        case.width,
        case.heads,
        case.heads // 2,
        width,
        3 * case.width,
        "silu",
        "rmsnorm",
        1e-6,
        True,
    )
    blocks.to(PRECISIONS[case.dtype])
    x = torch.randn(1, case.length, case.width, dtype=PRECISIONS[case.dtype])
    cos, sin = torch.randn(2, 1, case.length, width).unbind()
    sample_S = torch.arange(1, case.samples + 1)
    ids_1T = sample_S.repeat_interleave(case.length // case.samples)[None]

    def step() -> list[Tensor]:
        told = in_segments(ids_1T) if case.told == "segments" else segment_mask(ids_1T)
        loss = blocks(x, cos, sin, told).float().square().mean()
        return list(torch.autograd.grad(loss, list(blocks.parameters())))

    before = _process()
    seconds = []
    for _ in range(times):
        began = time.perf_counter()
        step()
        seconds.append(time.perf_counter() - began)
    process = _process() - before
    return peak_of(step, living()), process, min(seconds)


def _process() -> int:
    """The most memory that this process has had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--lengths", nargs="+", type=int, default=[8192, 16384, 32768])
    parser.add_argument("--samples", nargs="+", type=int, default=[1, 64], help="of a row")
    parser.add_argument("--told", nargs="+", default=["mask", "segments"])
    parser.add_argument("--dtype", choices=["f32", "bf16"], default="bf16")
    parser.add_argument("--width", type=int, default=256)
    parser.add_argument("--heads", type=int, default=4)
    parser.add_argument("--times", type=int, default=1)
    parser.add_argument("--alone", help=argparse.SUPPRESS)
    options: Any = parser.parse_args()
    if options.alone:
        print(json.dumps(measured(Case(**json.loads(options.alone)), options.times)))
        return

    print("| tokens | samples | told by | allocator, MB | process, MB | a step |")
    print("| ---: | ---: | --- | ---: | ---: | ---: |")
    for length in options.lengths:
        for samples in options.samples:
            for told in options.told:
                case = Case(length, samples, told, options.dtype, options.width, options.heads)
                command = [sys.executable, __file__, "--times", str(options.times), "--alone"]
                fields = {name: getattr(case, name) for name in Case.__slots__}
                done = subprocess.run(
                    [*command, json.dumps(fields)], check=True, capture_output=True, text=True
                )
                allocator, process, seconds = json.loads(done.stdout.splitlines()[-1])
                print(
                    f"| {length:,} | {samples} | {told} | {allocator / 1e6:,.0f} "
                    f"| {process / 1e6:,.0f} | {seconds:.2f} s |",
                    flush=True,
                )


if __name__ == "__main__":
    main()

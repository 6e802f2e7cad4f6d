"""What the machine allows: bytes read from memory a second, and operations of a bf16 product.

A token of a language model cannot be had faster than its weights are read, nor a prompt faster than
its products are computed; other benchmarks give their figures as shares of these two, measured in
the same run. With one thread the clock is that thread's own processor time, so that a shared
machine can be measured on; with more it is the clock on the wall, and the machine must be quiet.

Memory is read in two ways, by torch's sum and by `streams.cpp`; what is quicker is the limit.

Needs g++ and 1 GB of memory.

    python benchmarks/limits.py --threads 1
"""

from __future__ import annotations

import argparse
import ctypes
import functools
import subprocess
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

READ = 200_000_000
"""Numbers of float32 that are read: more than the largest of caches holds."""

SIDE = 2048
"""Rows and columns of the matrices that are multiplied."""


def clock() -> float:
    """Seconds: of this thread's own processor with one thread, on the wall with more."""
    return time.thread_time() if torch.get_num_threads() == 1 else time.perf_counter()


def quickest(call: Callable[[], object], runs: int) -> float:
    """Seconds of the quickest of several calls, after one that warms up."""
    call()
    seconds = []
    for _ in range(runs):
        started = clock()
        call()
        seconds.append(clock() - started)
    return min(seconds)


def read_bandwidth(runs: int = 7) -> float:
    """Bytes a second that are read from memory, with as many threads as torch uses."""
    numbers = torch.ones(READ)
    read, threads = streams(), torch.get_num_threads()
    ways = (numbers.sum, lambda: read(numbers.data_ptr(), numbers.nbytes, threads))
    return numbers.nbytes / min(quickest(way, runs) for way in ways)


@functools.cache
def streams() -> Callable[[int, int, int], int]:
    """`read_all` of streams.cpp: from an address, so many bytes, with so many threads."""
    source = Path(__file__).with_name("streams.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "streams.so"
        flags = ["-O3", "-march=native", "-fopenmp", "-fPIC", "-shared"]
        subprocess.run(["g++", *flags, str(source), "-o", str(library)], check=True)
        read = ctypes.CDLL(str(library)).read_all
    read.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    read.restype = ctypes.c_uint64
    return read


def product_rate(runs: int = 7) -> float:
    """Operations a second of a square product in bfloat16."""
    matrix = torch.randn(SIDE, SIDE).to(torch.bfloat16)
    return 2 * SIDE**3 / quickest(lambda: matrix @ matrix, runs)


def main() -> None:
    """Print both limits."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--runs", type=int, default=7, help="the quickest of so many counts")
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    print(f"{options.threads} threads")
    print(f"read     {read_bandwidth(options.runs) / 1e9:8.1f} GB/s")
    print(f"product  {product_rate(options.runs) / 1e12:8.2f} TFLOP/s in bfloat16")


if __name__ == "__main__":
    main()

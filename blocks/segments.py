"""Packed sequences, one behind another: what is computed for each, of those of one length at once.

Shape suffixes: N rows of all segments, H heads, D head width, G segments of one length, L that
length.
"""

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor

QUERY_SLICE = 1024
"""Queries whose scores are held at once, where they are held."""


def batches(segment_id_N: Tensor) -> Iterator[tuple[slice, int]]:
    """Rows of neighbouring segments of equal length, and that length: one batched attention.

    >>> list(batches(torch.tensor([0, 0, 1, 1, 2, 5])))
    [(slice(0, 4, None), 2), (slice(4, 6, None), 1)]
    """
    lengths = torch.unique_consecutive(segment_id_N, return_counts=True)[1].tolist()
    begin = 0
    for length, group in itertools.groupby(lengths):
        end = begin + length * sum(1 for _ in group)
        yield slice(begin, end), length
        begin = end


def batched(x_NHD: Tensor, rows: slice, length: int) -> Tensor:
    """The rows as [G, H, L, D]; D may be missing."""
    return x_NHD[rows].unflatten(0, (-1, length)).transpose(1, 2)

"""The numbers that take the place of a matrix in few bits, as torchao chooses them.

Shape suffixes: I width that goes in, O width that comes out, P = I / 2 bytes, G groups of inputs.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from math import sqrt
from typing import Literal

import torch
from torch import Tensor

from .matrices import unpacked
from .quiet import quiet
from .storage import Storage

LARGEST = 127
"""Whole numbers of 8 bits are from its negative to this: steps that are the same on both sides."""
SMALLEST = torch.finfo(torch.float32).tiny
"""The least that a step is: a row of zeros has one too."""
ROWS = 4096
"""Rows of a matrix at a time: all of a large head in float32, several times, takes gigabytes."""


@dataclass(frozen=True, slots=True)
class Rounding:
    """Squares of a matrix, and of what few bits change in it, each summed up in float64."""

    squares: float
    changed: float


def rounded(exact_OI: Tensor, storage: Storage) -> tuple[dict[str, Tensor], Rounding]:
    """What a quantised layer holds in place of its matrix, and how far off that is.

    On the device "meta" there are sizes alone.
    """
    if exact_OI.is_meta:
        return _empty(exact_OI, storage), Rounding(0.0, 0.0)
    pieces = [_rounded(rows.float(), storage) for rows in exact_OI.split(ROWS)]
    errors = [error for _, error in pieces]
    whole = Rounding(sum(one.squares for one in errors), sum(one.changed for one in errors))
    return {name: torch.cat([held[name] for held, _ in pieces]) for name in pieces[0][0]}, whole


def _rounded(exact_OI: Tensor, storage: Storage) -> tuple[dict[str, Tensor], Rounding]:
    if storage.bits == 8:
        held = _in_8_bits(exact_OI)
        back_OI = held["weight"] * held["scale"][:, None]
    else:
        held = _in_4_bits(exact_OI, storage.group)
        back_OI = unpacked(held["weight"], held["scale"], held["zero"], torch.float32)
    return held, Rounding(_squares(exact_OI), _squares(back_OI.sub_(exact_OI)))


def relative(changed: Iterable[Rounding]) -> float:
    """How far several matrices are off, as a share of them: root of squares over root of squares.

    >>> relative([Rounding(9.0, 4.0), Rounding(16.0, 0.0)])
    0.4
    """
    every = list(changed)
    squares = sum(one.squares for one in every)
    return sqrt(sum(one.changed for one in every) / squares) if squares else 0.0


def _in_8_bits(exact_OI: Tensor) -> dict[str, Tensor]:
    """Equal steps on both sides of zero, of each output its own."""
    row, ends = (1, exact_OI.shape[1]), (torch.int8, -LARGEST, LARGEST)
    whole_OI, scale_O, _ = _in_steps("SYMMETRIC", exact_OI, row, ends, torch.float32)
    return {"weight": whole_OI, "scale": scale_O.flatten()}


def _in_4_bits(exact_OI: Tensor, group: int) -> dict[str, Tensor]:
    """The range of a group, which zero is always in, is cut into 15 steps."""
    block, ends = (1, group), (torch.uint8, 0, 15)
    number_OI, scale_OG, zero_OG = _in_steps("ASYMMETRIC", exact_OI, block, ends, torch.bfloat16)
    packed_OP = number_OI[:, ::2] | number_OI[:, 1::2] << 4
    return {"weight": packed_OP, "scale": scale_OG, "zero": zero_OG.to(torch.uint8)}


def _in_steps(
    mapping: Literal["SYMMETRIC", "ASYMMETRIC"],
    exact_OI: Tensor,
    block: tuple[int, int],
    ends: tuple[torch.dtype, int, int],
    kept: torch.dtype,
) -> tuple[Tensor, Tensor, Tensor]:
    """Numbers between two ends; scale and zero, [O, G], of each block; scales are `kept` so.

    The numbers are the nearest to what is read back with the scales as they are kept.
    """
    with quiet():  # torchao tells of libraries for GPUs that it does not find
        from torchao.quantization import quant_primitives as ao
    scale, zero = ao.choose_qparams_affine(
        exact_OI, ao.MappingType[mapping], block, *ends, SMALLEST, kept, torch.int32
    )
    number_OI = ao.quantize_affine(exact_OI, block, scale.float(), zero, *ends)
    return number_OI, scale.view(len(exact_OI), -1), zero.view(len(exact_OI), -1)


def _empty(like_OI: Tensor, storage: Storage) -> dict[str, Tensor]:
    held = storage.held(*like_OI.shape)
    return {
        name: torch.empty(sizes, dtype=getattr(torch, kind), device=like_OI.device)
        for name, (sizes, kind) in held.items()
    }


def _squares(x: Tensor) -> float:
    return float(torch.linalg.vector_norm(x, dtype=torch.float64)) ** 2

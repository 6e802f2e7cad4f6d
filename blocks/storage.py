"""How the matrix of a linear layer is kept in few bits: what stands in its place, and its bytes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from typing import Literal, TypeAlias

Held: TypeAlias = tuple[tuple[int, ...], Literal["int8", "uint8", "bfloat16", "float32"]]
"""The sizes of a tensor, and what its numbers are."""

BYTES: Mapping[str, int] = {"int8": 1, "uint8": 1, "bfloat16": 2, "float32": 4}


@dataclass(frozen=True, slots=True)
class Storage:
    """8 bits, with a factor for each output; or 4, with a factor and a zero for each group.

    A group is so many inputs in a row.

    >>> str(Storage(8)), str(Storage(4, 64))
    ('int8', 'int4(group: 64)')
    """

    bits: Literal[4, 8]
    group: int = 0

    def __str__(self) -> str:
        return f"int4(group: {self.group})" if self.group else "int8"

    @classmethod
    def read(cls, text: str) -> Storage:
        """What `str` wrote.

        >>> Storage.read("int4(group: 64)")
        Storage(bits=4, group=64)
        """
        group = text.removeprefix("int4(group: ").removesuffix(")")
        return cls(8) if text == "int8" else cls(4, int(group))

    @property
    def step(self) -> int:
        """What the inputs are a multiple of."""
        return self.group or 1

    def whole(self, rows: int, columns: int) -> tuple[int, int]:
        """The sizes of the matrix in whose place a `weight` of these sizes stands.

        >>> Storage(4, 64).whole(8, 64)
        (8, 128)
        """
        return rows, columns * 2 if self.group else columns

    def held(self, out: int, into: int) -> dict[str, Held]:
        """What takes the place of a matrix [out, into], by the names that its layer has for it.

        >>> Storage(4, 64).held(8, 128)
        {'weight': ((8, 64), 'uint8'), 'scale': ((8, 2), 'bfloat16'), 'zero': ((8, 2), 'uint8')}
        """
        if not self.group:
            return {"weight": ((out, into), "int8"), "scale": ((out,), "float32")}
        groups = into // self.group
        return {
            "weight": ((out, into // 2), "uint8"),
            "scale": ((out, groups), "bfloat16"),
            "zero": ((out, groups), "uint8"),
        }

    def size(self, out: int, into: int) -> int:
        """Bytes in all.

        >>> Storage(4, 64).size(8, 128) * 8 / (8 * 128)
        4.375
        """
        return sum(BYTES[kind] * prod(sizes) for sizes, kind in self.held(out, into).values())

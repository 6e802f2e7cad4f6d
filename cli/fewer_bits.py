"""What `compile`, `run` and `inspect` say of weights in few bits: how many, and how far off."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping


def fewer_bits(
    kept: Mapping[str, str], weights: Mapping[str, float], methods: Mapping[str, float]
) -> Iterator[str]:
    """A line for each part, and one for what becomes of the methods.

    `kept` says of each weight how; `weights` has the error of each part, `methods` that of each
    method: shares of full precision. Both are empty where there are no weights yet.

    >>> for line in fewer_bits({"lm.head.weight": "int8"}, {"lm": 0.0081}, {"decode": 0.01}):
    ...     print(line)
    lm: 1 linear layer in int8, weights off full precision by 8.1e-03
    methods off full precision by: decode 1.0e-02
    """
    layers = Counter((name.partition(".")[0], how) for name, how in kept.items())
    for part in dict.fromkeys(part for part, _ in layers):
        forms = ", ".join(
            f"{count} linear layer{'s' * (count > 1)} in {how}"
            for (owner, how), count in layers.items()
            if owner == part
        )
        off = f", weights off full precision by {weights[part]:.1e}" if part in weights else ""
        yield f"{part}: {forms}{off}"
    if methods:
        off = ", ".join(f"{name} {error:.1e}" for name, error in methods.items())
        yield f"methods off full precision by: {off}"

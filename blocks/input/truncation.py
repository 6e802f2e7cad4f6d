"""Samples that are cut off at a length: text is cut, the places of a picture or clip never are."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


class CutError(ValueError):
    """A sample cannot be cut where it would have to be."""


def refuse_cut(
    supervised: Sequence[bool],
    starts: Mapping[int, Mapping[str, Sequence[int]]],
    counts: Sequence[Mapping[str, int]],
    most: int,
) -> None:
    """CutError where the first `most` tokens of a sample lack a place of features, or all targets.

    `starts` says where the features of each medium begin, by part, and `counts` how many of them
    there are.

    >>> refuse_cut([False] * 8 + [True] * 4, {0: {"vit": [2]}}, [{"vit": 4}], 10)
    >>> refuse_cut([False] * 8 + [True] * 4, {0: {"vit": [2]}}, [{"vit": 4}], 5)
    Traceback (most recent call last):
    ...
    triptych.blocks.input.truncation.CutError: the stage cuts a sample behind 5 of its 12 tokens, \
and the places of a picture or clip reach to 6
    """
    length = len(supervised)
    ends = (
        start + counts[medium][part]
        for medium, parts in starts.items()
        for part, begins in parts.items()
        for start in begins
    )
    last = max(ends, default=0)
    if last > most:
        raise CutError(
            f"the stage cuts a sample behind {most:,} of its {length:,} tokens, and the places of "
            f"a picture or clip reach to {last:,}"
        )
    if any(supervised) and not any(supervised[1:most]):
        raise CutError(
            f"the stage cuts a sample behind {most:,} of its {length:,} tokens, and all that is "
            "learnt stands behind that"
        )

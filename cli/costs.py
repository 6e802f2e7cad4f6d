"""What stages and modes take, in words: tokens, operations, memory, and where it fits."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import click

from .media_options import sizes_refused
from .output import heading, table

if TYPE_CHECKING:
    from ..compiler.costs.tape import Phase
    from ..compiler.outlay import Asked, ModeOutlay, Outlay, StageOutlay, Tokens
    from ..compiler.placement import Placement
    from ..compiler.plan import Plan
    from ..compiler.types import Bounds
    from ..dsl.recipe import Recipe

GIB = 2**30
PREFIXES = ((10**18, "E"), (10**15, "P"), (10**12, "T"), (10**9, "G"), (10**6, "M"))


class _Measured(click.ParamType[int]):
    """A number with one of several units, as the number of the smallest."""

    def __init__(self, name: str, units: Mapping[str, int], example: str) -> None:
        self.name, self._units, self._example = name, units, example

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """The number; a usage error where it is none, or has no unit."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?) ?([A-Za-z]+)", str(value))
        if found is None or found[2] not in self._units or not float(found[1]):
            self.fail(f"{value!r} is not understood; write {self._example}", param, ctx)
        return round(float(found[1]) * self._units[found[2]])


TOKENS = _Measured("tokens", {"tok": 1, "ktok": 1000}, "256tok")
MEMORY = _Measured("memory", {"MiB": 2**20, "GiB": GIB, "TiB": 2**40}, "80GiB")


def asked_for(
    images: Sequence[tuple[int, int]],
    videos: Sequence[tuple[int, int, float, float]],
    text: int | None,
    answer: int | None,
    rows: int,
    gpus: int | None,
    memory: int | None,
) -> Asked:
    """The options of the command as a question."""
    from ..compiler.outlay import Asked
    from ..compiler.workload import Item

    items = [Item("image", size) for size in images]
    items += [Item("video", (w, h), (round(s * rate), rate)) for w, h, s, rate in videos]
    return Asked(tuple(items) or None, text, answer, rows, gpus, memory)


def costs_of(recipe: Recipe, made: Plan, asked: Asked) -> Outlay:
    """What a recipe's stages and modes take; an error of the command where a sample has no room."""
    from ..compiler.outlay import TooLongError, outlay

    with sizes_refused():
        try:
            return outlay(recipe, made, asked)
        except TooLongError as error:
            raise click.ClickException(str(error)) from error


def of_stage(cost: StageOutlay) -> list[tuple[str, str]]:
    """What a stage takes, line by line."""
    rows = "1 row" if cost.micro == 1 else f"{cost.micro:,} rows"
    held = cost.held
    parts = {
        "weights": held.weights,
        "master copies": held.masters,
        "moments": held.moments,
        "summed gradients": held.sums,
    }
    return [
        ("tokens", _tokens(cost.tokens, cost.samples)),
        ("work", _work(cost.flops)),
        ("", f"{operations(cost.a_step)} a step of {cost.rows:,} {_rows_of(cost)}"),
        ("once", _once(cost.once)),
        ("memory", f"{gib(held.total)} held: {_listed(parts)}"),
        ("", f"{gib(cost.step.peak)} more at the peak of {rows}: {_listed(cost.step.at_peak)}"),
        ("fits", _fits(cost.placement)),
    ]


def of_modes(costs: Sequence[ModeOutlay]) -> None:
    """Print what modes take."""
    for cost in costs:
        click.echo()
        heading(f"mode {cost.name}")
        rows = [("  tokens", _tokens(cost.tokens, 1) if cost.tokens else "")]
        work = [
            f"{method} {operations(one.total)}" for method, one in cost.methods.items() if one.total
        ]
        rows.append(("  work", ", ".join(work)))
        cache = f" + cache {gib(cost.cache)} ({cost.a_token:,} bytes a token)" if cost.cache else ""
        prompts = f" of {cost.prompts:,} at once" if cost.prompts > 1 else ""
        saved = f" ({gib(cost.saved)} less by quantize)" if cost.saved else ""
        weights = f"weights {gib(cost.weights)}{saved}"
        memory = f"{weights}{cache}; {gib(cost.peak)} at the peak{prompts}"
        rows.append(("  memory", memory))
        table([row for row in rows if row[1]])


def operations(count: int) -> str:
    """`25.8 TFLOP`."""
    for size, prefix in PREFIXES:
        if count >= size:
            return f"{count / size:.3g} {prefix}FLOP"
    return f"{count:,} FLOP"


def gib(count: int) -> str:
    """`17.3 GiB`, or `12 MiB` where that is less."""
    if count >= GIB:
        return f"{count / GIB:,.1f} GiB"
    return f"{count / 2**20:,.1f} MiB"


def _tokens(tokens: Tokens, samples: int) -> str:
    """What a sample takes, and what it can take."""
    shown = [f"{medium} {count:,}" for medium, count in tokens.features.items() if count]
    limits = [f"{name} {_range(each)}" for name, each in tokens.each.items()]
    can = f" (can be: {', '.join(limits)})" if limits else ""
    packed = f"; {samples:,} samples share a row" if samples > 1 else ""
    total = f" = {tokens.total:,}" if shown else ""
    parts = " + ".join([*shown, f"text {tokens.text:,}"])
    return f"{parts}{total} of {tokens.room:,}{can}{packed}"


def _range(bounds: Bounds) -> str:
    most = "any number" if bounds.most is None else f"{bounds.most:,}"
    return f"{bounds.least:,}" if bounds.least == bounds.most else f"{bounds.least:,} to {most}"


def _work(flops: Mapping[str, Mapping[Phase, int]]) -> str:
    """Operations of one sample, by part."""
    total = sum(count for phases in flops.values() for count in phases.values())
    parts = []
    for part, phases in flops.items():
        said = [operations(phases["forward"])] if "forward" in phases else []
        said += [f"again {operations(phases['again'])}"] if "again" in phases else []
        said += [f"back {operations(phases['backward'])}"] if "backward" in phases else []
        if any(phases.values()):
            parts.append(f"{part} {', '.join(said)}")
    return f"{operations(total)} a sample: {'; '.join(parts)}"


def _once(flops: Mapping[str, int]) -> str:
    if not flops:
        return ""
    parts = ", ".join(f"{part} {operations(count)}" for part, count in flops.items())
    return f"{parts} for each sample, the first time that it is seen"


def _rows_of(cost: StageOutlay) -> str:
    return "packed rows" if cost.samples > 1 else "samples"


def _listed(parts: Mapping[str, int]) -> str:
    """`weights 15.4 GiB + moments 5.0 GiB`, the small left out."""
    whole = sum(parts.values())
    shown: Iterable[tuple[str, int]] = ((n, c) for n, c in parts.items() if c * 1000 >= whole)
    return " + ".join(f"{name} {gib(count)}" for name, count in shown)


def _fits(placement: Placement | None) -> str:
    if placement is None:
        return ""
    if placement.sharding is None:
        return f"no: needs at least {gib(placement.need)} a device, however it is sharded"
    rows = "1 row" if placement.rows == 1 else f"up to {placement.rows:,} rows"
    return f"{placement.sharding}: micro-batches of {rows} take {gib(placement.need)} a device"

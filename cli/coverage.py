"""What is known of a recipe on TensorRT without a GPU: `triptych compile --report-only`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import click

from .output import echo_json, table

if TYPE_CHECKING:
    from ..backends.coverage import Coverage
    from ..backends.engine_build import Acceptance
    from ..backends.evidence import Evidence, Level
    from ..backends.from_artefact import FromArtefact
    from ..backends.from_job import FromJob
    from ..dsl.recipe import Recipe

Found: TypeAlias = "Mapping[str, Evidence]"
"""Method -> what is known of it."""

MEANING = {
    "listed": "a converter is registered for the operator; it may still refuse a call",
    "accepted": "the library's dry run takes the call; a build may still fail",
    "built": "it is in an engine that was built; nothing was executed",
}
NOT_ASKED = "not asked for"
NO_TARGET = "not asked: it needs a --target"


def report(
    origin: FromJob | FromArtefact,
    recipe: Recipe | None,
    wheel: Path | None,
    target: str | None,
    wanted: Level | None,
    as_json: bool,
) -> None:
    """Say for each part of each method how much of it is listed, accepted and built, and what is
    not known; what blocks is named with the line of its part, where there is the recipe."""
    from ..backends.coverage import known_here
    from ..backends.engine_programs import engine_limits
    from ..backends.evidence import LEVELS, evidence
    from ..backends.tensorrt import TensorRT, check_weights

    check_weights(origin)
    reached, why = reached_level(target, wanted)
    source, known = known_here(wheel)
    limits = engine_limits(origin.limits, origin.spec, TensorRT.batch, TensorRT.slots)

    def notice(step: str) -> None:
        click.echo(step, err=True)

    found = evidence(origin, known, limits, reached, target, notice)
    levels = {level: why.get(level) or _meaning(level, source) for level in LEVELS}
    name, mode = origin.source
    places = recipe.span if recipe else lambda part: None
    blocking = list(_blocking(name, places, found))
    if as_json:
        head = {"recipe": name, "mode": mode, "target": target, "evidence": reached}
        methods = {name: _plain(one) for name, one in found.items()}
        echo_json({**head, "levels": levels, "methods": methods, "blocking": blocking})
        return
    rows = [row for name, one in found.items() for row in _parts(name, one)]
    table(rows, ("method", "part", "listed", "of these, conditional", "accepted", "built"))
    if reached != "listed":
        click.echo()
        table(
            [_method(name, one) for name, one in found.items()],
            ("method", "engines", "weights and inputs", "caches in place", "MB", "seconds"),
        )
    click.echo()
    for one in blocking:
        place = f"{one['part']}, {one['recipe']}" if one["part"] else one["recipe"]
        click.echo(f"{one['method']}: {one['what']} ({place})")
    declared = f"{target}, declared and not detected" if target else "none declared"
    table([("target", declared), *levels.items()])


def reached_level(target: str | None, wanted: Level | None) -> tuple[Level, dict[Level, str]]:
    """The level that can be asked for, and of each beyond it why not.

    Unless it is given it is *accepted*, where a target and the library are there.
    """
    from ..backends.base import MissingError
    from ..backends.offline import REMEDY, buildable, lacking_offline

    if target is None:
        if wanted not in (None, "listed"):
            raise click.UsageError(f"--evidence {wanted} is asked for a --target, such as sm89")
        return "listed", {"accepted": NO_TARGET, "built": NO_TARGET}
    if wanted == "listed":
        return "listed", {"accepted": NOT_ASKED, "built": NOT_ASKED}
    if lacks := lacking_offline():
        missing = f"not installed here: {', '.join(lacks)}; {REMEDY}"
        if wanted:
            raise MissingError(f"--evidence {wanted} cannot be had: {missing}")
        return "listed", {"accepted": missing, "built": missing}
    known = buildable()
    if target not in known:
        kept = (
            f"TensorRT for RTX builds for {', '.join(known)}, and not for {target}: standard "
            "TensorRT does, on a machine with that GPU"
        )
        return "accepted", {"built": kept}
    return ("built", {}) if wanted == "built" else ("accepted", {"built": NOT_ASKED})


def _meaning(level: Level, source: str) -> str:
    from ..backends.offline import releases

    by = source if level == "listed" else ", ".join(map(" ".join, releases().items()))
    return f"by {by}: {MEANING[level]}"


def _blocking(
    recipe: str, places: Callable[[str], object], found: Found
) -> Iterator[dict[str, str]]:
    """What stands in the way of the whole method in one engine, and the line of its part."""
    for name, one in found.items():
        for part, listed in one.listed.items():
            for operator in listed.unlisted:
                what = f"{operator} has no converter"
                yield _block("listed", name, part, operator, what, places(part) or recipe)
        for part, accepted in (one.accepted or {}).items():
            for operator in accepted.refused:
                what = f"{operator} is refused by the dry run"
                yield _block("accepted", name, part, operator, what, places(part) or recipe)
        if one.refused:
            yield _block("built", name, "", "", one.refused, recipe)


def _block(
    level: Level, method: str, part: str, operator: str, what: str, place: object
) -> dict[str, str]:
    where = {"method": method, "part": part, "operator": operator}
    return {"level": level, **where, "what": what, "recipe": str(place)}


def _parts(name: str, one: Evidence) -> Iterator[tuple[str, ...]]:
    for part, (listed, accepted) in _both(one):
        yield (
            name,
            part,
            f"{listed.listed} of {listed.calls}" if listed else "",
            str(listed.conditional) if listed else "",
            f"{accepted.accepted} of {accepted.calls}" if accepted else "",
            f"{accepted.calls} of {accepted.calls}" if accepted and one.build else "",
        )


def _both(one: Evidence) -> Iterator[tuple[str, tuple[Coverage | None, Acceptance | None]]]:
    """Part -> what is listed of it, and accepted: the library's passes may leave nothing of one."""
    accepted = one.accepted or {}
    for part in dict.fromkeys((*one.listed, *accepted)):
        yield part, (one.listed.get(part), accepted.get(part))


def _method(name: str, one: Evidence) -> tuple[str, ...]:
    engines = "" if one.engines is None else str(one.engines)
    if not one.build:
        return name, engines, "", "", "", ""
    engine = one.build.engine
    return (
        name,
        engines,
        str(len(engine.inputs)),
        str(len(engine.aliased)),
        f"{len(engine.plan) / 1e6:.1f}",
        f"{one.build.seconds:.1f}",
    )


def _plain(one: Evidence) -> dict[str, Any]:
    parts = {}
    for part, (listed, accepted) in _both(one):
        parts[part] = {
            "listed": asdict(listed) if listed else None,
            "accepted": asdict(accepted) if accepted else None,
            "built": accepted.calls if accepted and one.build else None,
        }
    built = None
    if one.build:
        engine = one.build.engine
        built = {
            "target": engine.target,
            "bytes": len(engine.plan),
            "seconds": round(one.build.seconds, 2),
            "inputs": {name: asdict(binding) for name, binding in engine.inputs.items()},
            "outputs": engine.outputs,
            "aliased": dict(engine.aliased),
        }
    return {"parts": parts, "engines": one.engines, "built": built, "refused": one.refused}

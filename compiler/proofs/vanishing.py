"""No picture or frame that an input admits is resized to nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...dsl.diagnostics import Diagnostic, Findings, Fix
from ...dsl.inputs import ImageInput, Native, VideoInput
from ...dsl.recipe import Recipe
from ..places import labels
from ..repairs import stated
from ..tokens import as_seen, frames_per_slot

STRIP = (28, 5000)
"""A strip of a page or of a long screenshot, in pixels: the example, where it is one."""


def prove_vanishing(recipe: Recipe, findings: Findings) -> None:
    """Gather every resize that cuts a thin picture of its input down to no row at all."""
    for path, seen in _as_used(recipe):
        for medium, given in seen.inputs.items():
            resize = given.resize
            if isinstance(resize, Native) and resize.thin == "floored":
                found = _vanishing(seen, medium, given, resize, path or f"{medium}.resize")
                if found:
                    findings.add(found)
        if not path and findings:
            return


def _as_used(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The recipe, then as each stage and mode with a resize of its own sees it, and where."""
    yield "", recipe
    for name, purpose in (recipe.stages | recipe.modes).items():
        if purpose.resize is not None:
            yield f"{name}.resize", as_seen(recipe, purpose)


def _vanishing(
    recipe: Recipe, medium: str, given: ImageInput | VideoInput, resize: Native, path: str
) -> Diagnostic | None:
    most = _tightest(recipe, medium, given, resize)
    aspect = given.aspect.high if given.aspect else most + 1
    thinnest = (resize.multiple, math.floor(aspect * resize.multiple))
    strips = (size for size in (STRIP, thinnest) if max(size) <= aspect * min(size))
    strip = next((size for size in strips if _left(size, resize.multiple, most) == 0), None)
    if strip is None:
        return None
    noun = "a frame" if isinstance(given, VideoInput) else "a picture"
    short = min(strip) / _shrinking(strip, resize.multiple, most)
    return Diagnostic(
        "T505",
        f"{noun} of {strip[0]}x{strip[1]} is resized to nothing",
        labels(
            recipe,
            (f"{path}.thin", "sides are cut down to whole multiples, to none if need be"),
            (
                f"{medium}.aspect",
                f"one side may be {aspect:g} times the other" if given.aspect else "no `aspect`",
            ),
            _cause(recipe, medium, most) or (f"{path}.budget", f"at most {most} tok"),
        ),
        f"within {most} tok its {min(strip)} px come to {short:.1f} px,"
        f" which holds no multiple of {resize.multiple} px",
        Fix(
            f"write `thin: kept`, or `aspect = ..{most}`",
            stated(recipe, f"{path}.thin", "kept"),
            safe=False,
        ),
    )


def _cause(recipe: Recipe, medium: str, most: int) -> tuple[str, str] | None:
    """Why a frame of a clip has so little room; None for a picture."""
    if not isinstance(recipe.inputs[medium], VideoInput):
        return None
    frames = frames_per_slot(recipe, medium)
    sharing = "each frame" if frames == 1 else f"each {frames} frames"
    return f"{medium}.frames", f"the longest clip leaves {most} tok to {sharing}"


def _tightest(recipe: Recipe, medium: str, given: ImageInput | VideoInput, resize: Native) -> int:
    """The most tokens of a picture; of a frame, in the longest clip."""
    most = resize.budget.high
    if isinstance(given, VideoInput) and resize.clip is not None:
        share = resize.clip * frames_per_slot(recipe, medium) // given.frames.high
        least = math.floor(resize.budget.at_least(1) * resize.slack)
        most = max(min(most, share), least)
    return most


def _shrinking(size: tuple[int, int], multiple: int, most: int) -> float:
    """By what a picture is divided to keep within its budget; 1 where it does."""
    fitted = math.prod(round(side / multiple) * multiple for side in size)
    room = most * multiple**2
    return math.sqrt(math.prod(size) / room) if fitted > room else 1.0


def _left(size: tuple[int, int], multiple: int, most: int) -> int:
    """How many multiples the shorter side keeps, by the published rule to the letter."""
    shrink = _shrinking(size, multiple, most)
    if shrink == 1.0:  # what is too small for the budget is enlarged, and rounded up
        return max(1, round(min(size) / multiple))
    return math.floor(min(size) / shrink / multiple)

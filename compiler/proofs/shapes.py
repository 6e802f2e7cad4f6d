"""Widths, windows and patches fit where one part hands its rows to the next."""

from __future__ import annotations

from collections.abc import Iterator

from ...dsl.diagnostics import Diagnostic, Findings, Fix
from ...dsl.recipe import Recipe, VideoInput
from ..places import labels
from ..tokens import tower_of, window_of


def prove_shapes(recipe: Recipe, findings: Findings) -> None:
    """Gather every place where two parts do not fit."""
    for diagnostic in (*_widths(recipe), *_multiples(recipe), *_frames(recipe)):
        findings.add(diagnostic)


def _widths(recipe: Recipe) -> Iterator[Diagnostic]:
    """What reaches the language model is as wide as it."""
    if recipe.lm is None:
        return
    for source in recipe.lm.in_:
        adapter = recipe.adapters.get(source)
        width = adapter.out if adapter else recipe.encoders[source].width
        if width == recipe.lm.width:
            continue
        setting = f"{source}.out" if adapter else f"{source}.width"
        yield Diagnostic(
            "S404",
            f"`{source}` does not fit the language model",
            labels(
                recipe,
                (setting, f"yields rows that are {width:,} wide"),
                ("lm.width", f"takes rows that are {recipe.lm.width:,} wide"),
            ),
            "features take the places of embedded tokens, so both have one width",
            Fix("write `out = lm.width`") if adapter else Fix("put an adapter between the two"),
        )


def _multiples(recipe: Recipe) -> Iterator[Diagnostic]:
    """A resized picture falls into whole windows of whole patches."""
    for medium, given in recipe.inputs.items():
        tower, window = tower_of(recipe, medium), window_of(recipe, medium)
        if tower is None:
            continue
        if all(given.resize.multiple % (tower.patch * side) == 0 for side in window):
            continue
        part = next(name for name, t in recipe.encoders.items() if t is tower)
        adapter = next((n for n, a in recipe.adapters.items() if part in a.in_), None)
        needed = tower.patch * max(window)
        yield Diagnostic(
            "S405",
            f"pictures of input `{medium}` do not fall into whole windows",
            labels(
                recipe,
                (f"{medium}.resize.multiple", f"sides are multiples of {given.resize.multiple} px"),
                (f"{part}.patch", f"patches of {tower.patch} px"),
                *([(f"{adapter}.window", f"{window[0]} x {window[1]} of them")] if adapter else []),
            ),
            f"a window is {needed} px wide, so sides must be multiples of {needed} px",
            Fix(f"write `multiple: {needed}px`"),
        )


def _frames(recipe: Recipe) -> Iterator[Diagnostic]:
    """The frames of a clip fill whole patches."""
    for medium, given in recipe.inputs.items():
        tower = tower_of(recipe, medium)
        if tower is None or not isinstance(given, VideoInput):
            continue
        per, frames = tower.frames_per_patch, given.frames
        if frames.step % per == 0 and frames.at_least(frames.step) % per == 0:
            continue
        part = next(name for name, t in recipe.encoders.items() if t is tower)
        low = -(-frames.at_least(per) // per) * per
        yield Diagnostic(
            "S406",
            f"clips of input `{medium}` do not fill whole patches",
            labels(
                recipe,
                (
                    f"{medium}.frames",
                    f"{frames.at_least(frames.step)} frames, then {frames.step} more",
                ),
                (f"{part}.frames_per_patch", f"a patch holds {per} frames"),
            ),
            "a patch that lacks a frame has no meaning in the kernel that reads it",
            Fix(f"write `frames = {low}..{frames.high} by {per}`"),
        )

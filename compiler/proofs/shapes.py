"""Widths, windows and patches fit where one part hands its rows to the next."""

from __future__ import annotations

import math
from collections.abc import Iterator

from ...dsl.diagnostics import Diagnostic, Findings, Fix, listing
from ...dsl.inputs import Letterbox, Native, Padded, VideoInput
from ...dsl.parts import Learned, Resized
from ...dsl.recipe import Recipe
from ..build import reach
from ..places import labels
from ..repairs import stated
from ..tokens import as_seen, ends
from ..yields import View, views, yielded


def prove_shapes(recipe: Recipe, findings: Findings) -> None:
    """Gather every place where two parts do not fit."""
    for diagnostic in _outputs(recipe):
        findings.add(diagnostic)
    for diagnostic in (*_widths(recipe), *_multiples(recipe), *_frames(recipe), *_scales(recipe)):
        findings.add(diagnostic)
    for diagnostic in _packed(recipe):
        findings.add(diagnostic)
    told = set[str]()
    for path, seen in _as_used(recipe):
        for name, diagnostic in _sides(seen, path):
            if name not in told:
                findings.add(diagnostic)
                told.add(name)


def _as_used(recipe: Recipe) -> Iterator[tuple[str, Recipe]]:
    """The recipe, then as each stage and mode with a resize of its own sees it, and where."""
    yield "", recipe
    for name, purpose in (recipe.stages | recipe.modes).items():
        if purpose.resize is not None:
            yield f"{name}.resize", as_seen(recipe, purpose)


def _outputs(recipe: Recipe) -> Iterator[Diagnostic]:
    """What a part takes of another is there."""
    parts = recipe.encoders | recipe.adapters
    takers = parts | ({"lm": recipe.lm} if recipe.lm else {})
    for name, taker in takers.items():
        for number, source in enumerate(taker.in_):
            if isinstance(source, Resized) or source.part not in parts:
                continue
            giver = parts[source.part]
            for step in source.parts[1:]:
                depth = getattr(giver, "depth", 0)
                there = step.name in giver.outputs
                if there and (
                    step.first is None or (step.first == step.last and step.first < depth)
                ):
                    continue
                has = listing(f"{source.part}.{output}" for output in giver.outputs)
                yield Diagnostic(
                    "S412",
                    f"`{source.part}` has no output `{source}`",
                    labels(
                        recipe,
                        (f"{name}.in[{number}]", f"`{name}` takes it"),
                        *([(f"{source.part}.depth", f"blocks 0 to {depth - 1}")] if there else []),
                    ),
                    fix=Fix(f"it has {has}" if has else f"take `{source.part}` as a whole"),
                )


def _widths(recipe: Recipe) -> Iterator[Diagnostic]:
    """What reaches the language model is as wide as it."""
    if recipe.lm is None:
        return
    for source in recipe.lm.in_:
        found = [yielded(recipe, source, medium) for medium in reach(recipe)[source.part]]
        if all(given.width == recipe.lm.width for given in found):
            continue
        adapter = source.part in recipe.adapters
        setting = f"{source.part}.out" if adapter else f"{source.part}.width"
        yield Diagnostic(
            "S404",
            f"`{source}` does not fit the language model",
            labels(
                recipe,
                (setting, f"yields rows that are {found[0].width:,} wide"),
                ("lm.width", f"takes rows that are {recipe.lm.width:,} wide"),
            ),
            "features take the places of embedded tokens, so both have one width",
            Fix("write `out = lm.width`", stated(recipe, setting, "lm.width"), safe=False)
            if adapter
            else Fix("put an adapter between the two"),
        )


def _multiples(recipe: Recipe) -> Iterator[Diagnostic]:
    """A resized picture falls into whole windows of whole patches."""
    for medium, given in recipe.inputs.items():
        if not isinstance(given.resize, Native):
            continue
        window = next((end.window for end in ends(recipe, medium).values()), (1, 1))
        for shown in views(recipe, medium):
            part, tower = shown.encoder, recipe.encoders[shown.encoder]
            if all(given.resize.multiple % (tower.patch * side) == 0 for side in window):
                continue
            adapter = next(
                (n for n, a in recipe.adapters.items() if part in [s.part for s in a.in_]), None
            )
            needed = tower.patch * max(window)
            folded = (f"{adapter}.window", f"{window[0]} x {window[1]} of them")
            yield Diagnostic(
                "S405",
                f"pictures of input `{medium}` do not fall into whole windows",
                labels(
                    recipe,
                    (
                        f"{medium}.resize.multiple",
                        f"sides are multiples of {given.resize.multiple} px",
                    ),
                    (f"{part}.patch", f"patches of {tower.patch} px"),
                    *([folded] if adapter else []),
                ),
                f"a window is {needed} px wide, so sides must be multiples of {needed} px",
                Fix(
                    f"write `multiple: {needed}px`",
                    stated(recipe, f"{medium}.resize.multiple", f"{needed}px"),
                    safe=False,
                ),
            )


def _packed(recipe: Recipe) -> Iterator[Diagnostic]:
    """One tower at most packs the patches of an input: its windows are what its tokens count."""
    for medium in recipe.inputs:
        towers = [shown.encoder for shown in views(recipe, medium) if shown.is_packed]
        if len(towers) < 2:
            continue
        first, other, *_ = towers
        yield Diagnostic(
            "S415",
            f"`{first}` and `{other}` both pack the patches of `{medium}`",
            labels(
                recipe,
                (f"{other}.pos", "these positions leave the size open"),
                (f"{first}.pos", "and so do these"),
            ),
            "two towers may cut a picture into different patches; those of one are counted",
            Fix(f"give `{other}` a table, `pos = learned(...)`, and `{medium}` a fixed `resize`"),
        )


def _sides(recipe: Recipe, path: str) -> Iterator[tuple[str, Diagnostic]]:
    """Pictures of one size fall into whole patches, for each of which the table has a row."""
    for medium in recipe.inputs:
        for shown in views(recipe, medium):
            name, tower = shown.encoder, recipe.encoders[shown.encoder]
            if shown.side is None:
                continue
            seen = (path or _side_path(shown), f"pictures of {shown.side} px")
            window = next(
                (
                    end.window
                    for end in ends(recipe, medium).values()
                    if end.is_packed and shown.is_packed
                ),
                (1, 1),
            )
            needed = tower.patch * math.lcm(*window)
            if shown.side % needed:
                yield (
                    name,
                    Diagnostic(
                        "S405",
                        f"pictures of input `{medium}` do not fall into whole patches",
                        labels(recipe, seen, (f"{name}.patch", f"patches of {tower.patch} px")),
                        f"{shown.side} is not a multiple of {needed}",
                        Fix(f"write `{max(1, shown.side // needed) * needed}px`"),
                    ),
                )
                continue
            pos, side = getattr(tower, "pos", None), shown.side // tower.patch
            if not isinstance(pos, Learned) or pos.interpolate:
                continue
            if (pos.grid.rows, pos.grid.columns) == (side, side):
                continue
            yield (
                name,
                Diagnostic(
                    "S411",
                    f"the positions of `{name}` have no row for each patch",
                    labels(
                        recipe,
                        (f"{name}.pos", f"a table of {pos.grid.rows} x {pos.grid.columns}"),
                        (seen[0], f"{seen[1]} have {side} x {side} patches"),
                    ),
                    "a learned table fits its own grid, unless it is resized to the picture's",
                    Fix(
                        f"write `learned({side}x{side})`, or add `interpolate: true`",
                        stated(recipe, f"{name}.pos.grid", f"{side}x{side}"),
                        safe=False,
                    ),
                ),
            )


def _side_path(shown: View) -> str:
    return f"{shown.encoder}.in" if shown.resized else f"{shown.medium}.resize"


def _scales(recipe: Recipe) -> Iterator[Diagnostic]:
    """Each tower knows how its pixels are scaled, and each pad which colour the mean is."""
    for medium, given in recipe.inputs.items():
        if given.normalize is not None:
            continue
        bare = [s for s in views(recipe, medium) if recipe.encoders[s.encoder].normalize is None]
        padded = isinstance(given.resize, Letterbox | Padded) and given.resize.pad is None
        if not bare and not padded:
            continue
        where = (f"{medium}.resize", "pads with the mean") if padded else (medium, "no `normalize`")
        if bare:
            where = (bare[0].encoder, "has no `normalize` of its own, and its input has none")
        yield Diagnostic(
            "S410",
            f"nothing says how the pixels of `{medium}` are scaled",
            labels(recipe, where),
            "a tower sees numbers around zero; which, its training decided",
            Fix(
                f"write `normalize = clip()` in `{medium}`, if the tower was trained so",
                stated(recipe, f"{medium}.normalize", "clip()"),
                safe=False,
            ),
        )


def _frames(recipe: Recipe) -> Iterator[Diagnostic]:
    """The frames of a clip fill whole patches."""
    for medium, given in recipe.inputs.items():
        if not isinstance(given, VideoInput):
            continue
        for shown in views(recipe, medium):
            per = recipe.encoders[shown.encoder].frames_per_patch
            frames = given.frames
            if frames.step % per == 0 and frames.at_least(frames.step) % per == 0:
                continue
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
                    (f"{shown.encoder}.frames_per_patch", f"a patch holds {per} frames"),
                ),
                "a patch that lacks a frame has no meaning in the kernel that reads it",
                Fix(
                    f"write `frames = {low}..{frames.high} by {per}`",
                    stated(recipe, f"{medium}.frames", f"{low}..{frames.high} by {per}"),
                    safe=False,
                ),
            )

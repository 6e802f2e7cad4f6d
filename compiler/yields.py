"""What each part of a recipe yields for a picture: how many rows, how wide, in which order.

A part is packed or dense. Packed rows are those of all pictures, one after another, of any size.
Dense rows are those of pictures of one size: the same number for each. `YIELDS` says for each type
of part what it makes of what it takes; the graph is built by it, and tokens are counted by it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

from ..dsl.diagnostics import Diagnostic, Fix, RecipeError, listing
from ..dsl.kinds import Selector
from ..dsl.parts import (
    MLP,
    AttentionPool,
    LastToken,
    MeanScores,
    MergeMLP,
    PixelShuffle,
    Projection,
    QFormer,
    QueryDecoder,
    Resampler,
    Resized,
    SamNeck,
    SamViT,
    Scale,
    SplitMLP,
    UnitSum,
    ViT,
)
from ..dsl.recipe import Recipe
from .places import changed, labels


@dataclass(frozen=True, slots=True)
class Yield:
    """What a source hands on, for one picture or frame of one input.

    `tokens` is None where the rows are packed: there, `window` (rows, columns) patches stand behind
    each. `grid` (rows, columns) is how dense tokens lie in the picture; None where they do not.
    """

    width: int
    tokens: int | None = None
    grid: tuple[int, int] | None = None
    window: tuple[int, int] = (1, 1)
    class_token: bool = False
    is_vector: bool = False
    """Whether the one token is a vector, without a place among others."""

    @property
    def is_packed(self) -> bool:
        """Whether the rows of all pictures stand in one sequence."""
        return self.tokens is None


@dataclass(frozen=True, slots=True)
class View:
    """What one tower sees of one input; `side` is the picture's in pixels, None if it varies.

    `is_packed` says whether the patches of all pictures stand in one sequence.
    """

    name: str
    medium: str
    encoder: str
    is_packed: bool
    side: int | None
    resized: int | None
    """The side that the host brings the resized picture to once more; None: it stays as it is."""


def views(recipe: Recipe, medium: str) -> list[View]:
    """What the towers see of an input, in the order of the recipe.

    A view has the name of its input where only one tower sees it.
    """
    found = []
    for name, tower in recipe.encoders.items():
        for shown in tower.in_:
            if shown.part != medium:
                continue
            resized = shown.side if isinstance(shown, Resized) else None
            side = resized or recipe.inputs[medium].resize.side
            packed = isinstance(tower, ViT) and tower.is_packed
            found.append(View(f"{medium}_{name}", medium, name, packed, side, resized))
    return [replace(found[0], name=medium)] if len(found) == 1 else found


def view(recipe: Recipe, medium: str, encoder: str) -> View:
    """What one tower sees of an input."""
    return next(found for found in views(recipe, medium) if found.encoder == encoder)


def yielded(recipe: Recipe, source: Selector, medium: str) -> Yield:
    """What a source such as `vit`, `vit.patches` or `vit.blocks[44]` yields of an input.

    RecipeError when a part cannot take what it is given.
    """
    name = source.part
    part = (recipe.encoders | recipe.adapters)[name]
    found = YIELDS[type(part)](recipe, name, part, medium)
    if source.parts[-1].name == PATCHES and found.class_token:
        assert found.tokens
        return replace(found, tokens=found.tokens - 1, class_token=False)
    return found


PATCHES = "patches"
"""The last step of a source that leaves the class token out."""


def _vision_tower(recipe: Recipe, name: str, part: ViT, medium: str) -> Yield:
    if part.is_packed:
        return Yield(part.width)
    shown = view(recipe, medium, name)
    if shown.side is None:
        raise RecipeError([_varies(recipe, name, medium)])
    grid = (shown.side // part.patch,) * 2
    return Yield(part.width, grid[0] * grid[1] + part.class_token, grid, (1, 1), part.class_token)


def _sam_tower(recipe: Recipe, name: str, part: SamViT, medium: str) -> Yield:
    shown = view(recipe, medium, name)
    if shown.side is None:
        raise RecipeError([_varies(recipe, name, medium)])
    side = shown.side // part.patch
    return Yield(part.width, side * side, (side, side))


def _merge(recipe: Recipe, name: str, part: MergeMLP, medium: str) -> Yield:
    below = yielded(recipe, part.in_[0], medium)
    window = part.window.rows, part.window.columns
    if below.is_packed:
        return Yield(part.out, window=window)
    grid = _folded(recipe, f"{name}.window", part.in_[0], medium, window)
    return Yield(part.out, grid[0] * grid[1], grid)


def _sam_neck(recipe: Recipe, name: str, part: SamNeck, medium: str) -> Yield:
    together(recipe, name, part.in_, medium)
    squares(recipe, name, part.in_[0], medium)
    rows, columns = part.grid.rows, part.grid.columns
    for _ in part.strided:
        rows, columns = -(-rows // 2), -(-columns // 2)
    return Yield(part.strided[-1], rows * columns, (rows, columns))


def _pixel_shuffle(recipe: Recipe, name: str, part: PixelShuffle, medium: str) -> Yield:
    below = yielded(recipe, part.in_[0], medium)
    window = part.factor, part.factor
    grid = _folded(recipe, f"{name}.factor", part.in_[0], medium, window)
    return Yield(part.factor**2 * below.width, grid[0] * grid[1], grid)


def _each(recipe: Recipe, name: str, part: Projection | MLP, medium: str) -> Yield:
    return replace(yielded(recipe, part.in_[0], medium), width=part.out)


def _split_mlp(recipe: Recipe, name: str, part: SplitMLP, medium: str) -> Yield:
    return replace(together(recipe, name, part.in_, medium)[0], width=part.out)


def _qformer(recipe: Recipe, name: str, part: QFormer, medium: str) -> Yield:
    dense(recipe, name, part.in_[0], medium)
    return Yield(part.width, part.queries)


def _resampler(recipe: Recipe, name: str, part: Resampler, medium: str) -> Yield:
    dense(recipe, name, part.in_[0], medium)
    return Yield(part.out, part.queries.area, (part.queries.rows, part.queries.columns))


def _query_decoder(recipe: Recipe, name: str, part: QueryDecoder, medium: str) -> Yield:
    dense(recipe, name, part.in_[0], medium)
    return Yield(part.width, part.queries)


def _vector(
    recipe: Recipe, name: str, part: AttentionPool | LastToken | MeanScores, medium: str
) -> Yield:
    return Yield(part.out, 1, is_vector=True)


def _unit_sum(recipe: Recipe, name: str, part: UnitSum, medium: str) -> Yield:
    return yielded(recipe, part.in_[0], medium)


def _scale(recipe: Recipe, name: str, part: Scale, medium: str) -> Yield:
    return Yield(1, 1, is_vector=True)


YIELDS: Mapping[type, Callable[..., Yield]] = {
    ViT: _vision_tower,
    SamViT: _sam_tower,
    MergeMLP: _merge,
    QFormer: _qformer,
    Resampler: _resampler,
    SamNeck: _sam_neck,
    PixelShuffle: _pixel_shuffle,
    Projection: _each,
    MLP: _each,
    SplitMLP: _split_mlp,
    AttentionPool: _vector,
    QueryDecoder: _query_decoder,
    LastToken: _vector,
    MeanScores: _vector,
    UnitSum: _unit_sum,
    Scale: _scale,
}
"""For each type of part, what it yields: of the recipe, its name, itself and the input."""


def squares(recipe: Recipe, name: str, source: Selector, medium: str) -> tuple[int, int]:
    """The grid of dense patches that a part folds; RecipeError where they lie in none."""
    below = yielded(recipe, source, medium)
    if below.grid is None or below.class_token:
        seen = (
            "a class token stands before the patches"
            if below.class_token
            else "its rows lie in no grid"
        )
        fix = f"take `{source.part}.{PATCHES}`" if below.class_token else "put it behind a tower"
        raise RecipeError(
            [
                Diagnostic(
                    "S407",
                    f"`{name}` needs patches in rows and columns",
                    labels(
                        recipe,
                        (f"{name}.in", f"it takes `{source}`"),
                        (f"{source.part}.class_token" if below.class_token else source.part, seen),
                    ),
                    fix=Fix(fix),
                )
            ]
        )
    return below.grid


def _folded(
    recipe: Recipe, setting: str, source: Selector, medium: str, window: tuple[int, int]
) -> tuple[int, int]:
    """The grid of windows that dense patches fall into; RecipeError where some are left over."""
    name = setting.partition(".")[0]
    grid = squares(recipe, name, source, medium)
    if grid[0] % window[0] or grid[1] % window[1]:
        raise RecipeError(
            [
                Diagnostic(
                    "S413",
                    f"the patches of `{source.part}` do not fall into whole windows",
                    labels(
                        recipe,
                        (setting, f"windows of {window[0]} x {window[1]}"),
                        (source.part, f"yields {grid[0]} x {grid[1]} patches of `{medium}`"),
                    ),
                    fix=Fix(f"take windows with a side of {_divisors(grid)}"),
                )
            ]
        )
    return grid[0] // window[0], grid[1] // window[1]


def _divisors(grid: tuple[int, int]) -> str:
    """The sides of square windows that fit a grid, for a sentence."""
    side = math.gcd(*grid)
    return listing((str(n) for n in range(1, side + 1) if side % n == 0), last="or")


def together(recipe: Recipe, name: str, sources: tuple[Selector, ...], medium: str) -> list[Yield]:
    """What sources that are joined place by place yield; RecipeError unless these are as many."""
    found = [yielded(recipe, source, medium) for source in sources]
    for source, below in zip(sources, found, strict=True):
        if (below.tokens, below.window) != (found[0].tokens, found[0].window):
            raise RecipeError(
                [
                    Diagnostic(
                        "S414",
                        f"`{name}` joins sources that differ in their tokens",
                        labels(
                            recipe,
                            (f"{name}.in", f"`{source}` yields {_counted(below)}"),
                            (
                                changed(recipe, sources[0].part),
                                f"`{sources[0]}` yields {_counted(found[0])}",
                            ),
                        ),
                        "tokens are joined place by place, so all sources have one for each place",
                        Fix("bring both to one grid"),
                    )
                ]
            )
    return found


def _counted(found: Yield) -> str:
    if found.tokens is None:
        return f"one for each {found.window[0]} x {found.window[1]} patches"
    return f"{found.tokens} for a picture"


def dense(recipe: Recipe, name: str, source: Selector, medium: str) -> Yield:
    """What a part that takes whole pictures is given; RecipeError where rows are packed."""
    below = yielded(recipe, source, medium)
    if below.is_packed:
        raise RecipeError(
            [
                Diagnostic(
                    "S408",
                    f"`{name}` takes pictures of one size",
                    labels(
                        recipe,
                        (f"{name}.in", f"`{source}` yields packed rows of pictures of any size"),
                        (f"{source.part}.pos", "these positions leave the size open"),
                    ),
                    "it looks at one picture at a time, and packed rows do not say where one ends",
                    Fix("give the tower `pos = learned(...)` and its input a fixed `resize`"),
                )
            ]
        )
    return below


def _varies(recipe: Recipe, name: str, medium: str) -> Diagnostic:
    return Diagnostic(
        "S409",
        f"`{name}` takes pictures of one size, and those of `{medium}` have any",
        labels(
            recipe,
            (f"{name}.pos", "a learned table has a row for each place"),
            (f"{medium}.resize", "this keeps the shape of each picture"),
        ),
        "positions without a table are legal on every grid; a table knows one",
        Fix("write `resize = square(448px)`, or `pos = rope2d(...)`"),
    )

"""What `triptych new` can choose from: towers, adapters and language models of shipped recipes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache

import click

from ..dsl.diagnostics import listing, nearest
from ..dsl.files import shipped_recipes
from ..dsl.load import load_recipe
from ..dsl.parse import parse
from ..dsl.recipe import Recipe
from ..dsl.source import Source

SIZES = ("as-is", "small", "tiny")
KINDS = ("encoder", "adapter", "lm")


@dataclass(frozen=True)
class Choice:
    """A part of a shipped recipe: `qwen2_vl_7b.vit`."""

    recipe: Recipe
    part: str

    def __str__(self) -> str:
        return f"{self.recipe.name}.{self.part}"


def chosen(kind: str, text: str, size: str) -> Choice:
    """The part that `RECIPE.PART` names, of the variant of that size.

    Without `.PART` it is the only one of its kind. Raises `BadParameter` with the nearest names.
    """
    option = f"--{kind}"
    name, dot, part = text.partition(".")
    if name not in shipped_recipes():
        near = nearest(name, shipped_recipes())
        hint = f"Did you mean {near}?" if near else "`triptych new --list` shows what there is."
        raise click.BadParameter(f"there is no recipe {name}. {hint}", param_hint=option)
    recipe = load_recipe(_of_size(name, size, option))
    there = list(parts(recipe, kind))
    if not dot and len(there) == 1:
        part = there[0]
    if part not in there:
        near = nearest(part, there)
        said = f"{name} has no {kind} {part}." if dot else f"{name} has several, or none."
        hint = f"Did you mean {name}.{near}?" if near else ""
        if not hint:
            named = (f"{name}.{one}" for one in there)
            hint = f"Choose {listing(named, last='or')}." if there else "Choose another recipe."
        raise click.BadParameter(f"{said} {hint}", param_hint=option)
    return Choice(recipe, part)


def parts(recipe: Recipe, kind: str) -> Iterator[str]:
    """The parts of a kind that a new recipe can take from this one."""
    if kind == "lm":
        yield from ["lm"] if recipe.lm and recipe.chats else []
    elif kind == "encoder":
        yield from recipe.encoders
    else:
        yield from (name for name in recipe.adapters if chain(recipe, name))


def chain(recipe: Recipe, first: str) -> list[str]:
    """An adapter and those behind it, up to the language model; empty if it leads to none."""
    into = {taken.part for taken in recipe.lm.in_} if recipe.lm else set[str]()
    leads = {
        name: [
            other
            for other, adapter in recipe.adapters.items()
            if any(taken.part == name for taken in adapter.in_)
        ]
        for name in recipe.adapters
    }

    def ways(name: str) -> list[str]:
        behind = [one for other in leads[name] for one in ways(other)]
        return [name, *behind] if behind or name in into else []

    return list(dict.fromkeys(ways(first)))


def sources(recipe: Recipe, first: str) -> list[str]:
    """What an adapter and those behind it take, by the names of their own recipe."""
    behind = chain(recipe, first)
    taken = (source.part for name in behind for source in recipe.adapters[name].in_)
    return [name for name in dict.fromkeys(taken) if name not in behind]


def completed(
    towers: Sequence[Choice], adapter: Choice | None, lm: Choice | None
) -> tuple[tuple[Choice, ...], Choice, Choice]:
    """All three, what was not chosen being that of a recipe of which something was."""
    given = next(one for one in (adapter, *towers, lm) if one is not None)
    if adapter is None:
        adapter = Choice(given.recipe, _adapter_of(given.recipe, [one.part for one in towers]))
    if lm is None:
        lm = Choice(adapter.recipe, next(parts(adapter.recipe, "lm"), ""))
        if not lm.part:
            raise click.UsageError(f"{adapter.recipe.name} has no language model; choose --lm.")
    if not towers:
        named = sources(adapter.recipe, adapter.part)
        if strange := [name for name in named if name not in adapter.recipe.encoders]:
            raise click.UsageError(f"{adapter} takes {listing(strange)}; choose that --adapter.")
        towers = [Choice(adapter.recipe, name) for name in named]
    return tuple(towers), adapter, lm


def _adapter_of(recipe: Recipe, towers: Sequence[str]) -> str:
    """The adapter that a recipe has behind these towers, or behind its own."""
    for name in parts(recipe, "adapter"):
        taken = sources(recipe, name)
        if set(taken) <= set(recipe.encoders) and set(taken) == set(towers or taken):
            return name
    raise click.UsageError(f"{recipe.name} has no adapter of its own for that; choose --adapter.")


def _of_size(name: str, size: str, option: str) -> str:
    """The recipe itself, or the variant of it that is so large."""
    if size == "as-is":
        return name
    family = _families()
    sized = [other for other in family if other.endswith(f"_{size}")]
    nearest_first = sorted(
        (other for other in sized if set(family[other]) & set(family[name])),
        key=lambda other: (name not in family[other], len(set(family[other]) ^ set(family[name]))),
    )
    if name in sized:
        return name
    if not nearest_first:
        raise click.BadParameter(
            f"{name} has no {size} variant; there are {listing(sized, limit=30)}.",
            param_hint=option,
        )
    return nearest_first[0]


@cache
def _families() -> Mapping[str, list[str]]:
    """The shipped recipes, each with itself and its bases."""
    bases = {}
    for name, file in shipped_recipes().items():
        (node, *_) = parse(Source(name, file.read_text(encoding="utf-8"))).recipes
        bases[name] = node.base.name if node.base else ""

    def line(name: str) -> list[str]:
        return [name, *line(bases[name])] if name else []

    return {name: line(name) for name in bases}


def table_of_choices() -> list[tuple[str, str, str]]:
    """What can be chosen as it is: the option, the part, and what it is."""
    recipes = [load_recipe(name) for name in shipped_recipes() if not name.endswith(SIZES[1:])]
    return [
        (f"--{kind}", f"{recipe.name}.{part}", _said(recipe, part))
        for kind in KINDS
        for recipe in recipes
        for part in parts(recipe, kind)
    ]


def _said(recipe: Recipe, part: str) -> str:
    block = recipe.block(part)
    assert block
    depth, width = getattr(block, "depth", None), getattr(block, "width", None)
    said = [getattr(block, "type", ""), f"{depth} blocks" if depth else ""]
    said += [f"{width} wide" if width else ""]
    behind = chain(recipe, part)[1:] if part in recipe.adapters else []
    said += [f"then {', '.join(behind)}" if behind else ""]
    return ", ".join(filter(None, said))

"""The cases of a fuzzing run: each follows from its kind and its number, to be made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache

from triptych.dsl.files import shipped_recipes
from triptych.tests.fuzzing.author import Author
from triptych.tests.fuzzing.chance import Chance, Seeded
from triptych.tests.fuzzing.meddler import Meddler
from triptych.tests.fuzzing.texts import decorated, mutated, reworded

BASES = 24
"""So many recipes of an author stand below those that nearly hold."""
SHORT = 2_000
"""Texts of fewer letters are taken more often: each of them is read sooner."""
BESIDE = "base_{}.vlm"


@cache
def base(number: int) -> str:
    """A recipe that holds."""
    return Author(Seeded(f"base {number}")).recipe()


@cache
def beside() -> Mapping[str, str]:
    """The files that a case may extend, by name."""
    return {BESIDE.format(number): base(number) for number in range(BASES)}


@cache
def _shipped() -> tuple[str, ...]:
    return tuple(file.read_text(encoding="utf-8") for file in shipped_recipes().values())


def whole(chance: Chance) -> str:
    """A recipe that holds; often with a variant of it, or another one that imports from it."""
    author = Author(chance)
    text = author.recipe()
    form = chance.below(3)
    if form == 1:
        text += author.variant()
    if form == 2:
        text += author.importer()
    return decorated(text, chance) if chance.maybe(50) else text


def near(chance: Chance) -> str:
    """A variant with any settings, blocks and statements of the language."""
    name = BESIDE.format(chance.below(BASES))
    text = Meddler(chance, beside()[name]).variant(f'"{name}"')
    return decorated(text, chance) if chance.maybe(20) else text


def worded(chance: Chance) -> str:
    """A recipe of an author, or a short one that ships, with words exchanged."""
    text = base(chance.below(BASES)) if chance.maybe(50) else chance.one(_small())
    return reworded(text, chance)


def bytewise(chance: Chance) -> str:
    """A recipe that ships, changed without regard to grammar."""
    text = chance.one(_shipped() if chance.maybe(30) else _small())
    if chance.maybe(10):  # spliced
        other = chance.one(_shipped())
        text = text[: chance.below(len(text))] + other[chance.below(len(other)) :]
    return mutated(text, chance)


@cache
def _small() -> tuple[str, ...]:
    return tuple(text for text in _shipped() if len(text) < SHORT)


KINDS: Mapping[str, Callable[[Chance], str]] = {
    "whole": whole,
    "near": near,
    "worded": worded,
    "bytewise": bytewise,
}
SHARES = {"whole": 4, "near": 39, "worded": 5, "bytewise": 52}
"""How many of a hundred cases are of which kind."""


def case(kind: str, number: int) -> str:
    """The text of a case, the same each time."""
    return KINDS[kind](Seeded(f"{kind} {number}"))

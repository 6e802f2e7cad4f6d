"""Which recipes a recipe is made of: its bases, and those that it imports from."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from . import syntax
from .diagnostics import Diagnostic, Findings, Fix, Label
from .limits import LONGEST_CHAIN
from .names import Layer
from .overrides import amend_by_path
from .source import Span
from .whole import Whole


class Library(Protocol):
    """Where other recipes are found."""

    def find(
        self, asked: syntax.Base, asker: syntax.RecipeNode, findings: Findings
    ) -> syntax.RecipeNode | None:
        """The recipe that `extends` or an import names; None after a finding."""


def resolve(
    recipe: syntax.RecipeNode,
    library: Library,
    findings: Findings,
    amendments: Sequence[syntax.Setting] = (),
) -> Whole | None:
    """The recipe laid over its bases, and `amendments` (`lm.width = 64`) over all.

    None when a recipe that it needs could not be found; every mistake is left with `findings`.
    """
    whole = _Resolver(library, findings).whole(recipe)
    if whole is not None:
        for setting in amendments:
            amend_by_path(whole, setting, findings)
    return whole


@dataclass(frozen=True, slots=True)
class _Link:
    """One recipe needs another: who says so, in which word, and where."""

    recipe: syntax.RecipeNode
    word: str
    span: Span


class _Resolver:
    """Lays recipes over their bases, each once, and notices those that need themselves."""

    def __init__(self, library: Library, findings: Findings) -> None:
        self._library = library
        self._findings = findings
        self._wholes: dict[Span, Whole | None] = {}
        self._way: list[_Link] = []
        """From the recipe that was asked for to the one that is being laid."""

    def whole(self, recipe: syntax.RecipeNode) -> Whole | None:
        """The recipe with its bases laid under it; None after a finding."""
        if recipe.name_span not in self._wholes:
            self._wholes[recipe.name_span] = self._laid(recipe)
        return self._wholes[recipe.name_span]

    def asked(self, statement: syntax.Import, asker: syntax.RecipeNode) -> Whole | None:
        """The recipe that an import names; None after a finding."""
        found = self._library.find(statement.base, asker, self._findings)
        if found is None:
            return None
        self._way.append(_Link(asker, "imports from", statement.base.span))
        whole = self.whole(found) if self._goes_on(found) else None
        self._way.pop()
        return whole

    def _laid(self, recipe: syntax.RecipeNode) -> Whole | None:
        """The bases first; what a layer imports is laid while the way leads to that layer."""
        start = len(self._way)
        whole: Whole | None = Whole(recipe.name, recipe.name_span)
        last = self._climb(recipe)
        for layer in [last, *(link.recipe for link in reversed(self._way[start:]))]:
            if layer is None or whole is None:
                whole = None
                break
            inherited = layer is not recipe
            laid = Layer(whole, layer, inherited, self, self._findings)
            laid.apply()
            if laid.is_torn:
                whole = None
            if inherited:
                self._way.pop()
        del self._way[start:]
        return whole

    def _climb(self, recipe: syntax.RecipeNode) -> syntax.RecipeNode | None:
        """The last base of a recipe, with the way lengthened up to it; None after a finding."""
        while base := recipe.base:
            found = self._library.find(base, recipe, self._findings)
            if found is None:
                return None
            self._way.append(_Link(recipe, "extends", base.span))
            if not self._goes_on(found):
                return None
            recipe = found
        return recipe

    def _goes_on(self, found: syntax.RecipeNode) -> bool:
        """Whether the way may lead to this recipe: not in a circle, and not for ever."""
        if len(self._way) > LONGEST_CHAIN:
            label = Label(self._way[-1].span, f"{LONGEST_CHAIN} recipes need this one")
            self._findings.add(Diagnostic("E111", "too many recipes need one another", (label,)))
            return False
        recipes = [link.recipe.name_span for link in self._way]
        if found.name_span not in recipes:
            return True
        self._findings.add(_circle(self._way[recipes.index(found.name_span) :]))
        return False


def _circle(links: Sequence[_Link]) -> Diagnostic:
    """The complaint about recipes that need one another, the same whichever was asked for first."""
    start = min(range(len(links)), key=lambda number: _stands(links[number]))
    links = [*links[start:], *links[:start]]
    first, last = links[0], links[-1]
    is_plain = all(link.word == "extends" for link in links)
    labels = [
        Label(link.span, f"`{link.recipe.name}` {link.word} this", link is last) for link in links
    ]
    return Diagnostic(
        "N207" if is_plain else "N217",
        f"`{first.recipe.name}` {'extends' if is_plain else 'imports from'} itself",
        tuple(labels),
        reason=" -> ".join([*(link.recipe.name for link in links), first.recipe.name]),
        fix=Fix("write out in one of them what it takes from the next"),
    )


def _stands(link: _Link) -> tuple[str, int]:
    return link.span.source.name, link.span.start

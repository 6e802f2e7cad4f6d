"""Where a value came from: the chain from its worth back to what somebody wrote."""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from .described import description
from .diagnostics import Diagnostic, Fix, Label, RecipeError, listing, nearest, rename
from .evaluate import settings_of
from .facts import SETTINGS
from .kinds import Model
from .reading import Default
from .recipe import Origin, Recipe
from .source import Source, Span
from .syntax import walk
from .worth import Astray, Found, at, joined, steps_of

Via = Literal["", "inherited", "imported"]
How = Literal["given", "derived", "assumed", "default", "declared", "asserted", "counted"]


@dataclass(frozen=True, slots=True)
class Link:
    """One step of the way to a value.

    The first link is the value that was asked for. One that is `part` of it is the call or list
    that holds it; one that it came `from` was used to compute it; one that it stands `over` is what
    a base, or the recipe below `--set`, says in its place. `depth` tells how far off a link is.
    """

    relation: Literal["is", "part", "from", "over"]
    depth: int
    path: str
    worth: str
    """As a recipe writes it; empty for what was replaced, whose `text` is all that is known."""
    how: How
    text: str
    """What was written: `4 * vit.width`; the expression of a default; empty for a plain default."""
    recipe: str
    """The recipe that says so, or `--set`; empty for a default."""
    via: Via
    """How that recipe's word came here, when it is another one than was asked about."""
    span: Span | None
    owner: str = ""
    """Whose setting or argument it is, where it has a name: `Decoder`, `adamw()`."""
    note: str = ""
    """What it is for."""

    def to_json(self) -> dict[str, Any]:
        """The link for a program; `line` is the whole line of the text."""
        place = self.span.place if self.span else None
        return {
            "relation": self.relation,
            "depth": self.depth,
            "path": self.path,
            "worth": self.worth,
            "how": self.how,
            "text": self.text,
            "recipe": self.recipe,
            "via": self.via,
            "file": self.span.source.name if self.span else None,
            "line": place.line if place else None,
            "column": place.column if place else None,
            "source": self.span.source.line(place.line) if self.span and place else None,
            "owner": self.owner,
            "note": self.note,
        }


def chain(recipe: Recipe, path: str, *, below: int = 0) -> list[Link]:
    """How the value at a path came about, followed to its ends; raises `RecipeError` for no value.

    A path is that of `Facts`: `lm.width`, `image.resize.budget`, `sft.train[0]`, `tokens.im_end`,
    `chatml.user`, `weights.rules[3]`, `asserts[0]`. `below` is how far the links stand below that
    of something which comes from the value.
    """
    walk = _Walk(recipe)
    found = list(walk.links(path, "from" if below else "is", below))
    block, _, name = path.partition(".")
    hidden = f"{block}.{SETTINGS}{name}"
    if hidden in recipe.facts.origins:
        found += walk.links(hidden, "is", 0)
    return found


def paths_of(recipe: Recipe) -> list[str]:
    """Every path that has a chain, in the order of the recipe."""
    return [path for path in recipe.facts.spans if path]


class _Walk:
    """Follows values back to where they were written, each of them once."""

    def __init__(self, recipe: Recipe) -> None:
        self._recipe = recipe
        self._told: set[str] = set()

    def links(self, path: str, relation: Any, depth: int) -> Iterator[Link]:
        """The link of a value, and those that it came from."""
        if path.startswith("asserts[") and path in self._recipe.facts.spans:
            yield from self._assert(path)
            return
        found = at(self._recipe, path)
        if isinstance(found, Astray):
            raise _astray(path, found)
        path = self._written_path(path)
        origin = self._recipe.origin(path)
        if origin is None:
            yield from self._unwritten(path, found, relation, depth)
            return
        yield self._link(path, found, origin, relation, depth)
        if path in self._told:
            return
        self._told.add(path)
        for source in self._recipe.facts.sources.get(path, ()):
            yield from self.links(source, "from", depth + 1)
        before = origin.replaced
        while before:
            yield self._over(path, before, depth + 1)
            before = before.replaced

    def _written_path(self, path: str) -> str:
        """The path as facts have it: a list of one may have been written without its brackets."""
        bare = path.removesuffix("[0]")
        origins = self._recipe.facts.origins
        return bare if path not in origins and bare in origins else path

    def _link(self, path: str, found: Found, origin: Origin, relation: Any, depth: int) -> Link:
        kind = origin.kind
        how: How = "given" if kind == "inherited" or kind == "imported" else kind
        if path == steps_of(path)[0] and path != "language":
            how = "declared"
        text = origin.span.text if origin.span else _default_text(path, found)
        return Link(
            relation,
            depth,
            path,
            worth=str(found) or _on_a_line(text),
            how=how,
            text=text,
            recipe=origin.recipe if origin.span else "",
            via=self._via(origin),
            span=origin.span,
            owner=_owner(found),
            note=_note(found),
        )

    def _via(self, origin: Origin) -> Via:
        """How the word of the recipe that says so came here."""
        if origin.span is None or origin.recipe in (self._recipe.name, "--set"):
            return ""
        return "imported" if origin.imported else "inherited"

    def _over(self, path: str, before: Origin, depth: int) -> Link:
        return Link(
            "over",
            depth,
            path,
            worth="",
            how="given",
            text=before.span.text if before.span else "",
            recipe=before.recipe,
            via=self._via(before),
            span=before.span,
        )

    def _unwritten(self, path: str, found: Found, relation: Any, depth: int) -> Iterator[Link]:
        """What has no place of its own: an argument by default, or a part of a copied value."""
        facts = self._recipe.facts
        whole, inner = self._nearest(path)
        copied = facts.sources.get(whole, ())
        origin = self._recipe.origin(whole)
        assert origin
        how: How = "derived" if copied else "default"
        yield Link(
            relation,
            depth,
            path,
            worth=str(found),
            how=how,
            text=copied[0] + inner if copied else "",
            recipe="",
            via="",
            span=None,
            owner=_owner(found),
            note=_note(found),
        )
        yield from self.links(whole, "part", depth + 1)

    def _nearest(self, path: str) -> tuple[str, str]:
        """The longest beginning of a path whose origin is known, and the rest."""
        steps = steps_of(path)
        for length in range(len(steps) - 1, 0, -1):
            whole = str(steps[0])
            for step in steps[1:length]:
                whole = joined(whole, step)
            if whole in self._recipe.facts.origins:
                return whole, path[len(whole) :]
        raise AssertionError(f"nothing holds {path}")

    def _assert(self, path: str) -> Iterator[Link]:
        comparison = self._recipe.asserts[steps_of(path)[1]].comparison  # type: ignore[index]
        span = comparison.span
        recipe = self._recipe.name
        yield Link("is", 0, path, str(comparison), "asserted", span.text, recipe, "", span)
        for side in (comparison.left, comparison.right):
            for value in walk(side):
                source = str(value)
                if source in self._recipe.facts.origins:
                    yield from self.links(source, "from", 1)


def _on_a_line(text: str) -> str:
    """A statement with one space where there are several, but for those inside its strings."""
    return re.sub(r'("(?:\\.|[^"\\])*")|\s+', lambda piece: piece[1] or " ", text)


def _owner(found: Found) -> str:
    fields = type(found.owner).model_fields if found.owner else {}
    name = "call" if "call" in fields else "type"
    return f"{fields[name].default}{'()' * (name == 'call')}" if name in fields else ""


def _note(found: Found) -> str:
    if found.owner is not None:
        return description(type(found.owner), found.name)
    value = found.value
    return description(type(value)) if isinstance(value, Model) and not str(found) else ""


def _default_text(path: str, found: Found) -> str:
    """The expression that a model states for a setting that was not written."""
    if found.owner is None:
        return ""
    markers = settings_of(type(found.owner))[found.name].metadata
    expressions = [mark.expression for mark in markers if isinstance(mark, Default)]
    return "".join(text.replace("this.", f"{path.split('.')[0]}.") for text in expressions)


def _astray(path: str, found: Astray) -> RecipeError:
    """The complaint about a path that leads nowhere."""
    source = Source("PATH", path)
    start = len(found.good) + (path[len(found.good) : len(found.good) + 1] in (".", "["))
    span = source.span(start, start + len(found.wrong))
    near = nearest(found.wrong, found.known)
    title = f"`{found.good}` has no `{found.wrong}`" if found.good else f"no block `{found.wrong}`"
    known = listing(found.known, 30) if found.known else "nothing inside it"
    fix = rename(span, near) if near else Fix(f"there is {known}")
    return RecipeError([Diagnostic("N204", title, (Label(span),), fix=fix)])

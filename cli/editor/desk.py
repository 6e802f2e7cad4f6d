"""The texts that an editor has open, and what was last made of each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property, lru_cache
from itertools import islice
from pathlib import Path

from ...dsl import syntax
from ...dsl.diagnostics import Findings, RecipeError
from ...dsl.files import SUFFIX, read_text, shipped_recipes
from ...dsl.load import Shelf, finish
from ...dsl.parse import attempt
from ...dsl.recipe import Recipe
from ...dsl.salvage import salvage
from ...dsl.source import Source, Span
from .computed import Computed
from .symbols import Mention, Names, Scope

MOST_NEIGHBOURS = 300
MOST_FOLDERS = 2000
"""So many files, in so many folders, are searched for uses of a name."""


_attempted = lru_cache(maxsize=128)(attempt)


def strict_tree(source: Source) -> syntax.File:
    """The syntax tree of a text; raises `RecipeError`."""
    file, findings = _attempted(source)
    findings.raise_if_any()
    assert file is not None
    return file


@lru_cache(maxsize=128)
def lenient_tree(source: Source) -> syntax.File:
    """The syntax tree of what can be read of a text."""
    return salvage(source, _attempted(source))


@lru_cache(maxsize=1)
def _shipped_folder() -> Path:
    return Path(str(next(iter(shipped_recipes().values())))).resolve().parent


def path_of(source: Source) -> Path:
    """The file that a source is the text of; those that ship are named without their folder."""
    path = Path(source.name)
    if path.is_absolute() or path.parts[:1] != ("recipes",):
        return path.resolve()
    return _shipped_folder() / path.name


def ships(path: Path) -> bool:
    """Whether a file is one of those that come with triptych."""
    return path.parent == _shipped_folder()


@dataclass
class Reading:
    """One version of a text, as far as it can be read."""

    path: Path
    source: Source
    shelf: Shelf
    file: syntax.File
    names: Names
    is_whole: bool
    """Whether all of it could be read."""
    _settled: dict[Span, Recipe | None] = field(default_factory=dict)

    @cached_property
    def mentions(self) -> tuple[Mention, ...]:
        """Every place of the text that names a thing, in the order of the text."""
        found = {
            (mention.span.start, mention.key): mention
            for recipe in self.file.recipes
            for mention in self.names.mentions(recipe)
        }
        return tuple(sorted(found.values(), key=lambda mention: mention.span.start))

    def mention_at(self, offset: int) -> Mention | None:
        """The mention that an offset stands in, or just behind."""
        at = [found for found in self.mentions if found.span.start <= offset <= found.span.end]
        return min(at, key=lambda found: found.span.end - found.span.start, default=None)

    def recipe_at(self, offset: int) -> syntax.RecipeNode | None:
        """The recipe that an offset stands in."""
        return next(
            (node for node in self.file.recipes if node.span.start <= offset <= node.span.end),
            None,
        )

    def scope_at(self, offset: int) -> Scope:
        """The names that are known at an offset."""
        node = self.recipe_at(offset)
        return self.names.scope(node) if node else Scope()

    def recipe(self, node: syntax.RecipeNode) -> Recipe | None:
        """The recipe that a tree stands for; None when it has mistakes."""
        if node.name_span not in self._settled:
            try:
                self._settled[node.name_span] = finish(node, self.shelf, (), Findings())
            except RecipeError:
                self._settled[node.name_span] = None
        return self._settled[node.name_span]


class Desk:
    """The open texts by their files; what is made of a text is kept until some text changes."""

    def __init__(self) -> None:
        self.folders: list[Path] = []
        """The folders that the editor has open."""
        self.unsaved: dict[Path, str] = {}
        self._readings: dict[Path, Reading] = {}
        self._scopes: dict[tuple[Path, str], Scope] = {}
        self._good: dict[tuple[Path, str], Computed] = {}

    def put(self, path: Path, text: str | None) -> None:
        """A text is as the editor has it; None when the file counts again."""
        if text is None:
            self.unsaved.pop(path, None)
        else:
            self.unsaved[path] = text
        self.changed()

    def changed(self) -> None:
        """Some text has changed, here or on disk."""
        self._readings.clear()

    def text(self, path: Path) -> str:
        """A text as it is now; raises `RecipeError` when there is none."""
        unsaved = self.unsaved.get(path)
        return read_text(path) if unsaved is None else unsaved

    def source(self, path: Path) -> Source:
        """The text of a file under the name that `extends` finds it by."""
        name = f"recipes/{path.name}" if ships(path) else str(path)
        return Source(name, self.text(path))

    def reading(self, path: Path) -> Reading:
        """What can be read of a text as it is now; raises `RecipeError` when there is none."""
        if path not in self._readings:
            source = self.source(path)
            shelf = Shelf(dict(self.unsaved), lenient_tree)
            file = shelf.read(source, path.parent)
            self._readings[path] = Reading(
                path, source, shelf, file, Names(shelf), not _attempted(source)[1]
            )
        return self._readings[path]

    def computed(self, reading: Reading, node: syntax.RecipeNode) -> Computed | None:
        """What follows from the recipe as it is now or, while it has mistakes, as it last was."""
        key = (reading.path, node.name)
        found = reading.recipe(node)
        known = self._good.get(key)
        if found is None or (known and known.recipe is found):
            return known
        if known and known.recipe == found:
            known.recipe = found  # it means the same, and knows where its values stand now
        else:
            self._good[key] = Computed(found)
        return self._good[key]

    def scope(self, reading: Reading, node: syntax.RecipeNode | None, name: str) -> Scope:
        """The names of the recipe of this name or, where it cannot be read, those that it had."""
        if node:
            self._scopes[reading.path, node.name] = reading.names.scope(node)
        return self._scopes.get((reading.path, node.name if node else name)) or Scope()

    def known(self, reading: Reading, node: syntax.RecipeNode) -> Computed | None:
        """What followed from the recipe when that was last asked."""
        return self._good.get((reading.path, node.name))

    def is_current(self, reading: Reading, node: syntax.RecipeNode) -> bool:
        """Whether the recipe is that of the text as it is now."""
        return reading.recipe(node) is not None

    def neighbours(self) -> Iterator[Path]:
        """The files in which a name may be used: those that are open, and those beside them."""
        yield from self.unsaved
        seen = set(self.unsaved)
        for folder in {*self.folders, *(path.parent for path in self.unsaved)}:
            for path in _recipe_files(folder):
                if path not in seen:
                    seen.add(path)
                    yield path

    def is_editable(self, path: Path) -> bool:
        """Whether an edit of one file may reach into this one."""
        inside = any(path.is_relative_to(folder) for folder in self.folders)
        return inside or (path in self.unsaved and not ships(path))


def _recipe_files(folder: Path) -> Iterator[Path]:
    """The recipes in a folder and those inside it, but for hidden ones, as far as one may look."""
    walk = islice(os.walk(folder), MOST_FOLDERS)
    found = 0
    for where, folders, names in walk:
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        recipes = [name for name in sorted(names) if name.endswith(SUFFIX)]
        yield from ((Path(where) / name).resolve() for name in recipes)
        found += len(recipes)
        if found >= MOST_NEIGHBOURS:
            return

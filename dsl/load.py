"""From the name of a recipe, or a text, to the recipe itself."""

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType

from . import syntax
from .check import check
from .diagnostics import Diagnostic, Findings, Fix, Label, RecipeError, listing, nearest
from .files import SUFFIX, is_path, read_text, shipped_recipes
from .imports import with_imports
from .limits import MOST_FILES
from .parse import parse, parse_amendments
from .recipe import Recipe
from .resolve import resolve
from .source import LAID_OVER, Source, Span


def load_recipe(
    name_or_path: str, *, amend: Sequence[str] = (), shelf: "Shelf | None" = None
) -> Recipe:
    """The checked recipe of a shipped name, or of a file, `path.vlm` or `path.vlm:recipe`.

    `amend` holds settings such as `lm.width = 64` that are laid over it; files are read through
    `shelf`. Raises `RecipeError` with every mistake in the recipe, its bases and the amendments.
    """
    findings = Findings()
    shelf = shelf or Shelf()
    if is_path(name_or_path):
        node = shelf.from_file(name_or_path, None, findings)
    else:
        node = shelf.shipped(name_or_path, None, findings)
    return finish(node, shelf, amend, findings)


def load_text(text: str, name: str = "<text>", *, amend: Sequence[str] = ()) -> Recipe:
    """The last recipe of a text, which may extend the ones before it; `name` is for messages."""
    findings = Findings()
    shelf = Shelf()
    file = shelf.read(Source(name, text), Path())
    if not file.recipes:
        findings.add(_empty(name, None))
    node = file.recipes[-1] if file.recipes else None
    return finish(node, shelf, amend, findings)


def finish(
    node: syntax.RecipeNode | None, shelf: "Shelf", amend: Sequence[str], findings: Findings
) -> Recipe:
    """The checked recipe of a syntax tree, with `amend` laid over it; raises `RecipeError`."""
    amendments: tuple[syntax.Setting, ...] = ()
    if amend:
        amendments = parse_amendments(Source(LAID_OVER, "\n".join(amend)))
    whole = resolve(node, shelf, findings, amendments) if node else None
    if whole is None:
        findings.raise_if_any()
        raise AssertionError("a recipe that is not found leaves a finding")
    try:
        return check(whole, findings)
    except RecipeError as error:
        raise RecipeError(with_imports(error.diagnostics, whole)) from None
    except RecursionError:
        label = Label(whole.name_span)
        raise RecipeError([Diagnostic("E110", "the values nest too deeply", (label,))]) from None


def recipes_of(name_or_path: str, shelf: "Shelf | None" = None) -> list[str]:
    """What to load for each recipe that a name or file stands for; a file may hold several."""
    name, colon, _ = name_or_path.rpartition(":")
    if not is_path(name_or_path) or (colon and name.endswith(SUFFIX)):
        return [name_or_path]
    shelf, path = shelf or Shelf(), Path(name_or_path)
    file = shelf.read(Source(name_or_path, shelf.text(path)), path.parent)
    if len(file.recipes) < 2:
        return [name_or_path]
    return [f"{name_or_path}:{recipe.name}" for recipe in file.recipes]


parsed = lru_cache(maxsize=128)(parse)
"""As `parse`; a text that several recipes extend is read once."""


class Shelf:
    """Recipe files that have been read, each once; finds the recipes that a recipe names.

    `unsaved` holds, by absolute path, the texts that an editor has in place of those on disk;
    `read_tree` makes the tree of a text.
    """

    def __init__(
        self,
        unsaved: Mapping[Path, str] = MappingProxyType({}),
        read_tree: Callable[[Source], syntax.File] = parsed,
    ) -> None:
        self._unsaved = unsaved
        self._read_tree = read_tree
        self._files: dict[Source, syntax.File] = {}
        self._folders: dict[Source, Path] = {}

    def read(self, source: Source, folder: Path) -> syntax.File:
        """The syntax tree of a source; `folder` is where it looks for the files it names."""
        if source not in self._files:
            if len(self._files) >= MOST_FILES:
                title = f"this recipe reads more than {MOST_FILES} files"
                raise RecipeError([Diagnostic("E112", title, reason=f"the next is {source.name}")])
            self._files[source] = self._read_tree(source)
            self._folders[source] = folder
        return self._files[source]

    @property
    def sources(self) -> tuple[Source, ...]:
        """All texts that have been read so far."""
        return tuple(self._files)

    def text(self, path: Path) -> str:
        """What stands in a file, or in an editor in its place."""
        try:
            unsaved = self._unsaved.get(path.resolve()) if self._unsaved else None
        except (OSError, ValueError):
            unsaved = None  # reading it says why it is no file
        return read_text(path) if unsaved is None else unsaved

    def find(
        self, asked: syntax.Base, asker: syntax.RecipeNode, findings: Findings
    ) -> syntax.RecipeNode | None:
        """The recipe that `extends` or an import names; None after a finding."""
        source = asked.span.source
        if asked.is_file:
            # One name for each file, however a circle of files comes back to it.
            path = os.path.normpath(self._folders[source] / asked.name)
            return self.from_file(path, asked.span, findings)
        beside = self._files[source].recipes
        for recipe in beside:
            if recipe.name == asked.name and recipe is not asker:
                return recipe
        if asked.name == asker.name and asked.name not in shipped_recipes():
            return asker
        return self.shipped(asked.name, asked.span, findings, beside)

    def shipped(
        self,
        name: str,
        asked: Span | None,
        findings: Findings,
        beside: Sequence[syntax.RecipeNode] = (),
    ) -> syntax.RecipeNode | None:
        """A recipe that comes with triptych; None after a finding."""
        recipes = shipped_recipes()
        if name in recipes:
            text = self.text(Path(str(recipes[name])))
            file = self.read(Source(f"recipes/{name}{SUFFIX}", text), Path())
            return _choose(file, name, asked, findings)
        near = nearest(name, [*recipes, *(node.name for node in beside)])
        findings.add(
            Diagnostic(
                "N201",
                f"there is no recipe `{name}`",
                (Label(asked),) if asked else (),
                reason="`triptych list` shows the recipes that ship; a file is named by its path",
                fix=Fix(f"write `{near}`") if near else None,
            )
        )
        return None

    def from_file(
        self, path: str, asked: Span | None, findings: Findings
    ) -> syntax.RecipeNode | None:
        """The recipe of a file; None after a finding."""
        name, colon, recipe = path.rpartition(":")
        if not colon or not name.endswith(SUFFIX):
            name, recipe = path, ""
        try:
            text = self.text(Path(name))
        except RecipeError as error:
            labels = (Label(asked),) if asked else ()
            findings.add(replace(error.diagnostics[0], labels=labels))
            return None
        file = self.read(Source(name, text), Path(name).parent)
        if not file.recipes:
            findings.add(_empty(name, asked))
            return None
        if recipe:
            return _choose(file, recipe, asked, findings)
        names = [node.name for node in file.recipes]
        if len(names) == 1:
            return file.recipes[0]
        if Path(name).stem in names:
            return file.recipes[names.index(Path(name).stem)]
        findings.add(
            Diagnostic(
                "E108",
                f"{name} holds {listing(names)}",
                (Label(asked),) if asked else (),
                fix=Fix(f"say which: `{name}:{names[-1]}`"),
            )
        )
        return None


def _choose(
    file: syntax.File, name: str, asked: Span | None, findings: Findings
) -> syntax.RecipeNode | None:
    for recipe in file.recipes:
        if recipe.name == name:
            return recipe
    near = nearest(name, [recipe.name for recipe in file.recipes])
    findings.add(
        Diagnostic(
            "E108",
            f"{file.source.name} holds no recipe `{name}`",
            (Label(asked),) if asked else (),
            reason=f"it holds {listing(recipe.name for recipe in file.recipes)}",
            fix=Fix(f"write `{near}`") if near else None,
        )
    )
    return None


def _empty(name: str, asked: Span | None) -> Diagnostic:
    return Diagnostic(
        "E108",
        f"{name} holds no recipe",
        (Label(asked),) if asked else (),
        fix=Fix("write `recipe name { language = 1 ... }`, or start with `triptych new name`"),
    )

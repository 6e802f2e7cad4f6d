"""What must be true of any text: an answer that renders, soon; and a form that changes nothing."""

from __future__ import annotations

import gc
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import fields, is_dataclass
from functools import lru_cache
from pathlib import Path
from types import MappingProxyType
from typing import Any

from triptych.compiler.pipeline import prove
from triptych.dsl import syntax
from triptych.dsl.diagnostics import Findings, RecipeError
from triptych.dsl.fixing import mended
from triptych.dsl.format import format_file
from triptych.dsl.load import Shelf, finish, load_text
from triptych.dsl.parse import parse
from triptych.dsl.recipe import Recipe
from triptych.dsl.reports import to_json
from triptych.dsl.source import Source, Span

SECONDS = 2.0
"""What one step may take of a processor."""


def examine(text: str, beside: Mapping[str, str] = MappingProxyType({})) -> str:
    """The codes of what is wrong with a text, "good" when nothing is; fails where a property does.

    Whatever the text is, reading and proving gives a recipe or findings that render, soon. Where it
    follows the grammar, formatting it twice is formatting it once, keeps the meaning of every
    statement and every comment, and gives the same recipe. `beside` holds files that it may extend.
    """
    source = Source("case.vlm", text)
    with soon("parse"):
        try:
            file = parse(source)
        except RecipeError as error:
            return _codes(error)
    recipe, said = _answer(file, beside)
    with soon("format"):
        formatted = format_file(file)
        again = parse(Source("case.vlm", formatted))
        assert format_file(again) == formatted, "formatting twice is not formatting once"
    assert meaning(again.recipes) == meaning(file.recipes), "formatting changes the meaning"
    assert [one.text for one in again.comments] == [one.text for one in file.comments], "comments"
    if recipe is not None:
        assert _loaded(again, beside) == recipe, "the formatted text is another recipe"
    return said


def _answer(file: syntax.File, beside: Mapping[str, str]) -> tuple[Recipe | None, str]:
    recipe = None
    with soon("load and prove"):
        try:
            recipe = _loaded(file, beside)
            prove(recipe)
        except RecipeError as error:
            return recipe, _codes(error)
    return recipe, "good"


def _loaded(file: syntax.File, beside: Mapping[str, str]) -> Recipe:
    """The last recipe of a file that has been parsed."""
    if not file.recipes:
        return load_text(file.source.text, file.source.name)
    unsaved = {Path(name).resolve(): text for name, text in beside.items()}
    shelf = Shelf(unsaved, lambda source: file if source == file.source else _base(source))
    shelf.read(file.source, Path())
    return finish(file.recipes[-1], shelf, (), Findings(file.source))


@lru_cache(maxsize=100)
def _base(source: Source) -> syntax.File:
    """The tree of a base, which many texts extend."""
    return parse(source)


def _codes(error: RecipeError) -> str:
    assert error.render().startswith(("error[", "warning["))
    for found in error.diagnostics:
        to_json(found)
    mended(error.diagnostics, unsafe=True)
    return " ".join(diagnostic.code for diagnostic in error.diagnostics)


@contextmanager
def soon(what: str) -> Iterator[None]:
    """Fails when what is inside takes the processor for long.

    What other tests left does not count: neither their threads nor a walk of the garbage collector
    over their objects, which takes seconds where torch has compiled a lot in this process.
    """
    gc.disable()
    started = time.thread_time()
    try:
        yield
        taken = time.thread_time() - started
    finally:
        gc.enable()
    assert taken < SECONDS, f"{what} took {taken:.1f} s"


def meaning(node: Any) -> Any:
    """The tree without the places; numbers and strings as written."""
    if isinstance(node, tuple):
        return tuple(meaning(member) for member in node)
    if is_dataclass(node):
        return type(node).__name__, *(
            meaning(getattr(node, field.name))
            for field in fields(node)
            if not isinstance(getattr(node, field.name), Span)
        )
    return node

"""What a machine can write into a recipe to mend it: in its author's text, never in a base's."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator

from ..dsl.diagnostics import Edit
from ..dsl.recipe import Recipe
from ..dsl.source import Span


def stated(recipe: Recipe, path: str, text: str) -> tuple[Edit, ...]:
    """Gives a setting another value, or writes it; nothing where a base alone speaks of it."""
    block, _, setting = path.partition(".")
    span = recipe.facts.spans.get(path)
    if span is not None and span != recipe.span(block):
        return (Edit(span, text),) if _is_home(recipe, span) else ()
    return _added(recipe, block, f"{setting} = {text}") if "." not in setting else ()


def replaced(recipe: Recipe, path: str, text: str) -> tuple[Edit, ...]:
    """Writes something else where a value stands in the author's own text."""
    span = recipe.span(path)
    return (Edit(span, text),) if span is not None and _is_home(recipe, span) else ()


def listed(recipe: Recipe, path: str, names: Iterable[str]) -> tuple[Edit, ...]:
    """Adds members to the list that a setting is, or may be."""
    block, new = path.partition(".")[0], ", ".join(names)
    span = recipe.facts.spans.get(path)
    if span is None or span == recipe.span(block):
        return stated(recipe, path, f"[{new}]")
    if "(" in span.text:
        return ()  # `assumed([...])`, or a call: what is added may be no part of that
    present = span.text.removeprefix("[").removesuffix("]").strip().rstrip(",")
    return stated(recipe, path, f"[{present}, {new}]" if present else f"[{new}]")


def amended(recipe: Recipe, path: str) -> tuple[Edit, ...]:
    """Writes `amend` before a setting of the author's own text."""
    span = recipe.facts.spans.get(path)
    if span is None or not _is_home(recipe, span):
        return ()
    before = span.source.text[: span.start]
    name = re.search(rf"\b{re.escape(path.rpartition('.')[2])}\s*=\s*$", before)
    return (Edit(Span(span.source, name.start(), name.start()), "amend "),) if name else ()


def numbered(recipe: Recipe, special: str, id: int) -> tuple[Edit, ...]:
    """Gives a special token of the author's own text another id."""
    span = recipe.facts.spans.get(f"tokens.{special}")
    found = re.search(r"@\s*(\d+)\s*$", span.text) if span and _is_home(recipe, span) else None
    if span is None or found is None:
        return ()
    return (
        Edit(Span(span.source, span.start + found.start(1), span.start + found.end(1)), str(id)),
    )


def _added(recipe: Recipe, block: str, line: str) -> tuple[Edit, ...]:
    """Writes a setting behind the first that the author's text gives a block, or at its head."""
    header, spans = recipe.span(block), recipe.facts.spans
    settings = (span for path, span in spans.items() if path.rpartition(".")[0] == block)
    own = next((s for s in settings if s != header and _is_home(recipe, s)), None)
    if own is not None:
        return (Edit(Span(own.source, own.end, own.end), f"\n    {line}"),)
    if header is None or not _is_home(recipe, header):
        return ()
    brace = header.source.text.find("{", header.end) + 1
    return (Edit(Span(header.source, brace, brace), f"\n    {line}"),) if brace else ()


def _is_home(recipe: Recipe, span: Span) -> bool:
    named = recipe.span("")
    return named is not None and span.source == named.source


def selectors_of(names: Collection[str], every: Iterable[str]) -> list[str]:
    """The shortest selectors that take these parameters, of all that a model has, and no others.

    >>> every = ["vit.embed", "vit.blocks.0.w", "vit.blocks.1.w", "vit.blocks.2.w", "lm.w"]
    >>> selectors_of(["vit.embed", "vit.blocks.1.w", "vit.blocks.2.w", "lm.w"], every)
    ['vit.embed', 'vit.blocks[1..2]', 'lm']
    >>> every = [f"vit.blocks.{number}.{name}" for number in "01" for name in "ab"]
    >>> selectors_of(["vit.blocks.0.b", "vit.blocks.1.b"], every)
    ['vit.blocks.b']
    """
    chosen = frozenset(names)
    return list(_selectors("", [(tuple(name.split(".")), name in chosen) for name in every]))


_Words = tuple[tuple[str, ...], bool]
"""What is left of a parameter's name below a path, and whether it is to be taken."""


def _selectors(path: str, below: list[_Words]) -> Iterator[str]:
    """The selectors at and below a path."""
    if path and all(taken for _, taken in below):
        yield path
        return
    alike = _alike(below)
    if alike:
        yield from _selectors(path, alike)
        return
    children = dict[str, list[_Words]]()
    for words, taken in below:
        children.setdefault(words[0], []).append((words[1:], taken))
    run = list[int]()
    for word, child in children.items():
        if word.isdigit() and all(taken for _, taken in child):
            run.append(int(word))
            continue
        yield from _run(path, run)
        run = []
        inner = f"{path}[{word}..{word}]" if word.isdigit() else f"{path}.{word}".lstrip(".")
        if any(taken for _, taken in child):
            yield from _selectors(inner, child)
    yield from _run(path, run)


def _alike(below: list[_Words]) -> list[_Words]:
    """What stands below each number, where it is the same below all of them; else nothing."""
    found = dict[tuple[str, ...], set[bool]]()
    for words, taken in below:
        if not words[0].isdigit():
            return []
        found.setdefault(words[1:], set()).add(taken)
    agreed = all(len(taken) == 1 for taken in found.values())
    return [(words, True in taken) for words, taken in found.items()] if agreed else []


def _run(path: str, numbers: list[int]) -> Iterator[str]:
    if numbers:
        yield f"{path}[{numbers[0]}..{numbers[-1]}]"

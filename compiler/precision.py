"""What each part of a model computes in: all of it in one precision, or each part in its own."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ..dsl.diagnostics import Diagnostic, Findings, Fix, listing, nearest
from ..dsl.kinds import Selector, SelectorStep
from ..dsl.precision import InPart, Word
from ..dsl.recipe import Recipe
from .build import build
from .places import labels

COARSEST: Sequence[Word] = ("bf16", "f16", "f32")
"""The precisions, from the one with the fewest digits on."""


def by_part(said: Word | Sequence[InPart]) -> Mapping[str, Word]:
    """The precision of each part; empty where the whole model has one."""
    return {} if isinstance(said, str) else {entry.target.part: entry.call for entry in said}


def of_part(said: Word | Sequence[InPart], part: str) -> Word:
    """The precision of one part."""
    return said if isinstance(said, str) else by_part(said).get(part, coarsest(said))


def coarsest(said: Word | Sequence[InPart]) -> Word:
    """The precision with the fewest digits that any part has."""
    words = {said} if isinstance(said, str) else set(by_part(said).values())
    return next(word for word in COARSEST if word in words)


def in_words(said: Word | Sequence[InPart]) -> str:
    """As a recipe writes it: `bf16`, `bf16(lm), f32(vit)`."""
    return said if isinstance(said, str) else ", ".join(map(str, said))


def prove_precisions(recipe: Recipe, findings: Findings) -> None:
    """Each part of a stage or a mode that goes by parts computes in exactly one precision."""
    for name, stage in recipe.stages.items():
        _prove(recipe, f"{name}.precision", stage.precision, findings)
    for name, mode in recipe.modes.items():
        _prove(recipe, f"{name}.target.precision", mode.target.precision, findings)


def _prove(recipe: Recipe, path: str, said: Word | Sequence[InPart], findings: Findings) -> None:
    if isinstance(said, str):
        return
    parameters = build(recipe).parameters()
    parts = list(dict.fromkeys(name.partition(".")[0] for name in parameters))
    first = dict[str, str]()
    wrong = False
    for index, entry in enumerate(said):
        here = f"{path}[{index}]"
        found = _misplaced(recipe, here, entry, parts, list(parameters))
        if found is None and entry.target.part in first:
            found = _twice(recipe, here, first[entry.target.part], entry)
        if found:
            findings.add(found)
            wrong = True
        first.setdefault(entry.target.part, here)
    missing = [part for part in parts if part not in first]
    if missing and not wrong:
        findings.add(
            Diagnostic(
                "F618",
                f"nothing says what {listing(missing)} {_computes(missing)} in",
                labels(
                    recipe,
                    (path, "not among these"),
                    *((part, "declared here") for part in missing),
                ),
                "where precision goes by parts each is named, so that none has one by accident",
                Fix("add " + listing(f"f32({part})" for part in missing)),
            )
        )


def _misplaced(
    recipe: Recipe, path: str, entry: InPart, parts: Sequence[str], parameters: Sequence[str]
) -> Diagnostic | None:
    """The complaint that an entry names something else than a whole part."""
    selector, call = entry.target, entry.call
    if selector.part in parts and len(selector.parts) == 1 and selector.parts[0].first is None:
        return None
    if selector.part in parts:
        return Diagnostic(
            "F618",
            f"`{selector}` is not a whole part",
            labels(
                recipe,
                (path, "a precision is that of a whole part"),
                (selector.part, f"all of `{selector.part}` computes in one"),
            ),
            "numbers are brought from one precision to another between parts, never inside one",
            Fix(f"write `{call}({selector.part})`"),
        )
    reached = list(_reached(selector, parts, parameters))
    if recipe.block(selector.part) is not None and not reached:
        return Diagnostic(
            "F618",
            f"`{selector.part}` has no parameters",
            labels(
                recipe,
                (path, "it computes in what it is given"),
                (selector.part, "declared here"),
            ),
            fix=Fix("leave it out"),
        )
    here = (path, "this takes the name of a part")
    if not reached:
        near = nearest(selector.part, parts)
        written = [f"{call}({part})" for part in ([near] if near else parts)]
        return Diagnostic(
            "F618",
            f"`{selector}` names no part",
            labels(recipe, here),
            fix=Fix(f"write {listing(written, last='or')}"),
        )
    return Diagnostic(
        "F618",
        f"`{selector}` names no part, and would reach {listing(reached)}",
        labels(recipe, here, *((part, f"`{part}.{selector}` is in here") for part in reached)),
        "what goes by the names of modules is done to every part that has such names, a vision "
        "tower too",
        Fix("write " + listing((f"{call}({part})" for part in reached), last="or")),
    )


def _reached(selector: Selector, parts: Sequence[str], parameters: Sequence[str]) -> Iterator[str]:
    """The parts that have something of this name below them."""
    for part in parts:
        below = Selector(text="", parts=(SelectorStep(name=part), *selector.parts))
        if any(below.matches(name) for name in parameters):
            yield part


def _twice(recipe: Recipe, here: str, there: str, entry: InPart) -> Diagnostic:
    return Diagnostic(
        "F618",
        f"`{entry.target}` is in two precisions",
        labels(recipe, (here, "said here"), (there, "and here")),
        "a part computes in one precision",
        Fix("leave one of them out"),
    )


def _computes(parts: Sequence[str]) -> str:
    return "compute" if len(parts) > 1 else "computes"

"""Layouts say what is learnt, where an answer ends, and never learn the places of features."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from ...dsl.diagnostics import Diagnostic, Edit, Findings, Fix, listing
from ...dsl.recipe import Recipe
from ...dsl.source import Span
from ...dsl.texts import (
    CornersItem,
    Layout,
    LayoutItem,
    LossItem,
    RepeatItem,
    Rule,
    RuleItem,
    SlotItem,
    SpecialItem,
    TextItem,
    end_of,
    has_content,
    items_within,
)
from ..build import reach
from ..places import changed, labels
from ..repairs import stated
from ..tokens import TURNS

ANSWERS = ("assistant", "pair", "text")
"""The rules that hold what a model is to write."""


def prove_layouts(recipe: Recipe, findings: Findings) -> None:
    """Gather what is wrong with the layouts that a stage or a mode uses."""
    for diagnostic in _without_loss(recipe):
        findings.add(diagnostic)
    used = {name for stage in recipe.stages.values() for name in stage.layouts}
    used |= {mode.layout for mode in recipe.chats.values()}
    for name, layout in recipe.layouts.items():
        if name not in used:
            continue
        for rule in layout.rules.values():
            for diagnostic in _rule(recipe, name, rule):
                findings.add(diagnostic)


def _without_loss(recipe: Recipe) -> Iterator[Diagnostic]:
    """A stage that learns the next token, or a mode that writes it, needs to know where."""
    uses = [
        (f"stage `{name}`", f"{name}.layout", layout)
        for name, stage in recipe.stages.items()
        if "lm" in stage.loss
        for layout in stage.layouts
    ]
    uses += [
        (f"mode `{name}`", f"{name}.layout", mode.layout) for name, mode in recipe.chats.items()
    ]
    for layout in dict.fromkeys(name for _, _, name in uses):
        rules = recipe.layouts[layout].rules.values()
        if any(isinstance(item, LossItem) for rule in rules for item in rule.items):
            continue
        yield Diagnostic(
            "L705",
            f"layout `{layout}` has no loss",
            labels(
                recipe,
                (changed(recipe, layout), "no rule of it marks what is learnt"),
                *((path, f"{user} uses it") for user, path, name in uses if name == layout),
            ),
            "what stands inside `loss(...)` is learnt, and is what the model writes later",
            _marked(recipe, layout),
        )


def _marked(recipe: Recipe, layout: str) -> Fix:
    """How to mark what is learnt: the answer, and the special token right behind it."""
    rules = recipe.layouts[layout].rules
    for name in (name for name in ANSWERS if name in rules):
        span = recipe.span(f"{layout}.{name}")
        for answer, end in pairwise(rules[name].items):
            if span is None or not isinstance(answer, SlotItem) or not isinstance(end, SpecialItem):
                continue
            found = re.compile(rf"(?<!\w){answer.parameter}\s+{end.special}\b").search(
                span.text, span.text.index("->")
            )
            text = f"loss({answer.parameter} {end.special})"
            edits = () if found is None else (_replaced(span, found, text),)
            return Fix(f"put the answer and its end into a loss: `{text}`", edits, safe=False)
    return Fix("put the answer and its end into a loss: `assistant(b) -> ... loss(b im_end)`")


def _rule(recipe: Recipe, layout: str, rule: Rule) -> Iterator[Diagnostic]:
    for item in items_within(rule.items):
        match item:
            case LossItem():
                yield from _loss(recipe, layout, rule, item)
            case RepeatItem() if rule.name in TURNS:
                yield _counted_turn(recipe, layout, rule.name, item)
            case RepeatItem() if recipe.lm:
                yield from _places(recipe, layout, rule.name, item)
            case CornersItem() if recipe.layouts[layout].coordinates is None:
                yield Diagnostic(
                    "L712",
                    f"`{layout}.{rule.name}` writes coordinates, and nothing says how",
                    labels(recipe, (f"{layout}.{rule.name}", "they are written here")),
                    fix=Fix(
                        "write `coordinates = thousandths()`",
                        stated(recipe, f"{layout}.coordinates", "thousandths()"),
                        safe=False,
                    ),
                )


def _counted_turn(recipe: Recipe, layout: str, rule: str, item: RepeatItem) -> Diagnostic:
    return Diagnostic(
        "L703",
        f"`{layout}.{rule}` counts the tokens of a turn",
        labels(recipe, (f"{layout}.{rule}", f"`{item.count}` is all that somebody says")),
        "a turn holds text, pictures and clips in their order; each picture writes its own places",
        Fix("keep the places in the rule of the picture: `image(x) -> ... * x.tokens ...`"),
    )


def _places(recipe: Recipe, layout: str, rule: str, item: RepeatItem) -> Iterator[Diagnostic]:
    """Places are kept for features that the language model takes, and it is plain for which."""
    assert recipe.lm
    taken = [source.part for source in recipe.lm.in_]
    seeing = [part for part in taken if rule not in recipe.inputs or rule in reach(recipe)[part]]
    place = (f"{layout}.{rule}", f"`{item.count}.{item.part or 'tokens'}` is counted here")
    if item.part is not None and item.part not in taken:
        yield Diagnostic(
            "L711",
            f"`{layout}.{rule}` keeps places for `{item.part}`",
            labels(recipe, place, ("lm.in", "the language model takes none of its features")),
            fix=Fix(f"add `{item.part}` to `lm.in`, or count `{item.count}.tokens`"),
        )
    elif item.part is None and len(seeing) > 1:
        yield Diagnostic(
            "L711",
            f"`{layout}.{rule}` does not say whose features take its places",
            labels(recipe, place, ("lm.in", "the language model takes those of several parts")),
            fix=Fix(f"count {listing((f'{item.count}.{part}' for part in seeing), last='or')}"),
        )


def _loss(recipe: Recipe, layout: str, rule: Rule, loss: LossItem) -> Iterator[Diagnostic]:
    ends = isinstance(loss.items[-1], SpecialItem | TextItem) if loss.items else False
    if end_of(loss) is None if has_content(loss) else not ends:
        yield Diagnostic(
            "L706",
            f"the loss of `{layout}.{rule.name}` does not end in a special token or in fixed text",
            labels(
                recipe,
                (f"{layout}.{rule.name}", "nothing in it says that the answer is over"),
                _first_use(recipe, layout),
            ),
            "a model that never learns where to stop never stops",
            _ended(recipe, layout, rule, loss),
        )
    if _has_places(recipe.layouts[layout], loss.items):
        yield Diagnostic(
            "L707",
            f"the loss of `{layout}.{rule.name}` covers the places of features",
            labels(recipe, (f"{layout}.{rule.name}", "a picture or a clip stands inside the loss")),
            "those places hold features, not tokens: there is nothing to predict",
            Fix("move it out of the loss"),
        )


def _first_use(recipe: Recipe, layout: str) -> tuple[str, str]:
    """Where a layout is first used, and by what."""
    stages = (name for name, stage in recipe.stages.items() if layout in stage.layouts)
    stage = next(stages, None)
    if stage is not None:
        return f"{stage}.layout", f"stage `{stage}` learns to answer by it"
    mode = next(name for name, mode in recipe.chats.items() if mode.layout == layout)
    return f"{mode}.layout", f"mode `{mode}` answers by it"


def _ended(recipe: Recipe, layout: str, rule: Rule, loss: LossItem) -> Fix:
    """How to give a loss its end: the special token right behind it, where there is one."""
    behind, span = rule.items[rule.items.index(loss) + 1 :], recipe.span(f"{layout}.{rule.name}")
    if not behind or not isinstance(behind[0], SpecialItem) or span is None:
        return Fix("end the loss with a special token: `loss(b im_end)`")
    token = behind[0].special
    found = re.search(rf"loss\(([^()]*)\)\s+{token}\b", span.text)
    edits = [] if found is None else [_replaced(span, found, f"loss({found[1]} {token})")]
    return Fix(f"move `{token}` into the loss, where it is learnt", tuple(edits), safe=False)


def _replaced(span: Span, found: re.Match[str], text: str) -> Edit:
    return Edit(Span(span.source, span.start + found.start(), span.start + found.end()), text)


def _has_places(layout: Layout, items: Iterable[LayoutItem]) -> bool:
    return any(
        isinstance(item, RepeatItem)
        or (isinstance(item, RuleItem) and _has_places(layout, layout.rules[item.rule].items))
        for item in items_within(items)
    )

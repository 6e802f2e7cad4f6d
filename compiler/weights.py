"""Names of published tensors and ours: a total map that can be read both ways."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache

from ..dsl.diagnostics import Diagnostic, Findings, Fix
from ..dsl.recipe import MapRule, Recipe
from .build import build
from .places import labels


@dataclass(frozen=True)
class Names:
    """For each parameter the published tensor that holds it, and what else may be there.

    `published` is in the order of the model. `ignored` lists patterns of published tensors that
    have no place in the model, with the reason.
    """

    published: Mapping[str, str]
    ignored: tuple[tuple[str, str], ...]

    @property
    def ours(self) -> dict[str, str]:
        """From published name to parameter."""
        return {published: name for name, published in self.published.items()}

    def reason_to_ignore(self, published: str) -> str | None:
        """Why a published tensor has no place; None when it should have one."""
        for pattern, reason in self.ignored:
            if _regex(pattern).fullmatch(published):
                return reason
        return None


def names(recipe: Recipe) -> Names:
    """The map of a recipe's weights; RecipeError where it is not one to one.

    A recipe without weights keeps the names of its parameters.
    """
    findings = Findings()
    found = map_names(recipe, findings)
    findings.raise_if_any()
    return found


def prove_weights(recipe: Recipe, findings: Findings) -> None:
    """Gather where the map is not one to one."""
    map_names(recipe, findings)


def map_names(recipe: Recipe, findings: Findings) -> Names:
    """The same, with the mistakes gathered."""
    parameters = build(recipe).parameters()
    if recipe.weights is None:
        return Names({name: name for name in parameters}, ())
    rules = recipe.weights.rules
    uneven = [rule for rule in rules if rule.source.count("*") != rule.target.count("*")]
    for rule in uneven:
        findings.add(_uneven(recipe, rules.index(rule), rule))
    placed, taken = dict[str, str](), dict[str, int]()
    homeless, clashes = list[str](), dict[tuple[int, int], list[str]]()
    for name in parameters:
        matching = [
            (index, source)
            for index, rule in enumerate(rules)
            if (source := rewrite(name, rule.target, rule.source)) is not None
        ]
        if not matching:
            if not any(_regex(rule.target).fullmatch(name) for rule in uneven):
                homeless.append(name)
            continue
        index, source = matching[0]
        if len(matching) > 1:
            clashes.setdefault((index, matching[1][0]), []).append(name)
        if source in taken:
            clashes.setdefault((taken[source], index), []).append(source)
        placed[name], taken[source] = source, index
    for pair, claimed in clashes.items():
        findings.add(_twice(recipe, pair, claimed))
    if homeless:
        findings.add(_homeless(recipe, homeless))
    ignored = tuple((rule.pattern, rule.reason) for rule in recipe.weights.ignored)
    return Names(placed, ignored)


def rewrite(name: str, pattern: str, into: str) -> str | None:
    """The name with what each `*` of `pattern` caught put into `into`; None when it does not match.

    >>> rewrite("lm.blocks.3.norm1.weight", "lm.blocks.*.norm1.*", "model.layers.*.input_norm.*")
    'model.layers.3.input_norm.weight'
    """
    caught = _regex(pattern).fullmatch(name)
    if caught is None or len(caught.groups()) != into.count("*"):
        return None
    pieces = into.split("*")
    return pieces[0] + "".join(
        group + piece for group, piece in zip(caught.groups(), pieces[1:], strict=True)
    )


@cache
def _regex(pattern: str) -> re.Pattern[str]:
    return re.compile("(.+)".join(map(re.escape, pattern.split("*"))))


def _uneven(recipe: Recipe, index: int, rule: MapRule) -> Diagnostic:
    left, right = rule.source.count("*"), rule.target.count("*")
    return Diagnostic(
        "W803",
        "the two sides of this rule do not catch the same",
        labels(
            recipe,
            (f"weights.rules[{index}]", f"{left} `*` on the left, {right} on the right"),
        ),
        "what each `*` catches is put in the place of the one on the other side",
        Fix("write as many `*` on both sides"),
    )


def _twice(recipe: Recipe, rules: tuple[int, int], claimed: list[str]) -> Diagnostic:
    more = f", and {len(claimed) - 1:,} more" if len(claimed) > 1 else ""
    return Diagnostic(
        "W802",
        f"two rules claim `{claimed[0]}`{more}",
        labels(
            recipe,
            (f"weights.rules[{rules[1]}]", "this rule claims it"),
            (f"weights.rules[{rules[0]}]", "and so does this one"),
        ),
        "each parameter has one published tensor, and the other way round",
        Fix("narrow one of the two patterns"),
    )


def _homeless(recipe: Recipe, missing: list[str]) -> Diagnostic:
    more = f", and {len(missing) - 1:,} more" if len(missing) > 1 else ""
    return Diagnostic(
        "W801",
        f"no rule says where `{missing[0]}` comes from{more}",
        labels(recipe, ("weights", "every parameter needs a published name here")),
        "weights are loaded by a total map: a parameter without a rule would stay random unseen",
        Fix('add a rule: `map "published.name.*" -> "' + missing[0].rpartition(".")[0] + '.*"`'),
    )

"""What follows from a recipe and takes a while to find: shapes, parameters, stages, tokens."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

from ...compiler.build import build, reach
from ...compiler.ops import Input, Param
from ...compiler.pipeline import model
from ...compiler.plan import Plan, by_part, count, plan
from ...compiler.tokens import domain, item_tokens, meaning_of, rule_cost
from ...compiler.types import Size, bounds, substitute
from ...dsl import syntax
from ...dsl.diagnostics import RecipeError
from ...dsl.kinds import Selector
from ...dsl.reading import selector
from ...dsl.recipe import Recipe


@dataclass
class Computed:
    """A recipe, and what follows from it; each found once, and None where a proof fails."""

    recipe: Recipe

    def prepare(self) -> None:
        """Find it all."""
        _ = self.shapes, self.modules, self.plan

    @cached_property
    def shapes(self) -> Mapping[str, tuple[str, ...]]:
        """From a part to what it takes and yields, a line for each way through it."""
        try:
            graph = model(self.recipe)
        except RecipeError:
            return {}
        parts = (*self.recipe.encoders, *self.recipe.adapters, "lm")
        taken: dict[tuple[str, str], dict[str, None]] = {}
        yields: dict[tuple[str, str], str] = {}
        for node in graph:
            if isinstance(node.op, Input):
                continue
            name, _, route = node.name.partition("@")
            key = (name.partition(".")[0], route)
            yields[key] = str(node.type)
            for source in map(graph.__getitem__, node.inputs):
                owner = source.name.partition("@")[0].partition(".")[0]
                if owner == key[0] or (owner not in parts and taken.get(key)):
                    continue
                taken.setdefault(key, {})[f"`{source.name}` {source.type}"] = None
        found: dict[str, tuple[str, ...]] = {}
        for (part, route), out in yields.items():
            into = ", ".join(taken.get((part, route), ()))
            line = f"{into} → {out}" if into else out
            found[part] = (*found.get(part, ()), line)
        return found

    @cached_property
    def tensors(self) -> Mapping[str, Param]:
        """Every parameter by name; none where parts do not fit."""
        try:
            return build(self.recipe).parameters()
        except RecipeError:
            return {}

    @cached_property
    def plan(self) -> Plan | None:
        """What each stage makes of the parameters."""
        try:
            return plan(self.recipe)
        except RecipeError:
            return None

    def parameters(self, part: str) -> tuple[int, int]:
        """How many numbers a part holds, and the whole model."""
        return by_part(self.tensors).get(part, 0), count(self.tensors)

    def states(self, part: str) -> dict[str, str]:
        """What becomes of a part in each stage: `trained`, `frozen`, or how much of both."""
        found = {}
        for stage in self.plan.stages if self.plan else ():
            covered = stage.coverage
            trained = by_part(covered.trained).get(part, 0)
            frozen = by_part(covered.frozen).get(part, 0)
            adapted = by_part(covered.added).get(part, 0)
            state = "trained" if not frozen else "frozen"
            if trained and frozen:
                state = f"{trained:,} trained, {frozen:,} frozen"
            if adapted:
                state += f", {adapted:,} added by adaptation"
            if trained or frozen:
                found[stage.name] = state
        return found

    def selected(self, path: syntax.Path) -> int | None:
        """How many numbers a selector such as `vit.blocks[0..3].attn` names; None for none."""
        chosen = Selector.model_validate(selector(path))
        matched = {n: one for n, one in self.tensors.items() if chosen.matches(n)}
        return count(matched) or None

    @cached_property
    def modules(self) -> frozenset[str]:
        """Every path that a selector may take, without numbers: `vit.blocks.attn`."""
        found = set[str]()
        for name in self.tensors:
            steps = [step for step in name.split(".") if not step.isdigit()]
            found |= {".".join(steps[:length]) for length in range(1, len(steps) + 1)}
        return frozenset(found)

    def numbered(self, path: str) -> int:
        """How many numbered members a path without numbers has: the depth of `vit.blocks`."""
        highest = -1
        start = len(path.split("."))
        for name in self.tensors:
            steps = name.split(".")
            inside = len(steps) > start and steps[start].isdigit()
            if inside and ".".join(steps[:start]) == path:
                highest = max(highest, int(steps[start]))
        return highest + 1

    def tokens(self, part: str) -> dict[str, str]:
        """From an input to the tokens that a part makes of it: bounds and closed form."""
        recipe, found = self.recipe, dict[str, str]()
        if part == "lm":
            return found
        for medium in reach(recipe).get(part, ()):
            try:
                size = item_tokens(recipe, medium, None if part == medium else part)
            except RecipeError:
                continue
            found[medium] = bounded(size, recipe)
        return found

    def rule(self, layout: str, rule: str) -> str:
        """The tokens that a rule of a layout writes: closed form and bounds."""
        cost = rule_cost(self.recipe, self.recipe.layouts[layout], rule)
        places = substitute(cost.places, meaning_of(self.recipe))
        text = "" if cost.is_exact else f", and {cost.text} of text"
        return f"{bounded(places, self.recipe)}{text}"


def bounded(size: Size, recipe: Recipe) -> str:
    """A number of tokens, or from where to where it goes, and by which formula."""
    limits = bounds(size, domain(recipe))
    if limits.most == limits.least:
        return f"{limits.most:,}"
    most = "any number" if limits.most is None else f"{limits.most:,}"
    return f"{limits.least:,} to {most}: `{size}`"

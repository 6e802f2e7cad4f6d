"""What differs between two models: in weights, tokens, prompts, numerics and stages.

Differences of the parts are read from the operations of both graphs, so a setting counts as one of
weights exactly when changing it alone changes the name or the shape of a parameter.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, fields, replace
from itertools import zip_longest
from typing import Any, Literal, TypeVar

from pydantic import BaseModel

from ..dsl.kinds import Amount, CallModel, Grid, PartModel, Range, Selector
from ..dsl.recipe import Recipe
from ..dsl.texts import (
    ApartItem,
    ChoiceItem,
    CornersItem,
    IndexItem,
    LayoutItem,
    LossItem,
    RepeatItem,
    Rule,
    RuleItem,
    SlotItem,
    SpecialItem,
    TextItem,
)
from .build import build
from .graph import Graph
from .ops import Input, Operation, Param
from .plan import by_part, count
from .weights import names

Group = Literal["WEIGHTS", "TOKENS", "PROMPTS", "NUMERICS", "STAGES"]
GROUPS: tuple[Group, ...] = ("WEIGHTS", "TOKENS", "PROMPTS", "NUMERICS", "STAGES")
"""What an edit touches, in the order in which edits are told."""


@dataclass(frozen=True)
class Edit:
    """One difference: what stood at a path, and what stands there now (None: nothing).

    `derived` says that the new value follows from another one.
    """

    group: Group
    path: str
    old: str | None
    new: str | None
    derived: bool = False

    def __str__(self) -> str:
        if self.old is None:
            return f"+ {self.path}  {self.new}".rstrip()
        if self.new is None:
            return f"- {self.path}  {self.old}".rstrip()
        note = "  (derived)" if self.derived else ""
        return f"{self.path}  {self.old} -> {self.new}{note}"


@dataclass(frozen=True)
class Part:
    """The parameters of one part in both models, and how many the new one can take over."""

    name: str
    old: int
    new: int
    reusable: int


@dataclass(frozen=True)
class Difference:
    """All edits from one model to another, and what it means for their weights.

    `reusable` names the parameters of the new model whose published tensor has the same name and
    shape in both.
    """

    old: str
    new: str
    edits: tuple[Edit, ...]
    parts: tuple[Part, ...]
    reusable: tuple[str, ...]

    def __bool__(self) -> bool:
        return bool(self.edits)

    @property
    def same(self) -> tuple[str, ...]:
        """What no edit touches: groups, and parts whose parameters are all reusable."""
        touched = {edit.group for edit in self.edits}
        parts = [f"{part.name} ({part.new:,} reusable)" for part in self.parts if _kept(part)]
        groups = [group.lower() for group in GROUPS[1:] if group not in touched]
        return (*parts, *groups)

    def to_json(self) -> dict[str, Any]:
        """Plain data, for other programs."""
        return {
            "old": self.old,
            "new": self.new,
            "edits": [
                {
                    "group": edit.group.lower(),
                    "path": edit.path,
                    "old": edit.old,
                    "new": edit.new,
                    "derived": edit.derived,
                }
                for edit in self.edits
            ],
            "parts": {
                part.name: {"old": part.old, "new": part.new, "reusable": part.reusable}
                for part in self.parts
            },
            "reusable_tensors": len(self.reusable),
        }


def _kept(part: Part) -> bool:
    return part.old == part.new == part.reusable > 0


def diff(old: Recipe, new: Recipe) -> Difference:
    """The edits that lead from one recipe's model to the other's."""
    graphs = build(old), build(new)
    edits = (
        *_parts(old, new),
        *_operations(new, *graphs, _exchanged(old, new)),
        *_weights(old, new),
        *_inputs(old, new),
        *_prompts(old, new),
        *_positions(old, new),
        *_stages(old, new),
    )
    parameters = graphs[0].parameters(), graphs[1].parameters()
    reusable = _reusable(old, new, *parameters)
    before, after = by_part(parameters[0]), by_part(parameters[1])
    kept = by_part({name: parameters[1][name] for name in reusable})
    parts = tuple(
        Part(name, before.get(name, 0), after.get(name, 0), kept.get(name, 0))
        for name in before | after
    )
    # A setting that several operations share is one edit, in the first of the groups it falls into.
    unique: dict[tuple[str, str | None, str | None], Edit] = {}
    for edit in sorted(edits, key=lambda edit: GROUPS.index(edit.group)):
        unique.setdefault((edit.path, edit.old, edit.new), edit)
    return Difference(
        old.name,
        new.name,
        tuple(unique.values()),
        parts,
        tuple(reusable),
    )


def _reusable(
    old: Recipe, new: Recipe, before: Mapping[str, Param], after: Mapping[str, Param]
) -> list[str]:
    given = {place: before[name].shape for name, place in names(old).places.items()}
    wanted = names(new).places
    return [name for name, param in after.items() if given.get(wanted[name]) == param.shape]


_Named = TypeVar("_Named")


def _paired(
    before: Mapping[str, _Named], after: Mapping[str, _Named]
) -> Iterator[tuple[str | None, str | None]]:
    """The names of things that stand for one another: those of one name, then the rest in order."""
    for name in before.keys() & after.keys():
        yield name, name
    yield from zip_longest(
        (name for name in before if name not in after),
        (name for name in after if name not in before),
    )


def _exchanged(old: Recipe, new: Recipe) -> frozenset[str]:
    """The parts that only one of the models has, or that are of another type in the other."""
    found = set[str]()
    for kind in ("encoders", "adapters"):
        before, after = getattr(old, kind), getattr(new, kind)
        for one, other in _paired(before, after):
            same = one is not None and one == other and type(before[one]) is type(after[one])
            found |= set() if same else {name for name in (one, other) if name is not None}
    return frozenset(found)


def _parts(old: Recipe, new: Recipe) -> Iterator[Edit]:
    """Parts in whose place another stands, as whole parts; the rest is told by operation."""
    exchanged = _exchanged(old, new)
    for kind in ("encoders", "adapters"):
        before, after = getattr(old, kind), getattr(new, kind)
        for one, other in sorted(_paired(before, after), key=str):
            if one not in exchanged and other not in exchanged:
                continue
            path = " -> ".join(dict.fromkeys(name for name in (one, other) if name))
            was, now = (
                None if name is None else _part(parts[name])
                for name, parts in ((one, before), (other, after))
            )
            yield Edit("WEIGHTS", path, was, now)


def _part(part: PartModel) -> str:
    """A part in a line: its type, and what it takes and yields."""
    settings = _flat(part)
    told = [f"{name}: {settings[name]}" for name in _TELLING if name in settings]
    return f"{type(part).model_fields['type'].default}({', '.join(told)})"


_TELLING = ("in", "queries", "window", "factor", "depth", "width", "hidden", "out")
"""The settings that say most of a part."""


def _operations(new: Recipe, before: Graph, after: Graph, exchanged: Set[str]) -> Iterator[Edit]:
    """Facts of operations that both models have, and modules that only one of them has."""
    ours, theirs = _by_module(before), _by_module(after)
    for module in ours | theirs:
        if module.partition(".")[0] in exchanged:
            continue
        one, other = ours.get(module), theirs.get(module)
        if one is not None and other is not None and type(one) is type(other):
            yield from _facts(new, module.partition(".")[0], one, other)
        elif any(op and op.parameters() for op in (one, other)):
            yield Edit("WEIGHTS", module, _owner(one), _owner(other))


def _by_module(graph: Graph) -> dict[str, Operation]:
    """The operations by name, those that are called more than once under the name of the first."""
    return {
        node.module if "@" in node.name else node.name: node.op
        for node in graph
        if not isinstance(node.op, Input)
    }


def _facts(new: Recipe, part: str, one: Operation, other: Operation) -> Iterator[Edit]:
    for fact in fields(one):  # type: ignore[arg-type]
        was, now = getattr(one, fact.name), getattr(other, fact.name)
        if was == now or fact.name in _FOLLOWING:
            continue
        alone: Operation = replace(one, **{fact.name: now})  # type: ignore[type-var]
        group: Group = "NUMERICS" if alone.parameters() == one.parameters() else "WEIGHTS"
        path = f"{part}.{_SETTINGS.get(fact.name, fact.name)}"
        origin = new.origin(path)
        written = origin is not None and origin.kind not in ("derived", "default")
        yield Edit(group, path, _shown(was), _shown(now), not written)


_SETTINGS = {
    "kind": "norm",
    "eps": "norm.eps",
    "frames": "frames_per_patch",
    "bias": "patch_bias",
}
"""Facts of operations that a recipe has under another name."""


_FOLLOWING = ("packed", "rotary", "taps", "table", "grid", "scaled_queries")
"""Facts of operations that follow from settings which are compared themselves."""


def _owner(op: Operation | None) -> str | None:
    return None if op is None else f"{op.name}, {count(op.parameters()):,} parameters"


def _weights(old: Recipe, new: Recipe) -> Iterator[Edit]:
    """Where published weights and the starting points of the parts come from."""
    before, after = _sources(old), _sources(new)
    for path in before | after:
        if before.get(path) != after.get(path):
            yield Edit("WEIGHTS", path, before.get(path), after.get(path))


def _sources(recipe: Recipe) -> dict[str, str]:
    found = {"weights.from": recipe.weights.repositories} if recipe.weights else {}
    for name in (*recipe.encoders, *recipe.adapters, "lm"):
        start = getattr(recipe.block(name), "start", None)
        if start is not None:
            found[f"{name}.start"] = start.repository
    return found


def _inputs(old: Recipe, new: Recipe) -> Iterator[Edit]:
    """What is let in, and how large it becomes; the values of pixels are numerics."""
    for name in old.inputs | new.inputs:
        before, after = (_flat(recipe.inputs.get(name)) for recipe in (old, new))
        for edit in _compared("TOKENS", name, before, after):
            setting = edit.path.removeprefix(f"{name}.").partition(".")[0]
            yield replace(edit, group="NUMERICS") if setting in _PIXELS else edit
    context = [{"context": str(recipe.lm.context)} if recipe.lm else {} for recipe in (old, new)]
    yield from _compared("TOKENS", "lm", *context)


_PIXELS = ("alpha", "normalize")


def _prompts(old: Recipe, new: Recipe) -> Iterator[Edit]:
    """The tokenizer, the special tokens and the layouts."""
    yield from _compared("PROMPTS", "tokens", _flat(old.tokens), _flat(new.tokens))
    for name in old.layouts | new.layouts:
        yield from _compared("PROMPTS", name, _layout(old, name), _layout(new, name))


def _layout(recipe: Recipe, name: str) -> dict[str, str]:
    layout = recipe.layouts.get(name)
    if layout is None:
        return {}
    settings = {
        setting: repr(value)
        for setting, value in layout.model_dump(exclude={"rules"}, exclude_defaults=True).items()
    }
    return settings | {rule.name: _rule(rule) for rule in layout.rules.values()}


def _rule(rule: Rule) -> str:
    return f"({', '.join(rule.parameters)}) -> {_items(rule.items)}"


def _items(items: tuple[LayoutItem, ...]) -> str:
    return " ".join(_item(item) for item in items)


def _item(item: LayoutItem) -> str:
    """An item as a recipe writes it."""
    match item:
        case TextItem(text=text):
            return json.dumps(text, ensure_ascii=False)
        case SpecialItem(special=name) | SlotItem(parameter=name):
            return name
        case RepeatItem(special=name, count=counted, part=part):
            return f"{name} * {counted}.{part or 'tokens'}"
        case IndexItem(parameter=name):
            return f"{name}.index"
        case CornersItem(parameter=name):
            return f"{name}.corners"
        case RuleItem(rule=name, arguments=arguments):
            return f"{name}({', '.join(arguments)})"
        case LossItem(items=items):
            return f"loss({_items(items)})"
        case ApartItem(items=items):
            return f"apart({_items(items)})"
        case ChoiceItem(lines=lines):
            return f"choice({', '.join(map(_items, lines))})"


def _positions(old: Recipe, new: Recipe) -> Iterator[Edit]:
    """Positions, and what parts take of one another: no parameter need show them."""
    exchanged = _exchanged(old, new)
    for name in {**old.encoders, **new.encoders, **old.adapters, **new.adapters, "lm": None}:
        if name in exchanged:
            continue
        inner = name not in {**old.encoders, **new.encoders}  # inputs are told of themselves
        for setting in ("in_", "pos", "query_scale") if inner else ("pos",):
            before, after = (
                _flat(getattr(recipe.block(name), setting, None)) for recipe in (old, new)
            )
            yield from _compared("NUMERICS", f"{name}.{setting.strip('_')}", before, after)


def _stages(old: Recipe, new: Recipe) -> Iterator[Edit]:
    """How it is trained, and how it is run."""
    for one, other in zip_longest(old.stages, new.stages):
        if one is None or other is None or one == other:
            continue
        # Stages of other names, in the order of training: what is told is what they train.
        settings = [recipe.stages[name] for recipe, name in ((old, one), (new, other))]
        was, now = (f"train {_shown(stage.train)}" for stage in settings)
        yield Edit("STAGES", f"{one} -> {other}", was, now)
    for kind in ("stages", "modes", "objectives"):
        before, after = getattr(old, kind), getattr(new, kind)
        for name in before | after:
            if name in before and name in after:
                yield from _compared("STAGES", name, _flat(before[name]), _flat(after[name]))
            else:
                gone, come = (kind[:-1] if name in side else None for side in (before, after))
                yield Edit("STAGES", name, gone, come)


def _compared(
    group: Group, path: str, before: Mapping[str, str], after: Mapping[str, str]
) -> Iterator[Edit]:
    """An edit for each value that differs; one alone where a side has nothing at all."""
    if not before or not after:
        if before or after:
            yield Edit(group, path, "" if before else None, "" if after else None)
        return
    for name in {**before, **after}:
        if before.get(name) != after.get(name):
            yield Edit(group, f"{path}.{name}".rstrip("."), before.get(name), after.get(name))


def _flat(value: object, path: str = "") -> dict[str, str]:
    """The values of a model by path, as a reader would write them; what is left out is left out."""
    whole = isinstance(value, Selector | Range | Amount | Grid)
    if whole or not isinstance(value, BaseModel | dict):
        return {} if value is None else {path: _shown(value)}
    inside = value.items() if isinstance(value, dict) else value
    found = {path: str(value.model_dump()["call"])} if isinstance(value, CallModel) else {}
    for name, given in inside:
        if name not in ("call", "kind", "type"):
            found |= _flat(given, f"{path}.{name}".strip("._"))
    return found


def _shown(value: object) -> str:
    """A value as a recipe writes it, as near as need be."""
    match value:
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
        case None:
            return "none"
        case tuple():
            return f"[{', '.join(map(_shown, value))}]"
    return str(value)

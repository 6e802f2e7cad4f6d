"""Names and shapes of published tensors and ours: a total map that can be read both ways."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache

from ..dsl.diagnostics import Diagnostic, Findings, Fix, nearest
from ..dsl.published import (
    Filled,
    Form,
    Interleaved,
    Joined,
    MapRule,
    Normal,
    Renamed,
    Squeezed,
    Transposed,
)
from ..dsl.recipe import Recipe
from .build import build
from .ops import Head, Init, Param
from .places import labels

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Published:
    """A published tensor: what it is called, its exact shape, and which of ours it holds, how."""

    name: str
    shape: Shape
    holds: tuple[str, ...]
    form: Form


@dataclass(frozen=True)
class Names:
    """Every published tensor that the parameters are made of, and what else may be there.

    `tensors` goes by published name, in the order of the model. `fresh` are the parameters that
    nobody published; they stand among `tensors` under their own names. `ignored` lists patterns of
    published tensors that have no place in the model, with the reason.
    """

    tensors: Mapping[str, Published]
    fresh: frozenset[str]
    ignored: tuple[tuple[str, str], ...]

    @property
    def published(self) -> dict[str, str]:
        """For each parameter the published tensor that holds it, in the order of the model."""
        return {name: where for name, (where, _) in self.places.items()}

    @property
    def places(self) -> dict[str, tuple[str, int]]:
        """The same, with its number among those that the tensor holds."""
        return {
            name: (tensor.name, number)
            for tensor in self.tensors.values()
            for number, name in enumerate(tensor.holds)
        }

    def holding(self, parameters: Collection[str]) -> list[Published]:
        """The published tensors that hold any of these parameters."""
        wanted = frozenset(parameters)
        return [tensor for tensor in self.tensors.values() if wanted.intersection(tensor.holds)]

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


def published_shapes(recipe: Recipe) -> dict[str, Shape]:
    """Name and exact shape of every tensor of the published checkpoint that has a place."""
    found = names(recipe)
    return {name: tensor.shape for name, tensor in found.tensors.items() if name not in found.fresh}


def prove_weights(recipe: Recipe, findings: Findings) -> None:
    """Gather where the map is not one to one."""
    map_names(recipe, findings)


def map_names(recipe: Recipe, findings: Findings) -> Names:
    """The same, with the mistakes gathered."""
    shapes = {name: param.shape for name, param in build(recipe).parameters().items()}
    if recipe.weights is None:
        kept = {
            name: Published(name, shape, (name,), Renamed(target=name))
            for name, shape in shapes.items()
        }
        return Names(kept, frozenset(), ())
    claims = _Claims(recipe, shapes, findings)
    tensors = claims.tensors()
    for index, rule in enumerate(recipe.weights.ignored):
        caught = [name for name in tensors if _regex(rule.pattern).fullmatch(name)]
        if caught:
            findings.add(_ignored(recipe, index, caught))
    ignored = tuple((rule.pattern, rule.reason) for rule in recipe.weights.ignored)
    return Names(tensors, frozenset(claims.fresh), ignored)


def declared(recipe: Recipe, parameters: Mapping[str, Param]) -> dict[str, Param]:
    """The parameters as the weights have them start, where those say how."""
    rules = recipe.weights.fresh if recipe.weights else ()
    found = dict(parameters)
    for name, param in parameters.items():
        rule = next((rule for rule in rules if _regex(rule.pattern).fullmatch(name)), None)
        match rule and rule.init:
            case Normal(std=std):
                found[name] = replace(param, init=Init("normal", std))
            case Filled(value=value):
                found[name] = replace(param, init=Init("constant", value))
    return found


FRESH = -1
"""In the place of the number of a rule: no published tensor."""


class _Claims:
    """Which parameter each rule claims, and the complaints about those that fit badly."""

    def __init__(self, recipe: Recipe, shapes: Mapping[str, Shape], findings: Findings) -> None:
        assert recipe.weights
        self._recipe = recipe
        self._shapes = shapes
        self._findings = findings
        self._rules = recipe.weights.rules
        self.fresh: dict[str, int] = {}
        """The parameters that nobody published, with the number of the rule that says so."""

    def tensors(self) -> dict[str, Published]:
        """The published tensors whose rules hold."""
        uneven = [rule for rule in self._rules if not _is_even(rule)]
        for rule in uneven:
            self._findings.add(_uneven(self._recipe, self._rules.index(rule), rule))
        self._find_fresh()
        held: dict[tuple[int, str], dict[int, str]] = {}
        homeless, clashes = list[str](), dict[tuple[int, int], list[str]]()
        used = {self._rules.index(rule) for rule in uneven}
        news = dict[tuple[int, int], list[str]]()
        taken = dict[str, int]()
        for name in self._shapes:
            claims = [
                (index, number, source)
                for index, rule in enumerate(self._rules)
                for number, target in enumerate(rule.target.targets)
                if (source := rewrite(name, target, rule.source)) is not None
            ]
            used.update(index for index, _, _ in claims)
            if name in self.fresh:
                if claims:
                    news.setdefault((self.fresh[name], claims[0][0]), []).append(name)
                held[FRESH, name] = {0: name}
                continue
            if not claims:
                if not any(_regex(t).fullmatch(name) for r in uneven for t in r.target.targets):
                    homeless.append(name)
                continue
            index, number, source = claims[0]
            if len(claims) > 1:
                clashes.setdefault((index, claims[1][0]), []).append(name)
            if taken.setdefault(source, index) != index or number in held.get((index, source), {}):
                clashes.setdefault((taken[source], index), []).append(source)
            held.setdefault((index, source), {})[number] = name
        for index, rule in enumerate(self._rules):
            if index not in used:
                path = f"weights.rules[{index}]"
                self._findings.add(_idle(self._recipe, path, rule.target.targets[0]))
        for pair, claimed in clashes.items():
            self._findings.add(_twice(self._recipe, pair, claimed))
        for pair, claimed in news.items():
            self._findings.add(_not_new(self._recipe, pair, claimed))
        if homeless:
            self._findings.add(_homeless(self._recipe, homeless))
        found = dict[str, Published]()
        bad = {index for pair in clashes for index in pair}
        for (index, source), parts in held.items():
            tensor = self._tensor(index, source, parts)
            if isinstance(tensor, Published):
                found[source] = tensor
            elif index not in bad:  # one tensor of a rule stands for all of them
                bad.add(index)
                self._findings.add(tensor)
        return found

    def _find_fresh(self) -> None:
        assert self._recipe.weights
        for index, rule in enumerate(self._recipe.weights.fresh):
            caught = [name for name in self._shapes if _regex(rule.pattern).fullmatch(name)]
            if not caught:
                self._findings.add(_idle(self._recipe, f"weights.fresh[{index}]", rule.pattern))
            for name in caught:
                self.fresh.setdefault(name, index)

    def _tensor(self, index: int, source: str, parts: Mapping[int, str]) -> Published | Diagnostic:
        if index == FRESH:
            return Published(source, self._shapes[source], (source,), Renamed(target=source))
        form = self._rules[index].target
        holds = tuple(parts[number] for number in sorted(parts))
        if len(holds) < len(form.targets):
            lacking = next(n for n in range(len(form.targets)) if n not in parts)
            return _misfit(
                self._recipe,
                index,
                holds[0],
                f"`{source}` would hold `{holds[0]}` and nothing for `{form.targets[lacking]}`",
                "a joined tensor is there whole or not at all",
            )
        try:
            shape = shape_of(form, [self._shapes[name] for name in holds])
        except ValueError as problem:
            title = f"`{holds[0]}` cannot be laid out so"
            return _misfit(self._recipe, index, holds[0], title, str(problem))
        return Published(source, shape, holds, form)


def shape_of(form: Form, shapes: Sequence[Shape]) -> Shape:
    """The shape of a published tensor that holds tensors of these shapes; ValueError says why not.

    >>> shape_of(Joined(targets=("q", "k", "v"), groups=2), [(12, 5), (4, 5), (4, 5)])
    (20, 5)
    """
    match form:
        case Transposed():
            if len(shapes[0]) != 2:
                raise ValueError(f"only a matrix is transposed, not {list(shapes[0])}")
            return shapes[0][::-1]
        case Squeezed():
            whole = list(shapes[0])
            while whole and whole[0] == 1:
                del whole[0]
            if len(whole) == len(shapes[0]):
                raise ValueError(f"{list(shapes[0])} has no leading size of one")
            return tuple(whole)
        case Joined(groups=groups):
            return _rows(shapes, groups)
        case Interleaved(parts=parts, groups=groups):
            rows = shapes[0][0]
            if rows % (parts * groups):
                raise ValueError(f"{rows} rows are no {parts} parts in {groups} groups")
            return shapes[0]
    return shapes[0]


def _rows(shapes: Sequence[Shape], groups: int) -> Shape:
    if any(shape[1:] != shapes[0][1:] for shape in shapes):
        raise ValueError("only rows of one shape are joined: " + ", ".join(map(str, shapes)))
    for shape in shapes:
        if shape[0] % groups:
            raise ValueError(f"{shape[0]} rows cannot be shared by {groups} groups")
    return (sum(shape[0] for shape in shapes), *shapes[0][1:])


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


def _is_even(rule: MapRule) -> bool:
    return all(target.count("*") == rule.source.count("*") for target in rule.target.targets)


def _uneven(recipe: Recipe, index: int, rule: MapRule) -> Diagnostic:
    left = rule.source.count("*")
    right = next(t.count("*") for t in rule.target.targets if t.count("*") != left)
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


def _not_new(recipe: Recipe, rules: tuple[int, int], claimed: list[str]) -> Diagnostic:
    more = f", and {len(claimed) - 1:,} more" if len(claimed) > 1 else ""
    return Diagnostic(
        "W806",
        f"`{claimed[0]}` is both fresh and published{more}",
        labels(
            recipe,
            (f"weights.fresh[{rules[0]}]", "nobody published it, says this"),
            (f"weights.rules[{rules[1]}]", "this says where it was published"),
        ),
        "a parameter starts from one thing alone",
        Fix("narrow one of the two patterns, or drop that line"),
    )


def _idle(recipe: Recipe, path: str, pattern: str) -> Diagnostic:
    graph = build(recipe)
    heads = [node.name for node in graph if isinstance(node.op, Head) and node.op.tied]
    tied = next((name for name in heads if _regex(pattern).fullmatch(f"{name}.weight")), None)
    part = tied.partition(".")[0] if tied else ""
    return Diagnostic(
        "W807",
        f"no parameter is called `{pattern}`",
        labels(
            recipe,
            (path, "this places nothing"),
            *([(f"{part}.tied", "the head has no matrix of its own")] if tied else []),
        ),
        "a rule that catches nothing is a slip: what it was meant for starts some other way",
        Fix(f"drop it: the matrix of the head is `{part}.embed.weight`")
        if tied
        else _meant(pattern, graph.parameters()),
    )


def _meant(pattern: str, names: Iterable[str]) -> Fix:
    """The pattern of parameters that are there, where one is near to what was written."""
    known = {re.sub(r"\.\d+(?=\.)", ".*", name) for name in names}
    if pattern.endswith(".*"):
        known = {f"{name.rpartition('.')[0]}.*" for name in known}
    near = nearest(pattern, sorted(known))
    return Fix(f'write `"{near}"`' if near else "name parameters as `triptych show` lists them")


def _misfit(recipe: Recipe, index: int, parameter: str, title: str, seen: str) -> Diagnostic:
    return Diagnostic(
        "W804",
        title,
        labels(
            recipe,
            (f"weights.rules[{index}]", seen),
            (_brought(recipe, parameter), f"`{parameter}` is part of this"),
        ),
        "names, order and shapes of published tensors follow from the map, exactly",
        Fix("make the rule say how the published tensor holds ours"),
    )


def _ignored(recipe: Recipe, index: int, caught: list[str]) -> Diagnostic:
    assert recipe.weights
    more = f", and {len(caught) - 1:,} more" if len(caught) > 1 else ""
    lines = {f"weights.rules[{n}]": rule.source for n, rule in enumerate(recipe.weights.rules)}
    lines |= {f"weights.fresh[{n}]": rule.pattern for n, rule in enumerate(recipe.weights.fresh)}
    placing = next(path for path, pattern in lines.items() if _regex(pattern).fullmatch(caught[0]))
    return Diagnostic(
        "W805",
        f"`{caught[0]}` is both placed and ignored{more}",
        labels(
            recipe,
            (f"weights.ignored[{index}]", "this pattern catches it"),
            (placing, "this line places it"),
        ),
        "a published tensor is loaded or ignored, not both",
        Fix("narrow the pattern"),
    )


def _brought(recipe: Recipe, parameter: str) -> str:
    """The setting that a parameter is named after, where one is written, else its part."""
    part, name, *_ = parameter.split(".")
    written = recipe.facts.spans.get(f"{part}.{name}") not in (None, recipe.span(part))
    return f"{part}.{name}" if written else part


def _homeless(recipe: Recipe, missing: list[str]) -> Diagnostic:
    stem = missing[0].rpartition(".")[0]
    more = f", and {len(missing) - 1:,} more" if len(missing) > 1 else ""
    return Diagnostic(
        "W801",
        f"no rule says where `{missing[0]}` comes from{more}",
        labels(
            recipe,
            (_brought(recipe, missing[0]), "this has it"),
            ("weights", "every parameter needs a published name here"),
        ),
        "weights are loaded by a total map: a parameter without a rule would stay random unseen",
        Fix(
            f'write `map "published.name.*" -> "{stem}.*"`, or `fresh "{stem}.*"` where nobody '
            "published it"
        ),
    )

"""What the names in a text stand for: where each is declared, and every place that speaks of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ...dsl import syntax
from ...dsl.diagnostics import Findings
from ...dsl.evaluate import model_in, settings_of
from ...dsl.kinds import Model
from ...dsl.published import MapRule
from ...dsl.reading import TextsOrNames
from ...dsl.recipe import CALLS
from ...dsl.resolve import Library
from ...dsl.source import Span
from ...dsl.texts import Tokens
from ...dsl.whole import DEFAULT_TYPES
from .slots import Slot, slot_of, written_values

Key = tuple[str, ...]
"""`("recipe", "a")`, `("part", "vit")`, `("setting", "vit", "width")`, `("special", "im_end")`,
`("rule", "chatml", "user")`, or `("parameter", "chatml", "user", "b")`."""


@dataclass(frozen=True, slots=True)
class Declared:
    """Where a thing is declared: `first` in the furthest base, `last` where it counts."""

    first: Span
    last: Span


@dataclass(slots=True)
class Scope:
    """The names of a recipe, those of its bases and imports included."""

    declared: dict[Key, Declared] = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    """From a block to its kind."""
    types: dict[str, str | None] = field(default_factory=dict)
    """From a block to its type."""

    def names(self, *kinds: str) -> list[str]:
        """The blocks of these kinds."""
        return [name for name, kind in self.kinds.items() if kind in kinds]

    def of_part(self, what: str, part: str) -> list[str]:
        """The settings or rules of a block, by name."""
        return [key[-1] for key in self.declared if key[:2] == (what, part)]

    @property
    def specials(self) -> list[str]:
        """The special tokens."""
        return [key[1] for key in self.declared if key[0] == "special"]

    def model(self, part: str) -> type[Model] | None:
        """The model of a block; None when there is none, or its type is not known."""
        if part not in self.kinds:
            return None
        return model_in(self.kinds[part], part, self.types[part])

    def declare(self, key: Key, span: Span, first: Span | None = None) -> None:
        """A declaration, which goes on with the one that it changes."""
        before = self.declared.get(key)
        self.declared[key] = Declared(first or (before.first if before else span), span)

    def forget(self, part: str) -> None:
        """Take a block away."""
        kind = self.kinds.pop(part, None)
        self.types.pop(part, None)
        for key in list(self.declared):
            of_tokens = kind == "tokens" and key[0] == "special"
            if of_tokens or (key[0] != "special" and key[1] == part):
                del self.declared[key]


@dataclass(frozen=True, slots=True)
class Mention:
    """A place that names a thing; `declares` says that this place is one of its declarations."""

    span: Span
    key: Key
    declared: Declared
    declares: bool = False


class Names:
    """The scopes of recipes, each made once, and the mentions in them."""

    def __init__(self, library: Library) -> None:
        self._library = library
        self._scopes: dict[Span, tuple[Scope, tuple[Mention, ...]]] = {}

    def scope(self, recipe: syntax.RecipeNode) -> Scope:
        """The names that a recipe knows."""
        return self._made(recipe)[0]

    def mentions(self, recipe: syntax.RecipeNode) -> Iterator[Mention]:
        """Every place of a recipe's own text that names a thing, in no order."""
        scope, headers = self._made(recipe)
        yield from headers
        yield from _Reader(recipe, scope).mentions()

    def _made(self, recipe: syntax.RecipeNode) -> tuple[Scope, tuple[Mention, ...]]:
        if recipe.name_span not in self._scopes:
            self._scopes[recipe.name_span] = Scope(), ()  # for recipes that need themselves
            self._scopes[recipe.name_span] = self._make(recipe)
        return self._scopes[recipe.name_span]

    def _find(self, base: syntax.Base, recipe: syntax.RecipeNode) -> syntax.RecipeNode | None:
        return self._library.find(base, recipe, Findings())

    def _make(self, recipe: syntax.RecipeNode) -> tuple[Scope, tuple[Mention, ...]]:
        scope = Scope()
        mentions: list[Mention] = []
        own = Declared(recipe.name_span, recipe.name_span)
        mentions.append(Mention(recipe.name_span, ("recipe", recipe.name), own, declares=True))
        if recipe.base and (base := self._find(recipe.base, recipe)):
            below = self.scope(base)
            scope = Scope(dict(below.declared), dict(below.kinds), dict(below.types))
            mentions.append(_of_recipe(recipe.base, base))
        for statement in recipe.body:
            match statement:
                case syntax.Import():
                    mentions += self._import(statement, recipe, scope)
                case syntax.Block():
                    mentions += _block(statement, scope)
                case syntax.Drop():
                    mentions += _known(scope, ("part", statement.name), statement.name_span)
                    scope.forget(statement.name)
        return scope, tuple(mentions)

    def _import(
        self, statement: syntax.Import, recipe: syntax.RecipeNode, scope: Scope
    ) -> Iterator[Mention]:
        there = self._find(statement.base, recipe)
        if there is None:
            return
        yield _of_recipe(statement.base, there)
        below = self.scope(there)
        for block in statement.blocks:
            if block.there not in below.kinds:
                continue
            yield from _known(below, ("part", block.there), block.there_span)
            scope.kinds[block.here] = below.kinds[block.there]
            scope.types[block.here] = below.types[block.there]
            for key, declared in below.declared.items():
                if key[0] != "special" and key[1:2] == (block.there,):
                    scope.declared[key[0], block.here, *key[2:]] = declared
                elif key[0] == "special" and below.kinds[block.there] == "tokens":
                    scope.declared[key] = declared
            if block.here_span != block.there_span:
                last = scope.declared["part", block.here].last
                declared = Declared(block.here_span, last)
                scope.declared["part", block.here] = declared
                yield Mention(block.here_span, ("part", block.here), declared, declares=True)


def _of_recipe(base: syntax.Base, found: syntax.RecipeNode) -> Mention:
    return Mention(base.span, ("recipe", found.name), Declared(found.name_span, found.name_span))


def _known(scope: Scope, key: Key, span: Span) -> Iterator[Mention]:
    if key in scope.declared:
        yield Mention(span, key, scope.declared[key])


def _block(block: syntax.Block, scope: Scope) -> Iterator[Mention]:
    """The header and the statements of a block, whose names its recipe knows from here on."""
    key: Key = ("part", block.name)
    if block.verb == "amend":
        yield from _known(scope, key, block.name_span)
    else:
        before = scope.declared.get(key) if block.verb == "replace" else None
        scope.forget(block.name)
        scope.kinds[block.name] = block.kind
        scope.types[block.name] = block.type or DEFAULT_TYPES.get(block.kind)
        scope.declare(key, block.name_span, before.first if before else None)
        declared = scope.declared[key]
        if before:
            yield Mention(block.name_span, key, Declared(before.first, before.last))
        else:
            yield Mention(block.name_span, key, declared, declares=True)
    for statement in block.body:
        yield from _stated(statement, block.name, scope)


def _stated(statement: syntax.Statement, part: str, scope: Scope) -> Iterator[Mention]:
    match statement:
        case syntax.Verbed():
            yield from _stated(statement.statement, part, scope)
            return
        case syntax.Drop():
            key = _key(statement.kind, part, statement.name)
            yield from _known(scope, key, statement.name_span)
            scope.declared.pop(key, None)
            return
        case syntax.Setting():
            key = _key("setting", part, statement.name)
        case syntax.Special():
            key = _key("special", part, statement.name)
        case syntax.Rule():
            key = _key("rule", part, statement.name)
        case _:
            return
    before = scope.declared.get(key)
    scope.declare(key, statement.name_span)
    if before:
        yield Mention(statement.name_span, key, before, declares=True)
    else:
        yield Mention(statement.name_span, key, scope.declared[key], declares=True)


def _key(kind: str, part: str, name: str) -> Key:
    return ("special", name) if kind == "special" else (kind, part, name)


class _Reader:
    """Finds what the values, rules and asserts of one recipe speak of."""

    def __init__(self, recipe: syntax.RecipeNode, scope: Scope) -> None:
        self._recipe = recipe
        self._scope = scope

    def mentions(self) -> Iterator[Mention]:
        """Every mention that is no declaration."""
        for statement in self._recipe.body:
            match statement:
                case syntax.Block():
                    for inner in statement.body:
                        yield from self._statement(statement.name, inner)
                case syntax.Assert() | syntax.DropAssert():
                    comparison = statement.comparison
                    for side in (comparison.left, comparison.right):
                        yield from self._value(side, None)

    def _statement(self, part: str, statement: syntax.Statement) -> Iterator[Mention]:
        match statement:
            case syntax.Verbed():
                yield from self._statement(part, statement.statement)
            case syntax.Setting():
                model = self._scope.model(part)
                slot = slot_of(model, statement.name) if model else None
                yield from self._value(statement.value, slot)
            case syntax.Special():
                yield from self._value(statement.id, None)
            case syntax.Map():
                yield from self._placed(statement.target)
            case syntax.Fresh():
                yield from self._placed(statement.pattern)
            case syntax.Rule():
                yield from self._rule(part, statement)

    def _value(self, value: syntax.Value, slot: Slot | None) -> Iterator[Mention]:
        for inner, its in written_values(value, slot):
            if isinstance(inner, syntax.Path):
                yield from self._path(inner, its)
            elif isinstance(inner, syntax.Call) and inner.name not in CALLS:
                first = inner.target.steps[0]
                yield from _known(self._scope, ("part", first.name), _name_of(first))

    def _path(self, path: syntax.Path, slot: Slot | None) -> Iterator[Mention]:
        first, *rest = path.steps
        if slot and (slot.words or slot.member().words) and not rest:
            return  # a choice
        if slot and slot.name == "apart":
            return  # kinds of data
        if slot and (slot.model is Tokens or slot.marked(TextsOrNames)):
            yield from _known(self._scope, ("special", first.name), _name_of(first))
            return
        yield from _known(self._scope, ("part", first.name), _name_of(first))
        if rest and not (slot and slot.takes_names):
            model = self._scope.model(first.name)
            if model and rest[0].name in settings_of(model):
                key = ("setting", first.name, rest[0].name)
                part = self._scope.declared.get(("part", first.name))
                declared = self._scope.declared.get(key) or part
                if declared:
                    yield Mention(_name_of(rest[0]), key, declared)

    def _placed(self, target: syntax.Value) -> Iterator[Mention]:
        """Targets of a map are texts that begin with the name of a part."""
        slot = slot_of(MapRule, "target")
        for value, its in written_values(target, slot):
            if isinstance(value, syntax.Text) and "\\" not in value.span.text:
                name = value.value.partition(".")[0]
                start = value.span.start + 1
                span = value.span.source.span(start, start + len(name))
                yield from _known(self._scope, ("part", name), span)
            elif isinstance(value, syntax.Path):
                yield from self._path(value, its)

    def _rule(self, layout: str, rule: syntax.Rule) -> Iterator[Mention]:
        parameters = {
            word.name: Mention(
                word.span,
                ("parameter", layout, rule.name, word.name),
                Declared(word.span, word.span),
                declares=True,
            )
            for word in rule.parameters
        }
        yield from parameters.values()
        yield from self._items(rule.items, layout, parameters)

    def _items(
        self, items: Iterable[syntax.Item], layout: str, parameters: dict[str, Mention]
    ) -> Iterator[Mention]:
        def parameter(name: str, start: int, source: Span) -> Iterator[Mention]:
            if name in parameters:
                found = parameters[name]
                span = source.source.span(start, start + len(name))
                yield Mention(span, found.key, found.declared)

        for item in items:
            match item:
                case syntax.Word() if item.name in parameters:
                    yield from parameter(item.name, item.span.start, item.span)
                case syntax.Word():
                    yield from _known(self._scope, ("special", item.name), item.span)
                case syntax.Repeat():
                    yield from _known(self._scope, ("special", item.name), item.name_span)
                    yield from parameter(item.parameter, item.count_span.start, item.span)
                    end = item.count_span.end
                    span = item.span.source.span(end - len(item.field), end)
                    yield from _known(self._scope, ("part", item.field), span)
                case syntax.Field():
                    yield from parameter(item.parameter, item.span.start, item.span)
                case syntax.Use():
                    start = item.span.start
                    span = item.span.source.span(start, start + len(item.rule))
                    yield from _known(self._scope, ("rule", layout, item.rule), span)
                    for word in item.arguments:
                        yield from parameter(word.name, word.span.start, word.span)
            yield from self._items(syntax.inner(item), layout, parameters)


def _name_of(step: syntax.Step) -> Span:
    """Where the name of a step stands, without its index."""
    return step.span.source.span(step.span.start, step.span.start + len(step.name))

"""What a pointer shows: the worth of what it rests on, and where that came from."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from ...dsl import syntax
from ...dsl.described import description
from ...dsl.diagnostics import RecipeError, listing
from ...dsl.evaluate import model_in, types_of
from ...dsl.kinds import Model
from ...dsl.reading import Default, names_of
from ...dsl.recipe import Recipe
from ...dsl.source import Span
from ...dsl.units import UNIT_WORDS, Quantity
from ...dsl.whole import TYPED_BLOCKS
from ...dsl.why import Link, chain
from .computed import Computed
from .desk import Desk, Reading, path_of
from .focus import Focus, focus_at
from .slots import Slot, called, field_of, meaning, slot_of
from .symbols import Mention, Scope

_KINDS = {
    "tokens": "The tokenizer, and the special tokens by the names that layouts use.",
    "input": "What goes in: still pictures (`image`) or clips (`video`).",
    "encoder": "A tower that sees an input.",
    "adapter": "A part between towers and the language model, or behind them.",
    "lm": "The language model.",
    "weights": "Where published weights stand, and how their names map to those of the recipe.",
    "layout": "What is written around content, and what of it is learnt.",
    "objective": "What a stage may minimise beside the next token.",
    "stage": "What is trained, on what, for how long.",
    "mode": "How the trained model is used.",
}


class Hover:
    """Answers for one text."""

    def __init__(self, desk: Desk, reading: Reading) -> None:
        self._desk = desk
        self._reading = reading

    def at(self, offset: int) -> tuple[str, Span] | None:
        """Markdown, and what it is about; None where there is nothing to say."""
        node = self._reading.recipe_at(offset)
        if node is None:
            return None
        scope = self._reading.names.scope(node)
        computed = self._desk.computed(self._reading, node)
        mention = self._reading.mention_at(offset)
        focus = focus_at(node, scope, offset)
        if mention and (focus is None or _is_smaller(mention.span, focus.span)):
            lines = self._mention(mention, scope, computed, focus)
            span = mention.span
        elif focus:
            lines = self._focus(focus, scope, computed)
            span = focus.span
        else:
            return None
        text = "\n\n".join(line for line in lines if line)
        if not text:
            return None
        if computed and not self._desk.is_current(self._reading, node):
            text += "\n\n*Figures are those of the last text without mistakes.*"
        return text, span

    # names

    def _mention(
        self, mention: Mention, scope: Scope, computed: Computed | None, focus: Focus | None
    ) -> Iterable[str]:
        kind, *names = mention.key
        match kind:
            case "recipe":
                return [f"recipe `{names[0]}`", _declared_at(mention)]
            case "part":
                if focus and isinstance(focus.value, syntax.Path) and len(focus.value.steps) > 1:
                    return self._selector(focus, mention, scope, computed)
                return self._part(names[0], mention, scope, computed)
            case "setting":
                model = scope.model(names[0])
                slot = slot_of(model, names[1]) if model else None
                return self._value(f"{names[0]}.{names[1]}", slot, computed)
            case "special":
                return [*self._special(names[0], computed), _declared_at(mention)]
            case "rule":
                return [*self._rule(names[0], names[1], computed), _declared_at(mention)]
        return [f"`{names[-1]}`, what the rule `{names[1]}` is given"]

    def _part(
        self, name: str, mention: Mention, scope: Scope, computed: Computed | None
    ) -> Iterator[str]:
        kind, type_ = scope.kinds.get(name, ""), scope.types.get(name)
        shown = kind if kind == name else f"{kind} {name}"
        yield f"```vlm\n{shown}{f' : {type_}' if type_ else ''}\n```"
        model = scope.model(name)
        if model:
            yield description(model)
        if computed:
            yield "\n".join(self._facts(name, kind, computed))
        yield _declared_at(mention)

    def _facts(self, name: str, kind: str, computed: Computed) -> Iterator[str]:
        yield from (f"- shape: {line}" for line in computed.shapes.get(name, ()))
        if kind in ("input", "encoder", "adapter"):
            for medium, tokens in computed.tokens(name).items():
                one = "a clip" if medium == "video" else "a picture"
                yield f"- tokens of {one}: {tokens}"
        if kind in ("encoder", "adapter", "lm"):
            own, total = computed.parameters(name)
            if total:
                yield f"- parameters: {own:,} of {total:,}"
            for stage, state in computed.states(name).items():
                yield f"- stage `{stage}`: {state}"
        if kind == "stage" and computed.plan and name in computed.recipe.stages:
            stage_plan = computed.plan[name]
            trained = sum(param.count for param in stage_plan.trained.values())
            yield f"- trains {trained:,} of {computed.plan.total:,} parameters"
        if kind == "layout" and name in computed.recipe.layouts:
            for rule in computed.recipe.layouts[name].rules:
                yield f"- `{rule}`: {computed.rule(name, rule)} tokens"

    def _selector(
        self, focus: Focus, mention: Mention, scope: Scope, computed: Computed | None
    ) -> Iterator[str]:
        assert isinstance(focus.value, syntax.Path)
        count = computed.selected(focus.value) if computed else None
        if count:
            yield f"`{focus.value}`: {count:,} parameters"
        yield from self._part(mention.key[1], mention, scope, computed)

    def _special(self, name: str, computed: Computed | None) -> Iterator[str]:
        tokens = computed.recipe.tokens if computed else None
        token = tokens.specials.get(name) if tokens else None
        yield f"special token `{name}`" + (f": id {token.id}" if token else "")
        if token:
            yield f"written `{token.text}`"

    def _rule(self, layout: str, rule: str, computed: Computed | None) -> Iterator[str]:
        yield f"rule `{rule}` of layout `{layout}`"
        there = computed.recipe.layouts.get(layout) if computed else None
        if computed and there and rule in there.rules:
            yield f"{computed.rule(layout, rule)} tokens, content aside"

    # values

    def _focus(self, focus: Focus, scope: Scope, computed: Computed | None) -> Iterable[str]:
        match focus.what:
            case "kind":
                assert focus.block
                return _of_kind(focus.block.kind)
            case "type":
                assert focus.block
                model = model_in(focus.block.kind, focus.block.name, focus.block.type)
                return _of_model(model, focus.block.type or "") if model else []
            case "setting" | "argument":
                if focus.path == "language":
                    return ["the edition of the language that the recipe is written in"]
                return self._value(focus.path, focus.slot, computed)
            case "call":
                assert isinstance(focus.value, syntax.Call)
                return _of_call(focus.value, focus.slot)
        match focus.value:
            case syntax.Number():
                return _of_number(focus.value)
            case syntax.Path() if focus.slot and str(focus.value) in focus.slot.words:
                return [_choices(focus.slot), meaning(focus.slot)]
            case syntax.Path() if computed and focus.slot and focus.slot.takes_names:
                count = computed.selected(focus.value)
                return [f"`{focus.value}`: {count:,} parameters"] if count else []
            case syntax.Binary() | syntax.Range() | syntax.Path():
                return self._value(focus.path, focus.slot, computed) if focus.path else []
        return []

    def _value(self, path: str, slot: Slot | None, computed: Computed | None) -> Iterator[str]:
        links = _links(computed.recipe, path) if computed and path else []
        first = links[0] if links else None
        worth = f" = {first.worth}" if first and first.worth else ""
        yield f"```vlm\n{path or (slot.name if slot else '')}{worth}\n```"
        if slot:
            yield meaning(slot)
            yield _takes(slot)
        if first:
            yield "\n".join(f"- {line}" for line in map(_step, links[:8]))


def _links(recipe: Recipe, path: str) -> list[Link]:
    try:
        return chain(recipe, path)
    except RecipeError:
        return []


def _step(link: Link) -> str:
    """One link of the way that a value came, in words."""
    indent = "  " * max(0, link.depth - 1)
    at = f", {_place(link.span)}" if link.span else ""
    shown = f" `{link.text}`" if link.text and link.text != link.worth else ""
    match link.relation:
        case "over":
            return f"{indent}in place of{shown} in `{link.recipe}`{at}"
        case "from" | "part":
            word = "from" if link.relation == "from" else "part of"
            worth = f" = {link.worth}" if link.relation == "from" else ""
            return f"{indent}{word} `{link.path}`{worth}, {link.how}{shown}{at}"
    whose = f", {link.via} from `{link.recipe}`" if link.via else ""
    return f"{link.how}{shown}{whose}{at}"


def _is_smaller(one: Span, other: Span) -> bool:
    return one.end - one.start <= other.end - other.start


def _declared_at(mention: Mention) -> str:
    return f"declared at {_place(mention.declared.last)}"


def _place(span: Span) -> str:
    """Where a span stands, as a link to there."""
    path, line = path_of(span.source), span.place.line
    return f"[{path.name}:{line}]({path.as_uri()}#L{line})"


def _of_kind(kind: str) -> Iterator[str]:
    if kind not in _KINDS:
        return
    yield f"`{kind}`: {_KINDS[kind]}"
    if kind in TYPED_BLOCKS:
        yield f"types: {listing(types_of(kind), limit=20)}"


def _of_model(model: type[Model], name: str) -> Iterator[str]:
    yield f"`{name}`"
    yield description(model)
    yield "settings: " + listing(names_of(model), limit=40)


def _of_call(call: syntax.Call, slot: Slot | None) -> Iterator[str]:
    if call.name == "assumed":
        yield "`assumed(...)`: the author's choice, because the source is silent"
        return
    model = called(call.name, slot)
    if model is None:
        if call.name.endswith(".worst"):
            yield "the most tokens of a sample with so many pictures or clips"
        return
    yield f"```vlm\n{signature(model)}\n```"
    yield description(model)
    for name in names_of(model):
        inner = slot_of(model, name)
        if inner and (said := meaning(inner) or _takes(inner)):
            yield f"- `{name}`: {said}"


def signature(model: type[Model]) -> str:
    """A call with the names of its arguments; those that may be left out in brackets.

    >>> from triptych.dsl.inputs import Tiles
    >>> signature(Tiles)
    'tiles(side, count[, thumbnail])'
    """
    name = model.model_fields["call"].default
    if getattr(model, "open_arguments", None):
        return f"{name}(NAME: ..., ...)"
    text = ""
    for argument in names_of(model):
        slot = slot_of(model, argument)
        assert slot
        needed = field_of(slot).is_required()
        joined = f"{', ' if text else ''}{argument}"
        text += joined if needed else f"[{joined}]"
    return f"{name}({text})"


def _takes(slot: Slot) -> str:
    """The unit, the bounds, the choices and the default of a setting."""
    said = []
    if slot.words:
        said.append(_choices(slot))
    if slot.units is not None:
        noun = "a range of" if slot.is_range else "a number of"
        words = [f"{UNIT_WORDS[unit]} (`{unit}`)" for unit in slot.units if unit]
        said.append(f"{noun} {' or '.join(words)}" if words else f"{noun} no unit")
    said += _bounds(slot)
    calls = [f"{name}()" for name in slot.calls]
    if calls:
        said.append(f"one of {listing(calls, limit=20, last='or')}")
    said.append(_default(slot))
    return "; ".join(filter(None, said))


def _choices(slot: Slot) -> str:
    return f"one of {listing(slot.words, limit=20, last='or')}"


def _bounds(slot: Slot) -> Iterator[str]:
    words = (("gt", "more than"), ("ge", "at least"), ("lt", "less than"), ("le", "at most"))
    for marker in slot.markers:
        for name, word in words:
            bound = getattr(marker, name, None)
            if bound is not None:
                yield f"{word} {bound}"


def _default(slot: Slot) -> str:
    info = field_of(slot)
    for marker in info.metadata:
        if isinstance(marker, Default):
            return f"default: `{marker.expression.replace('this.', '')}`"
    if info.is_required():
        return "required"
    if info.default in (None, ()):
        return ""
    return f"default: `{_written(info.default)}`"


def _written(value: object) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


def _of_number(number: syntax.Number) -> Iterator[str]:
    quantity: Quantity = number.quantity
    if not quantity.unit:
        yield f"{quantity.value:,}"
        return
    size = f"{quantity.value:,} {UNIT_WORDS[quantity.unit]}"
    yield size if number.span.text == str(quantity) else f"`{number.span.text}` = {size}"

"""What could be written at a cursor, while the text around it is broken."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache

from lsprotocol.types import CompletionItemKind as Kind

from ...dsl import syntax
from ...dsl.check import EDITION
from ...dsl.described import description
from ...dsl.diagnostics import Findings
from ...dsl.evaluate import model_in, settings_of, types_of
from ...dsl.files import shipped_recipes, title_of
from ...dsl.inputs import INPUTS
from ...dsl.kinds import Model, PartModel
from ...dsl.layouts import CONTENT_RULES
from ...dsl.reading import names_of
from ...dsl.references import ASSERTED_CALLS, ASSERTED_COUNTS
from ...dsl.whole import ENTRY_HOMES, NAMED_BLOCKS, SINGLE_BLOCKS, TYPED_BLOCKS
from ...dsl.worth import Astray, at, names_in
from .computed import Computed
from .context import VERBS, Context, Frame, context_at, header_of, is_complete
from .desk import Desk, Reading
from .proposals import (
    Proposal,
    kinds_of_data,
    placeholder,
    references,
    said_of,
    units,
    values,
    words,
)
from .slots import Slot, argument_slot, called, field_of, meaning, slot_of
from .statements import entries, new_block
from .symbols import Scope

_ITEMS = {
    "loss": "what is supervised",
    "apart": "what is tokenised on its own, whatever text stands beside it",
    "choice": "one of several lines",
}


class Completion:
    """Answers for one place of one text."""

    def __init__(self, desk: Desk, reading: Reading, offset: int) -> None:
        self._reading = reading
        self._context: Context = context_at(reading.source.text, offset)
        self._node = reading.recipe_at(offset)
        self._scope: Scope = desk.scope(reading, self._node, self._recipe_name())
        self._computed: Computed | None = desk.known(reading, self._node) if self._node else None

    @property
    def replaced(self) -> tuple[int, int] | None:
        """From where to where the text is replaced; None: it is written at the cursor."""
        word = self._context.word
        return (word.start, word.end) if word else None

    def proposals(self) -> Iterator[Proposal]:
        """What could be written, each once."""
        if not self._context.is_free:
            return
        found: dict[str, Proposal] = {}
        for proposal in self._all():
            found.setdefault(proposal.label, proposal)
        yield from found.values()

    def _recipe_name(self) -> str:
        frame = self._context.frame("recipe")
        words = [token.text for token in frame.header] if frame else []
        return words[1] if len(words) > 1 else ""

    def _all(self) -> Iterator[Proposal]:
        frame = self._context.inner
        match frame.kind:
            case "file":
                yield from self._in_file(frame)
            case "recipe":
                yield from self._in_recipe(frame)
            case "block":
                yield from self._in_block(frame)
            case "index":
                return
            case "items":
                yield from self._items()
            case _:
                yield from self._inside_value(frame)

    # outside of blocks

    def _in_file(self, frame: Frame) -> Iterator[Proposal]:
        match frame.words:
            case []:
                about = "a recipe of its own"
                whole = "recipe ${1:name} {\n  language = 1\n\n  $0\n}"
                yield Proposal("recipe", Kind.Keyword, about, snippet=whole)
                variant = "recipe ${1:name} extends ${2:base} {\n  $0\n}"
                yield Proposal("recipe extends", Kind.Keyword, "a variant", snippet=variant)
            case ["recipe", _]:
                yield Proposal("extends", Kind.Keyword, "what it is a variant of")
            case ["recipe", _, "extends"]:
                yield from self._recipes()

    def _recipes(self) -> Iterator[Proposal]:
        own = self._recipe_name()
        beside = [node.name for node in self._reading.file.recipes if node.name != own]
        yield from words(beside, Kind.Module, "in this file")
        for name in shipped_recipes():
            yield Proposal(name, Kind.Module, "ships with triptych", _title(name))

    @property
    def _is_variant(self) -> bool:
        frame = self._context.frame("recipe")
        return frame is not None and "extends" in [token.text for token in frame.header]

    def _in_recipe(self, frame: Frame) -> Iterator[Proposal]:
        said = frame.words
        match said:
            case _ if is_complete(frame) and not self._context.path:
                yield from self._statements()
            case ["import", *_] if said[-1] == "from":
                yield from self._recipes()
            case ["import", *_]:
                yield from self._importable(frame)
            case ["drop", "assert"]:
                for comparison in self._base_asserts():
                    yield Proposal(comparison, Kind.Value, "an assert of the base")
            case ["assert" | "drop", *_] if "assert" in said[:2]:
                yield from self._asserted()
            case [("amend" | "replace" | "drop") as verb]:
                yield from self._changes(verb)
            case ["add"]:
                yield from self._blocks()
            case ["language", "="]:
                yield Proposal(str(EDITION), Kind.Value, "the edition", rank=0)
            case _ if said[-1] == ":":
                yield from self._types(said)
            case [*_, kind] if kind in NAMED_BLOCKS:
                there = said[0] in ("amend", "replace", "drop")
                names = self._scope.names(kind) if there else list(INPUTS) * (kind == "input")
                yield from words(names, Kind.Class, kind)

    def _statements(self) -> Iterator[Proposal]:
        if self._is_variant:
            for verb, about in (
                ("amend", "change settings of a block of the base"),
                ("add", "a block that the base lacks"),
                ("replace", "state a block of the base anew"),
                ("drop", "take a block of the base away"),
            ):
                yield Proposal(verb, Kind.Keyword, about, snippet=f"{verb} ", rank=0)
            yield from self._changes("amend", shown="amend ", rank=2)
        else:
            if not self._context.inner.names and self._lacks_edition():
                about = "the edition of the language"
                yield Proposal("language", Kind.Keyword, about, snippet=f"language = {EDITION}")
            yield from self._blocks()
        about = "what must hold, and is proved"
        yield Proposal("assert", Kind.Keyword, about, snippet="assert ")
        about = "blocks of another recipe"
        yield Proposal("import", Kind.Keyword, about, snippet="import ${1:blocks} from ${2:recipe}")

    def _lacks_edition(self) -> bool:
        body = self._node.body if self._node else ()
        return not any(isinstance(one, syntax.Setting) for one in body)

    def _changes(self, verb: str, shown: str = "", rank: int = 0) -> Iterator[Proposal]:
        """The blocks of the base, as a verb takes them."""
        base = self._base_scope()
        for name, kind in (base or self._scope).kinds.items():
            header = kind if kind == name else f"{kind} {name}"
            body = "" if verb == "drop" else " {\n  $0\n}"
            label = f"{shown}{header}"
            type_ = (base or self._scope).types.get(name)
            yield Proposal(label, Kind.Class, type_ or kind, snippet=f"{label}{body}", rank=rank)

    def _base_scope(self) -> Scope | None:
        node = self._node
        if node is None or node.base is None:
            return None
        base = self._reading.shelf.find(node.base, node, Findings())
        return self._reading.names.scope(base) if base else None

    def _base_asserts(self) -> Iterator[str]:
        node = self._node
        while node and node.base:
            node = self._reading.shelf.find(node.base, node, Findings())
            for statement in node.body if node else ():
                if isinstance(statement, syntax.Assert):
                    yield str(statement.comparison)

    def _blocks(self) -> Iterator[Proposal]:
        """New blocks, with all that they need."""
        for kind in (*SINGLE_BLOCKS, *NAMED_BLOCKS):
            if kind in SINGLE_BLOCKS and kind in self._scope.kinds:
                continue
            if kind == "input":
                for name, model in INPUTS.items():
                    if name not in self._scope.kinds:
                        yield new_block(f"input {name}", f"input {name}", model)
            elif kind in TYPED_BLOCKS:
                for type_, typed in types_of(kind).items():
                    header = kind if kind in SINGLE_BLOCKS else f"{kind} ${{1:name}}"
                    yield new_block(f"{kind} : {type_}", f"{header} : {type_}", typed)
            else:
                header = kind if kind in SINGLE_BLOCKS else f"{kind} ${{1:name}}"
                untyped = model_in(kind, kind, None)
                assert untyped
                yield new_block(kind, header, untyped)

    def _types(self, said: list[str]) -> Iterator[Proposal]:
        kind = next((word for word in said if word in TYPED_BLOCKS), None)
        for name, model in types_of(kind).items() if kind else ():
            yield Proposal(name, Kind.Class, kind or "", description(model), rank=0)

    def _importable(self, frame: Frame) -> Iterator[Proposal]:
        """The blocks of the recipe that the import names behind the cursor, if it does already."""
        yield Proposal("from", Kind.Keyword, "the recipe that they stand in")
        for statement in self._node.body if self._node else ():
            if not isinstance(statement, syntax.Import) or self._node is None:
                continue
            if statement.span.start == frame.tail[0].start:
                there = self._reading.shelf.find(statement.base, self._node, Findings())
                scope = self._reading.names.scope(there) if there else Scope()
                for name, kind in scope.kinds.items():
                    yield Proposal(name, Kind.Class, kind, rank=0)

    def _asserted(self) -> Iterator[Proposal]:
        path = self._context.path
        if not path:
            for name, kind in self._scope.kinds.items():
                yield Proposal(name, Kind.Class, kind)
            return
        part = path[0]
        if self._scope.kinds.get(part) == "layout":
            for name in ASSERTED_CALLS:
                about = "the most tokens of a sample with so many pictures"
                yield Proposal(name, Kind.Function, about, snippet=f"{name}(images: ${{1:1}})")
        else:
            yield from words(ASSERTED_COUNTS, Kind.Field, "the most that it yields")
            yield from self._settings(path)

    # blocks

    def _header(self) -> tuple[str | None, str, str, type[Model] | None]:
        frame = self._context.frame("block")
        assert frame
        verb, kind, name, type_ = header_of(frame)
        known = self._scope.types.get(name)
        if kind == "mode" and not (type_ or known):
            type_ = "Chat"
        return verb, kind, name, model_in(kind, name, type_ or known)

    def _block_node(self, name: str) -> syntax.Block | None:
        body = self._node.body if self._node else ()
        found = [one for one in body if isinstance(one, syntax.Block) and one.name == name]
        return found[-1] if found else None

    def _in_block(self, frame: Frame) -> Iterator[Proposal]:
        verb, kind, name, model = self._header()
        said = frame.words[1:] if frame.words[:1] and frame.words[0] in VERBS else frame.words
        fresh = is_complete(frame) and not self._context.path
        if fresh and "->" not in said:
            yield from self._keys(verb, kind, name, model, frame)
        elif said[:1] == ["drop"]:
            yield from self._droppable(name, kind, said)
        elif "->" in said and kind == "layout":
            yield from self._items()
            if fresh and self._is_new_line():
                yield from self._keys(verb, kind, name, model, frame)
        elif not said and frame.words:
            yield from entries(kind)
        elif said[1:2] == ["="] and model:
            slot = slot_of(model, said[0])
            yield from self._value(slot, name, kind, is_part=said[2:] not in ([], ["["]))

    def _is_new_line(self) -> bool:
        tail, word = self._context.inner.tail, self._context.word
        end = word.start if word else len(self._reading.source.text)
        return "\n" in self._reading.source.text[tail[-1].end : end]

    def _keys(
        self, verb: str | None, kind: str, name: str, model: type[Model] | None, frame: Frame
    ) -> Iterator[Proposal]:
        written = {*frame.names}
        block = self._block_node(name)
        for statement in block.body if block else ():
            if isinstance(statement, syntax.Setting):
                written.add(statement.name)
        word = self._context.word
        written -= {word.text} if word else set()
        for key in settings_of(model) if model else ():
            if key in written:
                continue
            slot = slot_of(model, key) if model else None
            assert slot
            needed = field_of(slot).is_required() and verb != "amend"
            detail = said_of(slot) + (" (required)" if needed else "")
            shown = f"{key} = {placeholder(slot, 1)}"
            rank = 0 if needed else 3
            yield Proposal(key, Kind.Property, detail, meaning(slot), shown, rank)
        yield from entries(kind)
        if kind == "layout":
            for rule, count in CONTENT_RULES.items():
                if rule not in self._scope.of_part("rule", name) or verb == "amend":
                    given = ", ".join(["b"] if count == 1 else ["x", "t"][:count])
                    shown = f"{rule}({given}) -> $0"
                    yield Proposal(f"{rule}({given})", Kind.Function, "a rule", snippet=shown)
        if verb == "amend":
            about = "take a statement of the base away"
            yield Proposal("drop", Kind.Keyword, about, snippet="drop ")
            if kind in ENTRY_HOMES.values():
                for word_, about in (("add", "a new one"), ("replace", "one that is there")):
                    yield Proposal(word_, Kind.Keyword, about, snippet=f"{word_} ")

    def _droppable(self, name: str, kind: str, said: list[str]) -> Iterator[Proposal]:
        if len(said) > 1:
            names = (
                self._scope.specials if said[1] == "special" else self._scope.of_part(said[1], name)
            )
            yield from words(names, Kind.Field, said[1])
            return
        yield from words(self._scope.of_part("setting", name), Kind.Property, "a setting")
        entries = [entry for entry, home in ENTRY_HOMES.items() if home == kind]
        yield from words(entries, Kind.Keyword, "one of these")

    # values

    def _inside_value(self, frame: Frame) -> Iterator[Proposal]:
        block = self._context.frame("block")
        if block is None:
            yield from self._asserted()
            return
        _, kind, name, model = self._header()
        slot = slot_of(model, block.tail[0].text) if model and block.tail else None
        owner: type[Model] | None = None
        for inner in self._context.values:
            if inner.kind == "call" and inner.header:
                called_name = inner.header[-1].text
                if called_name != "assumed":
                    owner = called(called_name, slot)
                    slot = argument_slot(owner, inner.at) if owner else None
            elif inner.kind == "list" and slot:
                slot = slot.member(inner.at if isinstance(inner.at, int) else 0)
        if frame.kind == "call" and owner and not frame.tail and isinstance(frame.at, int):
            yield from self._arguments(owner, frame, name)
        is_part = bool(frame.tail) or frame.kind == "group"
        yield from self._value(slot, name, kind, is_part=is_part)

    def _arguments(self, model: type[Model], frame: Frame, name: str) -> Iterator[Proposal]:
        positional = getattr(model, "positional", ())
        given = {*frame.names, *positional[: frame.at if isinstance(frame.at, int) else 0]}
        if getattr(model, "open_arguments", None):
            for kind in kinds_of_data(self._block_node(name)):
                if kind not in given:
                    yield Proposal(kind, Kind.EnumMember, "a kind of data", snippet=f"{kind}: ")
            return
        for argument in names_of(model):
            slot = slot_of(model, argument)
            if slot is None or argument in given:
                continue
            needed = field_of(slot).is_required()
            shown = f"{argument}: {placeholder(slot, 1)}"
            detail = said_of(slot) + (" (required)" if needed else "")
            rank = 0 if needed else 2
            yield Proposal(argument, Kind.Variable, detail, meaning(slot), shown, rank)

    def _value(self, slot: Slot | None, name: str, kind: str, is_part: bool) -> Iterator[Proposal]:
        word = self._context.word
        if word and word.kind == "number":
            digits = re.match(r"[0-9.]+(?:[eE][+-]?[0-9]+)?", word.text)
            yield from units(slot, digits[0] if digits else "")
        elif self._context.path:
            if (slot and slot.takes_names) or (slot and slot.member().takes_names):
                yield from self._modules(self._context.path)
            else:
                yield from self._settings(self._context.path)
        elif is_part and not (slot and slot.takes_names):
            yield from references(slot.units if slot else None, self._scope, "")
        elif slot:
            yield from values(slot, self._scope, self._block_node(name), kind, name)
        else:
            yield from references(None, self._scope, "")

    def _settings(self, path: tuple[str, ...]) -> Iterator[Proposal]:
        """What a path may go on with where values are: settings, then arguments."""
        if len(path) == 1:
            model = self._scope.model(path[0])
            for key in settings_of(model) if model else ():
                slot = slot_of(model, key) if model else None
                yield Proposal(key, Kind.Field, said_of(slot) if slot else "", rank=1)
            return
        found = at(self._computed.recipe, ".".join(path)) if self._computed else None
        if found and not isinstance(found, Astray):
            yield from words(names_in(found.value), Kind.Field, "an argument")

    def _modules(self, path: tuple[str, ...]) -> Iterator[Proposal]:
        """What a path may go on with where parameters are named: modules, then parameters."""
        start = ".".join(path)
        model = self._scope.model(path[0])
        if len(path) == 1 and model and issubclass(model, PartModel):
            yield from words(model.outputs, Kind.Field, "an output")
        for module in sorted(self._computed.modules if self._computed else ()):
            parent, _, name = module.rpartition(".")
            if parent != start or self._computed is None:
                continue
            count = self._computed.numbered(module)
            if count:
                shown = f"{name}[0..{count - 1}]"
                snippet = f"{name}[${{1:0}}..${{2:{count - 1}}}]"
                yield Proposal(shown, Kind.Field, f"some of {count}", snippet=snippet, rank=1)
            yield Proposal(name, Kind.Field, "parameters", rank=0)

    # layouts

    def _items(self) -> Iterator[Proposal]:
        block = self._context.frame("block")
        if block is None:
            return
        layout = self._header()[2]
        parameters = block.given
        if self._context.path:
            if self._context.path[-1] in parameters:
                yield Proposal("tokens", Kind.Field, "the places of its features", rank=0)
                yield Proposal("index", Kind.Field, "its number", rank=1)
                yield Proposal("corners", Kind.Field, "its coordinates", rank=1)
                parts = self._scope.names("encoder", "adapter")
                for part in parts:
                    yield Proposal(part, Kind.Class, "the places of one part", rank=2)
            return
        yield from words(parameters, Kind.Variable, "what the rule is given")
        yield from words(self._scope.specials, Kind.EnumMember, "a special token")
        for rule in self._scope.of_part("rule", layout):
            shown = f"{rule}(${{1:{next(iter(parameters), '')}}})"
            yield Proposal(f"{rule}(...)", Kind.Function, "a rule of the layout", snippet=shown)
        for item, about in _ITEMS.items():
            yield Proposal(f"{item}(...)", Kind.Function, about, snippet=f"{item}($1)")


@cache
def _title(name: str) -> str:
    return title_of(name)

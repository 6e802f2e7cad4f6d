"""Recipes that nearly hold: any block, setting and statement, put where it may stand."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from pydantic.fields import FieldInfo

from triptych.dsl.evaluate import model_of, settings_of, types_of
from triptych.dsl.source import Source
from triptych.dsl.whole import NAMED_BLOCKS, SINGLE_BLOCKS, TYPED_BLOCKS, Part
from triptych.tests.fuzzing.chance import Chance
from triptych.tests.fuzzing.settings import TEXTS, Values

_HEADER = re.compile(r"^(?:add |replace )?(\w+)(?: (\w+))?(?: : (\w+))? \{$", re.M)
_NOWHERE = Source("", "").span(0, 0)
OPERATORS = ("<=", "==", "!=", "<", ">", ">=")


@dataclass(frozen=True)
class Block:
    """A block of a recipe, as its header says."""

    kind: str
    name: str
    type: str | None

    @property
    def head(self) -> str:
        """How a variant speaks of it."""
        return self.kind if self.name == self.kind else f"{self.kind} {self.name}"

    @property
    def settings(self) -> Mapping[str, FieldInfo]:
        """What it may say."""
        model = model_of(Part(self.kind, self.name, self.type, _NOWHERE, None, ""))
        return settings_of(model) if model else {}


def blocks_of(text: str) -> list[Block]:
    """The blocks that a text of an author declares."""
    return [
        Block(kind, name or kind, type_ or ("Chat" if kind == "mode" else None))
        for kind, name, type_ in _HEADER.findall(text)
        if kind in (*SINGLE_BLOCKS, *NAMED_BLOCKS)
    ]


class Meddler:
    """Changes a recipe in ways that the grammar allows and the models mostly do."""

    def __init__(self, chance: Chance, base: str) -> None:
        self.chance = chance
        self.values = Values(chance)
        self.blocks = blocks_of(base)

    def variant(self, base: str) -> str:
        """A variant of a recipe with a few changes."""
        return f"recipe case extends {base} {{\n{''.join(self.chance.some(self.change, 3, 1))}}}\n"

    def change(self) -> str:
        """One statement of a variant."""
        chance, block = self.chance, self.chance.one(self.blocks)
        form = chance.below(14)
        if form < 8:
            return f"amend {block.head} {{\n{self.statements(block)}}}\n"
        if form == 8:
            return f"drop {block.head}\n"
        if form == 9:
            comparison = f"{self.operand()} {chance.one(OPERATORS)} {self.operand()}"
            return f"{chance.one(('', 'drop '))}assert {comparison}\n"
        if form == 10:
            other = chance.one(("qwen2_vl_tiny", "minigpt4_tiny", "base"))
            brought = chance.one(("vit", "lm", "merger", "image", "chatml", "nothing"))
            return f"import {brought} as {chance.one(('b', 'lm', 'vit'))} from {other}\n"
        return self.whole_block(chance.one(("add ", "add ", "replace ")))

    def statements(self, block: Block) -> str:
        """A few statements for a block that is there."""
        chance = self.chance
        lines = []
        for name in chance.some(lambda: chance.one(list(block.settings) or ["nothing"]), 2, 1):
            setting = f"drop {name}"
            if name in block.settings and not chance.maybe(10):
                setting = f"{name} = {self.values.setting(block.settings[name])}"
            lines.append(f"{chance.one(('', '', '', 'amend '))}{setting}\n")
        if block.kind in ("tokens", "layout", "weights") or chance.maybe(5):
            lines.append(f"{chance.one(('add ', '', 'replace '))}{self.entry(block)}\n")
        return "".join(lines)

    def whole_block(self, verb: str) -> str:
        """A block of any kind and type, with what it requires."""
        chance = self.chance
        kind = chance.one((*NAMED_BLOCKS, *SINGLE_BLOCKS))
        name = kind if kind in SINGLE_BLOCKS else chance.one(("extra", "vit", "image", "chat"))
        type_ = chance.one(list(types_of(kind))) if kind in TYPED_BLOCKS else None
        block = Block(kind, name, type_)
        lines = [
            f"{name} = {self.values.setting(info)}\n"
            for name, info in block.settings.items()
            if info.is_required() or chance.maybe(15)
        ]
        if kind in ("tokens", "layout", "weights"):
            lines += [f"{entry}\n" for entry in chance.some(lambda: self.entry(block), 3)]
        typed = f" : {type_}" if type_ else ""
        return f"{verb}{block.head}{typed} {{\n{''.join(lines)}}}\n"

    def entry(self, block: Block) -> str:
        """A statement that is no setting: of its home, or now and then of another."""
        chance = self.chance
        homes = {"tokens": "special", "layout": "rule", "weights": "map"}
        form = homes.get(block.kind) if chance.maybe(90) else None
        form = form or chance.one(("special", "rule", "map"))
        if form == "special":
            return f"special {chance.one(('eos', 'more'))} = {chance.one(TEXTS)} @ {self.operand()}"
        if form == "rule":
            name = chance.one(("user", "assistant", "image", "pair", "text", "system", "extra"))
            items = " ".join(chance.some(self.item, 4))
            return f"{name}({chance.one(('b', 'x', 'x, t', ''))}) -> {items}"
        if chance.maybe(30):
            return f"ignore {chance.one(TEXTS)} : {chance.one(TEXTS)}"
        target = chance.one(('"vit.*"', '"lm.blocks.*.attn.q.*"', 'transposed("lm.head.weight")'))
        return f"map {chance.one(TEXTS)} -> {target}"

    def item(self, depth: int = 0) -> str:
        """An item of a layout's rule."""
        chance = self.chance
        form = chance.below(9 if depth < 2 else 6)
        if form == 0:
            return chance.one(("b", "eos", "x", "t", "place", "begin", "nothing"))
        if form == 1:
            return chance.one(TEXTS)
        if form == 2:
            return f"place * x.{chance.one(('tokens', 'tokens', 'merger', 'tokns'))}"
        if form == 3:
            return chance.one(("x.index", "b.corners", "b.nothing"))
        if form < 6:
            return chance.one(("image(x)", "video(x)", "user(b)", "text(t)", "pair(x, t)"))
        inner = " ".join(chance.some(lambda: self.item(depth + 1), 3))
        if form == 6:
            return f"loss({inner})"
        return f"apart({inner})" if form == 7 else f"choice({inner or 'b'}, {chance.one(TEXTS)})"

    def operand(self) -> str:
        """A number, a setting, a count, or a sum of them."""
        chance = self.chance
        form = chance.below(6)
        if form == 0:
            return "chat.worst(images: 1)"
        if form == 1:
            return chance.one(("vit.tokens", "merger.tokens", "lm.tokens"))
        if form == 2:
            return f"{self.values.number('tok', whole=True)} + 4tok"
        return self.values.number(chance.one(("", "tok")), whole=True)

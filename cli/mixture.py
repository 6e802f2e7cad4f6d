"""A recipe that imports its parts from others, with what a newcomer should know as comments."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import click

from ..dsl.diagnostics import RecipeError, listing
from ..dsl.format import format_text
from ..dsl.forms import Json
from ..dsl.generated import text_of_block, text_of_items
from ..dsl.inputs import Native, Tiles
from ..dsl.load import load_text
from ..dsl.parts import Decoder, MergeMLP, QueryDecoder, Resized
from ..dsl.recipe import Recipe
from ..dsl.schema import to_json
from .choices import Choice, chain, sources

TOO_LONG = {"T504", "T506", "V314"}
"""What smaller pictures can mend: more tokens than the language model has room for."""
FEWEST_TOKENS = 16
"""Below so many, smaller pictures are tried no more."""


@dataclass(frozen=True)
class Mixture:
    """Towers, an adapter with those behind it, and a language model, under a name of their own.

    `resize` replaces that of the tower's own recipe.
    """

    name: str
    towers: tuple[Choice, ...]
    adapter: Choice
    lm: Choice
    resize: Json = None

    def text(self) -> str:
        """The whole recipe; raises `RecipeError` where the parts do not fit one another."""
        learning = self._learning()
        for attempt in self._attempts():
            text = attempt._text(learning)
            try:
                _prove(text, f"{self.name}.vlm")
            except RecipeError as error:
                wrong = {one.code for one in error.diagnostics if one.severity == "error"}
                if wrong <= TOO_LONG:
                    refused = error
                    continue
                raise
            return text
        raise refused

    def _attempts(self) -> Iterator[Mixture]:
        """The same with pictures of fewer and fewer tokens."""
        resize = self._image["resize"]
        yield self
        match self._first.inputs["image"].resize:
            case Native(budget=budget):
                most = min(budget.high, self._lm.context)
                while most > FEWEST_TOKENS:
                    least = min(budget.at_least(4), most // 4)
                    yield replace(self, resize=resize | {"budget": f"{least}tok..{most}tok"})
                    most //= 2
            case Tiles(count=count):
                most = count.high
                while most > 1:
                    most //= 2
                    yield replace(self, resize=resize | {"count": f"1..{most}"})

    # what stands in it

    @property
    def _first(self) -> Recipe:
        return self.towers[0].recipe

    @property
    def _lm(self) -> Decoder | QueryDecoder:
        assert self.lm.recipe.lm
        return self.lm.recipe.lm

    @cached_property
    def _chain(self) -> list[str]:
        return chain(self.adapter.recipe, self.adapter.part)

    @cached_property
    def _sources(self) -> list[str]:
        """What the adapter takes, by the names that its own recipe has for them."""
        named = sources(self.adapter.recipe, self.adapter.part)
        if len(named) != len(self.towers):
            wanted = "one tower" if len(named) == 1 else f"{len(named)} towers"
            raise click.UsageError(
                f"{self.adapter} takes {listing(named)}: choose {wanted}, or another adapter."
            )
        return named

    @property
    def _layout(self) -> str:
        return next(iter(self.lm.recipe.chats.values())).layout

    @property
    def _image(self) -> dict[str, Json]:
        """The pictures that the first tower takes in its own recipe."""
        image = dict(to_json(self._first)["inputs"]["image"])
        resize = image["resize"]
        window = next(
            (
                part.window.rows
                for part in map(self.adapter.recipe.adapters.get, self._chain)
                if isinstance(part, MergeMLP)
            ),
            1,
        )
        if resize["call"] == "native":
            patch = self._first.encoders[self.towers[0].part].patch
            resize = resize | {"multiple": f"{window * patch}px"}
        return image | {"resize": self.resize or resize}

    # its text

    def _text(self, learning: Sequence[str]) -> str:
        return format_text("\n".join([*self._head(), *self._training(learning), "}"]))

    def _learning(self) -> list[str]:
        """The adapters that hold parameters, and can learn."""
        from ..compiler.pipeline import model

        draft = load_text(format_text("\n".join([*self._head(), "}"])), f"{self.name}.vlm")
        owners = {name.partition(".")[0] for name in model(draft).parameters()}
        return [name for name in self._chain if name in owners]

    def _head(self) -> Iterator[str]:
        towers = " and ".join(map(str, self.towers))
        yield f"# {self.name}: say in a sentence what this model is for. Readers start here."
        yield "#"
        yield f"# Seeing: {towers}. Between: {self.adapter}. Speaking: {self.lm}."
        yield "# What is imported stays in its own file. Only what differs is written here."
        yield f"recipe {self.name} {{"
        yield "language = 1\n"
        yield "# The language model, with its vocabulary and the way it writes a dialogue."
        yield f"import tokens, lm, {self._layout} from {self.lm.recipe.name}\n"
        for tower, source in zip(self.towers, self._sources, strict=True):
            alias = "" if tower.part == source else f" as {source}"
            known = f" The adapter knows it as `{source}`." if alias else ""
            yield f"# What sees.{known}"
            yield f"import {tower.part}{alias} from {tower.recipe.name}\n"
        yield "# What carries features over to the width of the language model."
        layouts = [
            part.layout
            for part in map(self.adapter.recipe.adapters.get, self._chain)
            if isinstance(part, QueryDecoder) and part.layout
        ]
        yield f"import {', '.join([*self._chain, *layouts])} from {self.adapter.recipe.name}\n"
        less = ", but for its size: the language model has less room" if self.resize else ""
        yield f"# How a picture becomes what the tower takes: as in its own recipe{less}."
        yield text_of_block("input", "image", self._image)
        yield from self._ties()

    def _ties(self) -> Iterator[str]:
        """What each part takes: they were made for other neighbours."""
        yield "\n# Who takes what: each part was made for other neighbours. All of them start"
        yield "# fresh. To start from published weights, map their names in a `weights` block, as"
        yield "# the recipes do that the parts come from."
        for number, (tower, source) in enumerate(zip(self.towers, self._sources, strict=True)):
            yield from _amended(f"encoder {source}", self._seen(number, tower))
        own = self.adapter.recipe
        for name in self._chain:
            taken = [self._taken(str(one), one.part) for one in own.adapters[name].in_]
            changed = taken != [str(one) for one in own.adapters[name].in_]
            lines = [f"in = [{', '.join(dict.fromkeys(taken))}]"] if changed else []
            yield from _amended(f"adapter {name}", [*lines, *_no_start(own.adapters[name])])
        assert own.lm
        into = [str(one) for one in own.lm.in_ if one.part in self._chain]
        yield from _amended("lm", [f"in = [{', '.join(into)}]", *_no_start(self._lm)])
        yield from self._one_place_for_features()

    def _seen(self, number: int, tower: Choice) -> Iterator[str]:
        """The settings of a tower that sees the first one's pictures."""
        part = tower.recipe.encoders[tower.part]
        (first, *more) = part.in_
        own = tower.recipe.inputs["image"]
        side = first.side if isinstance(first, Resized) else own.resize.side
        if number and side:
            yield f"in = resize(image, {side}px)"
        elif more or first.part != "image":
            yield "in = image"
        if number and part.normalize is None:
            normalize = to_json(tower.recipe)["inputs"]["image"].get("normalize")
            yield f"normalize = {normalize['call']}()" if normalize else ""
        yield from _no_start(part)

    def _taken(self, text: str, name: str) -> str:
        """What an adapter takes of the tower that stands in place of its own."""
        if name in self._chain:
            return text
        tower = self.towers[self._sources.index(name)]
        if (tower.recipe.name, tower.part) == (self.adapter.recipe.name, name):
            return text
        its_own = self.adapter.recipe.encoders.get(name)
        has_class = getattr(tower.recipe.encoders[tower.part], "class_token", False)
        wants_patches = ".patches" in text or not getattr(its_own, "class_token", False)
        return f"{name}.patches" if has_class and wants_patches else name

    def _one_place_for_features(self) -> Iterator[str]:
        """Rules that kept places for the features of several parts keep them for one."""
        rules = to_json(self.lm.recipe)["layouts"][self._layout]["rules"]
        for name, rule in rules.items():
            items, several = [], False
            for item in rule["items"]:
                if item["item"] == "repeat" and item.get("part"):
                    if not several:
                        items.append({key: item[key] for key in ("item", "special", "count")})
                    several = True
                else:
                    items.append(item)
            if several:
                head = f"{name}({', '.join(rule['parameters'])})"
                yield f"amend layout {self._layout} {{ {head} -> {text_of_items(items)} }}"

    def _training(self, learning: Sequence[str]) -> Iterator[str]:
        towers, adapters = ", ".join(self._sources), ", ".join(learning)
        new = min(512, self._lm.context // 4)
        yield f"""
  # Stages name every parameter: it is trained or frozen, never forgotten. First the adapter alone
  # learns to make sense to a language model that cannot change yet.
  stage align {{
    train    = [{adapters}]
    freeze   = [{towers}, lm]
    layout   = {self._layout}
    data     = mix(chat: 1)  # a kind of data, which `triptych train --data chat=FILE` supplies
    stop     = 2000steps
    batch    = 64seq
    optim    = adamw(lr: 1e-3, betas: [0.9, 0.95], clip: 1.0)
    schedule = cosine(warmup: 100steps)
  }}

  # Then the language model learns with it.
  stage tune {{
    after    = align
    train    = [{adapters}, lm]
    freeze   = [{towers}]
    layout   = {self._layout}
    data     = mix(chat: 1)
    stop     = 4000steps
    batch    = 64seq
    optim    = adamw(lr: 2e-5, betas: [0.9, 0.95], weight_decay: 0.05, clip: 1.0)
    schedule = cosine(warmup: 200steps, min: 2e-6)
  }}

  # How it answers: its limits, and what it is compiled for.
  mode chat {{
    layout = {self._layout}
    batch  = 1..4
    prompt = ..{self._lm.context - new}tok
    new    = {new}tok
    target = eager(precision: f32)
  }}

  # What must hold; `triptych check` proves it, or says why it fails.
  assert {self._layout}.worst(images: 1) <= lm.context
"""


def _amended(block: str, lines: Sequence[str] | Iterator[str]) -> Iterator[str]:
    stated = [line for line in lines if line]
    if stated:
        yield f"amend {block} {{"
        yield from stated
        yield "}"


def _no_start(part: object) -> Iterator[str]:
    """Published weights of a part are of no use without a map of their names."""
    if getattr(part, "start", None) is not None:
        yield "drop start"


def _prove(text: str, name: str) -> None:
    from ..compiler.pipeline import prove

    prove(load_text(text, name))

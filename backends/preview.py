"""A sample as a layout writes it: what is trained on, what is learnt of it, what is asked."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from PIL import Image, UnidentifiedImageError

from ..blocks.input.layout import (
    Layout,
    Medium,
    Message,
    Part,
    Places,
    Run,
    Special,
    Text,
)
from ..blocks.input.sample import Attachment, Turn
from ..blocks.input.tokenizer import Tokenizer, TokenizerError
from ..blocks.input.video import recorded
from ..blocks.input.writing import vocabulary_file, written
from ..compiler.routes import reader_of
from ..compiler.spec import layout_json
from ..compiler.tokens import as_seen, counted, ends, item_tokens, placed
from ..compiler.types import evaluate
from ..dsl.modes import Features, Mode
from ..dsl.recipe import Recipe
from ..dsl.texts import LossItem, Rule, SlotItem, items_within
from .data import DataError

QUESTION, ANSWER = "What is in the picture?", "A red cube beside a blue ball."
"""What a preview says where no sample is given."""
CLIP = (240, 24.0)
"""Frames, and frames a second, of the clip that stands in for one that is not given."""


class PreviewError(ValueError):
    """A sample cannot be shown: its layout cannot write it, or a picture is not there."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A stretch of a page; `ids` is None where no vocabulary is at hand.

    `count` is the number of its tokens, as far as that is known.
    """

    kind: Literal["text", "special", "places"]
    text: str
    learnt: bool
    ids: tuple[int, ...] | None

    @property
    def count(self) -> int | None:
        """How many tokens it takes; None for text without a vocabulary."""
        return None if self.ids is None else len(self.ids)


@dataclass(frozen=True, slots=True)
class Page:
    """What a stage is fed, or a mode is asked; `user` says which of them, if any."""

    user: str
    pieces: tuple[Piece, ...]

    @property
    def ids(self) -> tuple[int, ...] | None:
        """All tokens; None where no vocabulary is at hand."""
        if any(piece.ids is None for piece in self.pieces):
            return None
        return tuple(id for piece in self.pieces for id in piece.ids or ())

    @property
    def mask(self) -> tuple[bool, ...] | None:
        """For each token whether it is learnt."""
        if self.ids is None:
            return None
        return tuple(piece.learnt for piece in self.pieces for _ in piece.ids or ())

    def to_json(self) -> dict[str, Any]:
        """Plain data, for other programs."""
        return {
            "user": self.user,
            "ids": self.ids,
            "learnt": self.mask,
            "pieces": [
                {"kind": piece.kind, "text": piece.text, "learnt": piece.learnt, "ids": piece.ids}
                for piece in self.pieces
            ],
        }


@dataclass(frozen=True, slots=True)
class Preview:
    """A sample in one layout: all of it, and the prompt that a mode makes of its question.

    `without` says why there are no ids; `draws`, whether one of several lines is chosen. `stops`
    are the texts of what ends an answer. `agrees` says whether the prompt is the sample up to the
    loss of its last answer, token for token; None where one of them is not there.
    """

    layout: str
    whole: Page
    prompt: Page | None
    without: str | None
    draws: bool
    stops: tuple[str, ...]
    agrees: bool | None

    def to_json(self) -> dict[str, Any]:
        """Plain data, for other programs."""
        return {
            "layout": self.layout,
            "sample": self.whole.to_json(),
            "prompt": self.prompt and self.prompt.to_json(),
            "no_ids_because": self.without,
            "stops": list(self.stops),
            "prompt_is_sample_before_answer": self.agrees,
        }


@dataclass(frozen=True, slots=True)
class Chosen:
    """A layout, and the stage and the mode whose samples it writes; either may be missing."""

    layout: str
    stage: str | None
    mode: str | None


def choose(
    recipe: Recipe, layout: str | None = None, stage: str | None = None, mode: str | None = None
) -> Chosen:
    """What a preview is of: what is not named is the first that fits what is."""
    if layout is None and stage is not None:
        layout = recipe.stages[stage].layouts[0]
    if layout is None and mode is not None:
        layout = layout_of(recipe, mode)
    layout = layout or next((name for name in used(recipe)), next(iter(recipe.layouts)))
    stages = [name for name, one in recipe.stages.items() if layout in one.layouts]
    modes = [name for name in recipe.modes if layout_of(recipe, name) == layout]
    return Chosen(layout, stage or next(iter(stages), None), mode or next(iter(modes), None))


def layout_of(recipe: Recipe, mode: str) -> str | None:
    """The layout of a mode; None for one without text."""
    chosen = recipe.modes[mode]
    return None if isinstance(chosen, Features) else chosen.layout


def used(recipe: Recipe) -> list[str]:
    """The layouts in use: those of modes first, for they are asked about most."""
    asked = [name for mode in recipe.modes if (name := layout_of(recipe, mode))]
    fed = [name for stage in recipe.stages.values() for name in stage.layouts]
    return list(dict.fromkeys([*asked, *fed]))


def example(recipe: Recipe, chosen: Chosen) -> tuple[Turn, ...]:
    """A question about a picture and its answer, or what else the layout has a rule for."""
    layout = recipe.layouts[chosen.layout]
    rules, media = layout.rules, placed(_fed(recipe, chosen), [layout])
    shown = [Attachment(medium, Path()) for medium in media[:1]]
    if "user" in rules:
        return Turn("user", (*shown, QUESTION)), Turn("assistant", (ANSWER,))
    rule = next(rule for name, rule in rules.items() if name not in media and _writes(rule))
    if shown:
        return Turn("user", tuple(shown)), Turn("assistant", (ANSWER,))
    return (Turn(rule.name, tuple(ANSWER for _ in rule.parameters)),)


def _fed(recipe: Recipe, chosen: Chosen) -> Recipe:
    """The recipe as the stage sees it, else as the mode does."""
    if chosen.stage:
        return as_seen(recipe, recipe.stages[chosen.stage])
    return as_seen(recipe, recipe.modes[chosen.mode]) if chosen.mode else recipe


def _writes(rule: Rule) -> bool:
    """Whether a rule writes what somebody says."""
    return any(isinstance(item, SlotItem) for item in items_within(rule.items))


def _learns(recipe: Recipe, layout: str) -> bool:
    """Whether a layout has a loss, so that what stands before it is a prompt."""
    rules = recipe.layouts[layout].rules.values()
    return any(isinstance(item, LossItem) for rule in rules for item in items_within(rule.items))


def preview(
    recipe: Recipe,
    chosen: Chosen,
    turns: Sequence[Turn],
    *,
    size: tuple[int, int] | None = None,
    vocabularies: Path | None = None,
    lot: int = 0,
) -> Preview:
    """How a layout writes a sample, for a stage and for a mode.

    `size` is taken for the width and height of every picture and clip, whose files are then not
    read; `vocabularies` is the folder that the tokenizer's path starts from, unless its file ships;
    `lot` settles what the layout leaves to choose. PreviewError says why it cannot be shown.
    """
    layout = Layout(chosen.layout, layout_json(recipe, recipe.layouts[chosen.layout]))
    writer = _Writer(recipe, chosen.layout, vocabularies)
    mode = recipe.modes[chosen.mode] if chosen.mode else None
    fed = _fed(recipe, chosen)
    user = f"stage {chosen.stage}" if chosen.stage else ""
    try:
        messages = _messages(fed, chosen.layout, turns, size)
        whole = Page(user, tuple(writer.pieces(layout.render(messages, lot), layout.longest)))
        prompt, agrees = None, None
        if _learns(recipe, chosen.layout) and (mode is None or isinstance(mode, Mode)):
            answered = turns[-1].role in ("assistant", layout.answer)
            question = turns[:-1] if answered else turns
            seen = as_seen(recipe, mode) if mode else fed
            asked = f"mode {chosen.mode}" if mode else user
            runs = layout.prompt(_messages(seen, chosen.layout, question, size))
            prompt = Page(asked, tuple(writer.pieces(runs)))
            same = layout.prompt(_messages(fed, chosen.layout, question, size))
            agrees = _begins(whole, Page(asked, tuple(writer.pieces(same))))
    except (ValueError, OSError) as problem:
        raise PreviewError(str(problem)) from problem
    stops = [writer.specials[id] for id in layout.stops] + [
        repr(text) for text in layout.stop_texts
    ]
    return Preview(chosen.layout, whole, prompt, writer.without, layout.draws, tuple(stops), agrees)


def _begins(whole: Page, prompt: Page) -> bool | None:
    """Whether a prompt is what a sample begins with."""
    if whole.ids is None or prompt.ids is None or not any(whole.mask or ()):
        return None
    return whole.ids[: len(prompt.ids)] == prompt.ids


class _Writer:
    """Writes runs as pieces, with ids where the vocabulary is at hand."""

    def __init__(self, recipe: Recipe, layout: str, vocabularies: Path | None) -> None:
        assert recipe.tokens, "a recipe with layouts has tokens"
        self.specials: Mapping[int, str] = {
            special.id: special.text for special in recipe.tokens.specials.values()
        }
        self.without: str | None = None
        self._tokenizer: Tokenizer | None = None
        said = _tokenizer(recipe, layout)
        texts = {text: id for id, text in self.specials.items()}
        try:
            file = vocabulary_file(said, vocabularies)
            self._tokenizer = Tokenizer.load(said["call"], file, texts, said)
        except TokenizerError as problem:
            self.without = f"{problem}".replace(f"{file.parent}/", "")

    def pieces(self, runs: Sequence[Run], longest: int | None = None) -> Iterator[Piece]:
        if self._tokenizer is None:
            yield from (
                self._piece(run, None, isinstance(run, Text | Special) and run.loss) for run in runs
            )
            return
        for one in written(runs, self._tokenizer, longest):
            yield self._piece(one.run, one.ids, one.learnt)

    def _piece(self, run: Run, ids: tuple[int, ...] | None, learnt: bool) -> Piece:
        match run:
            case Text(text):
                return Piece("text", text, learnt, ids)
            case Special(id):
                return Piece("special", self.specials[id], learnt, (id,) if ids is None else ids)
            case Places(id, count):
                return Piece("places", self.specials[id], learnt, (id,) * count)


def _tokenizer(recipe: Recipe, layout: str) -> dict[str, Any]:
    """The tokenizer that a layout's texts are cut by: a part that reads questions has its own."""
    assert recipe.tokens
    for source in recipe.lm.in_ if recipe.lm else ():
        reader = reader_of(recipe, source.part)
        if reader and reader.layout == layout and reader.tokenizer:
            return reader.tokenizer.model_dump()
    return recipe.tokens.tokenizer.model_dump()


def _messages(
    recipe: Recipe, layout: str, turns: Iterable[Turn], size: tuple[int, int] | None
) -> list[Message]:
    """The turns with the places that their media take, which only their sizes decide."""
    messages = []
    for turn in turns:
        parts = list[Part]()
        for part in turn.parts:
            parts.append(
                _medium(recipe, layout, part, size) if isinstance(part, Attachment) else part
            )
        messages.append(Message(turn.role, tuple(parts)))
    return messages


def _medium(recipe: Recipe, layout: str, shown: Attachment, size: tuple[int, int] | None) -> Medium:
    if shown.input not in placed(recipe, [recipe.layouts[layout]]):
        raise DataError(f"layout {layout} places no {shown.input}")
    assert isinstance(shown.content, Path), "a sample that was read names files"
    length = CLIP if shown.input == "video" else (1, 1.0)
    if size is None:
        size, length = _measured(shown.content, shown.input)
    found = counted(recipe, recipe.layouts[layout], shown.input, size, length)
    values = {
        f"{shown.input}.width": size[0],
        f"{shown.input}.height": size[1],
        f"{shown.input}.frames": found.frames,
    }
    tokens = {
        part: evaluate(item_tokens(recipe, shown.input, part), values)
        for part in ends(recipe, shown.input)
    }
    return Medium(shown.input, tokens, size)


def _measured(file: Path, medium: str) -> tuple[tuple[int, int], tuple[int, float]]:
    """The size of a picture or clip, and how many frames it has, at how many a second."""
    if not file.is_file():
        raise DataError(f"there is no {file}; --size 448x448 stands in for what is not there")
    if medium == "video":
        size, frames, rate = recorded(file)
        return size, (frames, rate)
    try:
        with Image.open(file) as picture:
            return picture.size, (1, 1.0)
    except (UnidentifiedImageError, OSError) as problem:
        raise DataError(f"{file.name} cannot be read as a picture: {problem}") from problem

"""Everything that the host does around a model's methods, from the plain JSON of a feed spec.

A processor turns dialogues with pictures and clips into the tensors that the methods take, under
the names of their inputs. The spec alone drives it, so that an artefact runs without its recipe:

    tokens    tokenizer {call, name or path}; specials {name: {text, id}}; pad, an id
    inputs    for each input: kind (image or video), size (a `SizeRule`), alpha, and by name
              views     what one tower sees of it: patch, frames_per_patch, folded (rows hold one
                        frame that stands for all), mean, std, dense (as many rows of each picture)
                        or else window and rotary (head_dim and theta), and resize: the side, in
                        pixels, that its pictures are brought to once more
              ends      what the language model takes of it, by part: tokens of one picture and
                        their grid (null where they do not lie in it); tokens are null where
                        pictures have many sizes, and each window of patches is a token
    features  [part, input] in the order of the feature rows
    text      call (rope or mrope), sections, head_dim and theta of the language model's
    layouts   by name: system, rules, stop: the ids that end an answer
    layout    the names of those in use, the preferred first
    limits    context, in tokens

`compiler/spec.py` writes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .batch import Batches
from .layout import Layout, LayoutError, Medium, Message, Places, Run, Special, Text
from .media import MediaInput
from .positions import TextPositions
from .sample import Pool, Region, Sample, Seen, Turn
from .tokenizer import Tokenizer

SHIPPED = Path(__file__).resolve().parents[2] / "recipes" / "vocabularies"
"""The folder of the vocabularies that ship."""


class SampleError(ValueError):
    """A dialogue cannot be used."""


class Processor(Batches):
    """Dialogues -> samples -> tensors under the names of a program's inputs; tokens -> text."""

    def __init__(self, spec: Mapping[str, Any], resources: Path | None = None) -> None:
        """`resources` is the folder that the tokenizer's path starts from, unless it ships.

        TokenizerError when its file is not there, or does not fit the special tokens.
        """
        tokens = spec["tokens"]
        self.vocabulary = vocabulary_file(tokens["tokenizer"], resources)
        specials = {special["text"]: special["id"] for special in tokens["specials"].values()}
        self.tokenizer = Tokenizer.load(tokens["tokenizer"]["call"], self.vocabulary, specials)
        super().__init__(
            self.tokenizer.encode,
            tokens["pad"],
            {name: MediaInput(name, given) for name, given in spec["inputs"].items()},
            [(part, medium) for part, medium in spec["features"]],
            TextPositions(spec["text"]),
        )
        self.layouts = [Layout(name, spec["layouts"][name]) for name in spec["layout"]]
        self.context: int = spec["limits"]["context"]

    @property
    def stops(self) -> tuple[int, ...]:
        """The tokens that end an answer in the preferred layout."""
        return self.layouts[0].stops

    def sample(self, turns: Sequence[Turn], regions: Sequence[Region] = ()) -> Sample:
        """A whole dialogue for training, in the first layout that has the rules for it.

        ValueError says why it cannot be used: no layout fits, a picture is too thin, a file cannot
        be read, a region lies outside its picture, or it is longer than the context.
        """
        messages, media = self._see(turns)
        shown = [seen.input for seen in media]
        if regions and shown != [next(iter(self.inputs), None)]:
            raise SampleError(f"regions need one picture, and there are {len(media)} media")
        pools = [self.inputs[media[0].input].pool(region, media[0]) for region in regions]
        return self._sample(self._render(messages), media, pools)

    def prompt(self, turns: Sequence[Turn]) -> Sample:
        """A dialogue up to where the model goes on, in the preferred layout; errors as above."""
        messages, media = self._see(turns)
        return self._sample(self.layouts[0].prompt(messages), media, ())

    def _see(self, turns: Sequence[Turn]) -> tuple[list[Message], list[Seen]]:
        """The turns as messages, and their media, resized, in order."""
        media: list[Seen] = []
        messages: list[Message] = []
        for turn in turns:
            parts: list[str | Medium] = []
            for part in turn.parts:
                if isinstance(part, str):
                    parts.append(part)
                    continue
                if part.input not in self.inputs:
                    raise SampleError(f"the model has no input `{part.input}`")
                given = self.inputs[part.input]
                media.append(given.see(part))
                parts.append(Medium(part.input, given.tokens(media[-1])))
            messages.append(Message(turn.role, tuple(parts)))
        return messages, media

    def _render(self, messages: Sequence[Message]) -> tuple[Run, ...]:
        problems: list[str] = []
        for layout in self.layouts:
            try:
                return layout.render(messages)
            except LayoutError as problem:
                problems.append(str(problem))
        raise SampleError("; ".join(problems))

    def _sample(self, runs: Sequence[Run], media: Sequence[Seen], pools: Sequence[Pool]) -> Sample:
        ids: list[int] = []
        supervised: list[bool] = []
        starts: list[dict[str, int]] = [{} for _ in media]
        for run in runs:
            match run:
                case Text(text, loss):
                    new = self.tokenizer.encode(text)
                case Special(id, loss):
                    new = [id]
                case Places(id, count, medium, part):
                    starts[medium][part] = len(ids)
                    new, loss = [id] * count, False
            ids += new
            supervised += [loss] * len(new)
        if len(ids) > self.context:
            raise SampleError(f"{len(ids)} tokens are more than the context of {self.context}")
        return Sample(
            np.array(ids, dtype=np.int64),
            np.array(supervised, dtype=np.bool_),
            tuple(replace(seen, starts=found) for seen, found in zip(media, starts, strict=True)),
            tuple(pools),
        )


def vocabulary_file(tokenizer: Mapping[str, Any], resources: Path | None = None) -> Path:
    """The file of a tokenizer: below `resources` if it is there, else among those that ship.

    `tokenizer` is what the spec says of it; a name without an ending is that of a rank file.
    """
    path = Path(tokenizer.get("path") or tokenizer["name"])
    if not path.suffix:
        path = path.with_suffix(".tiktoken")
    if resources is not None and (resources / path).is_file():
        return resources / path
    return SHIPPED / path

"""Everything that the host does around a model's methods, from the plain JSON of a feed spec.

A processor turns dialogues with pictures and clips into the tensors that the methods take, under
the names of their inputs. The spec alone drives it, so that an artefact runs without its recipe:

    tokens    tokenizer {call, name or path}; specials {name: {text, id}}; pad, an id
    inputs    for each input: kind (image or video), size (a `SizeRule`), clip (a
              `ClipRule`, of a video), alpha, and by name
              views     what one tower sees of it: patch, frames_per_patch, folded (rows hold one
                        frame that stands for all), mean, std, dense (as many rows of each picture)
                        or else window and rotary (head_dim and theta), and resize: the side, in
                        pixels, that its pictures are brought to once more
              ends      what the language model takes of it, by part: tokens of one picture and
                        their grid (null where they do not lie in it); tokens are null where
                        pictures have many sizes, and each window of patches is a token; reads
                        where the part sees what is asked, and makes features for each question
    features  [part, input] in the order of the feature rows
    text      call (rope or mrope), sections, head_dim and theta of the language model's
    layouts   by name: system, rules, stop: the ids that end an answer
    layout    the names of those in use, the preferred first
    questions layout and tokenizer of what is asked, where a part reads it
    limits    context, in tokens; of a mode prompt, and history: what may stand before a question;
              of a stage truncate, behind which samples are cut off
    kind      of a mode: chat, retrieval or features (with class_token)
    caption   of a chat: whether each prompt goes on behind the queries of one picture
    pairs     of a stage: by objective, its kind, layout and weight, and what is right or negative

`compiler/spec.py` writes it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from .batch import Batches
from .ending import Ending, Telling
from .layout import Layout, LayoutError, Medium, Message, Part, Run
from .media import Change, MediaInput
from .places import Place, PlaceReader
from .positions import TextPositions
from .sample import Attachment, Pool, Region, Sample, Seen, Turn
from .tokenizer import Tokenizer
from .truncation import refuse_cut
from .writing import tokenised, vocabulary_file


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
        self.tokenizer = Tokenizer.load(
            tokens["tokenizer"]["call"], self.vocabulary, specials, tokens["tokenizer"]
        )
        super().__init__(
            self.tokenizer.encode,
            tokens["pad"],
            {name: MediaInput(name, given) for name, given in spec["inputs"].items()},
            [(part, medium) for part, medium in spec["features"]],
            TextPositions(spec["text"]),
        )
        self.layouts = [Layout(name, spec["layouts"][name]) for name in spec["layout"]]
        preferred = self.layouts[0]
        self.ending = Ending(preferred.stops, preferred.stop_texts, preferred.strip)
        """Where an answer in the preferred layout ends."""
        self.places = PlaceReader(
            spec["layouts"][preferred.name],
            {name: special["text"] for name, special in tokens["specials"].items()},
        )
        """Finds the boxes in an answer in the preferred layout."""
        self.context: int = spec["limits"]["context"]
        self._history: int | None = spec["limits"].get("history")
        self._longest: int | None = spec["limits"].get("prompt")
        self._cut: int | None = spec["limits"].get("truncate")
        self._captions: bool = spec.get("caption", False)
        self._ask: Callable[[str], list[int]] | None = None
        if "questions" in spec:
            self._ask = _asking(spec, resources, specials)

    @property
    def draws(self) -> bool:
        """Whether a layout leaves something to choose for each batch."""
        return any(layout.draws for layout in self.layouts)

    def telling(self) -> Telling:
        """A decoder of an answer whose tokens come one at a time."""
        return Telling(self.tokenizer.stream(self.places.ids), self.ending)

    def ends(self, ids: Sequence[int]) -> bool:
        """Whether the text of these tokens ends an answer."""
        return bool(self.ending.texts) and self.ending.place(self._text(ids)) is not None

    def told(self, ids: Sequence[int]) -> tuple[str, tuple[int, ...]]:
        """The text of an answer, and its tokens without those that ended it.

        The special tokens that enclose names and boxes belong to the text, which `read` takes.
        """
        kept = list(ids[:-1] if ids and ids[-1] in self.ending.tokens else ids)
        text = self._text(kept)
        place = self.ending.place(text)
        while place is not None and len(self._text(kept)) > place:
            del kept[-1]
        return self.ending.cut(text), tuple(kept)

    def _text(self, ids: Sequence[int]) -> str:
        return self.tokenizer.decode(ids, shown=self.places.ids)

    def read(self, answer: str, size: tuple[int, int]) -> tuple[str | Place, ...]:
        """The parts of an answer about a picture of a size: text, and places in its pixels."""
        return self.places.read(answer, size)

    def sample(
        self,
        turns: Sequence[Turn],
        regions: Sequence[Region] = (),
        *,
        layouts: Collection[str] | None = None,
        lot: int = 0,
        change: Change | None = None,
    ) -> Sample:
        """A whole dialogue for training, in the first layout that has the rules for it.

        `layouts` names those that may be taken, where not all may; `lot`, a whole number, settles
        what a layout leaves to choose; `change` is what becomes of pictures before they are
        resized. ValueError says why the dialogue cannot be used: no layout fits, a picture is too
        thin, a file cannot be read, a region lies outside its picture, it is longer than the
        context, or would be cut where a picture stands.
        """
        messages, media = self._see(turns, change)
        shown = [seen.input for seen in media]
        if regions and shown != [next(iter(self.inputs), None)]:
            raise SampleError(f"regions need one picture, and there are {len(media)} media")
        pools = [self.inputs[media[0].input].pool(region, media[0]) for region in regions]
        layout, runs = self._render(messages, layouts, lot)
        return self._sample(layout, runs, media, pools)

    def prompt(self, turns: Sequence[Turn]) -> Sample:
        """A dialogue up to where the model goes on, in the preferred layout; errors as above.

        Where the history is limited, the oldest turns are left out.
        """
        messages, media = self._recent(*self._see(turns))
        layout = self.layouts[0]
        sample = self._sample(layout, layout.prompt(messages), media, ())
        if self._captions and [[*seen.starts.values()] for seen in sample.media] != [[[0]]]:
            raise SampleError(
                "the model goes on behind one picture: show it one, before anything is said"
            )
        return sample

    def _recent(
        self, messages: list[Message], media: list[Seen]
    ) -> tuple[list[Message], list[Seen]]:
        """A dialogue without its oldest turns, as many as its limits want; what the system says
        and the last question stay."""
        asked = [number for number, message in enumerate(messages) if message.role == "user"]
        if self._history is None or self._longest is None or not asked:
            return messages, media
        layout, opening = self.layouts[0], messages[: asked[0]]
        for first in asked:
            history = [*opening, *messages[first : asked[-1]]]
            kept = [*history, *messages[asked[-1] :]]
            if first == asked[-1] or (
                self._count(layout.render(history)) <= self._history
                and self._count(layout.prompt(kept)) <= self._longest
            ):
                break
        gone = sum(map(_shows, messages[asked[0] : first]))
        before = sum(map(_shows, opening))
        return kept, media[:before] + media[before + gone :]

    def _count(self, runs: Sequence[Run]) -> int:
        return len(tokenised(runs, self.tokenizer)[0])

    def _see(
        self, turns: Sequence[Turn], change: Change | None = None
    ) -> tuple[list[Message], list[Seen]]:
        """The turns as messages, and their media, resized, in order."""
        media: list[Seen] = []
        messages: list[Message] = []
        for turn in turns:
            parts: list[Part] = []
            for part in turn.parts:
                if not isinstance(part, Attachment):
                    parts.append(part)
                    continue
                if part.input not in self.inputs:
                    raise SampleError(f"the model has no input `{part.input}`")
                given = self.inputs[part.input]
                media.append(given.see(part, change))
                seen = media[-1]
                parts.append(Medium(part.input, given.tokens(seen), seen.size))
            messages.append(Message(turn.role, tuple(parts)))
        if self._ask:
            asked = questions(turns)
            media = [
                replace(seen, questions=tuple(np.array(self._ask(text)) for text in texts))
                for seen, texts in zip(media, asked, strict=True)
            ]
        return messages, media

    def _render(
        self, messages: Sequence[Message], names: Collection[str] | None, lot: int
    ) -> tuple[Layout, tuple[Run, ...]]:
        problems: list[str] = []
        for layout in self.layouts:
            if names is not None and layout.name not in names:
                continue
            try:
                return layout, layout.render(messages, lot)
            except LayoutError as problem:
                problems.append(str(problem))
        raise SampleError("; ".join(problems))

    def _sample(
        self, layout: Layout, runs: Sequence[Run], media: Sequence[Seen], pools: Sequence[Pool]
    ) -> Sample:
        ids, supervised, starts = tokenised(runs, self.tokenizer, layout.longest)
        if self._cut and len(ids) > self._cut:
            counts = [self.inputs[seen.input].tokens(seen) for seen in media]
            refuse_cut(supervised, starts, counts, self._cut)
            del ids[self._cut :], supervised[self._cut :]
        if len(ids) > self.context:
            raise SampleError(f"{len(ids)} tokens are more than the context of {self.context}")
        return Sample(
            np.array(ids, dtype=np.int64),
            np.array(supervised, dtype=np.bool_),
            tuple(
                replace(seen, starts=starts.get(number, {})) for number, seen in enumerate(media)
            ),
            tuple(pools),
        )


def _asking(
    spec: Mapping[str, Any], resources: Path | None, specials: Mapping[str, int]
) -> Callable[[str], list[int]]:
    """What makes the tokens of a question for the part that reads it, which may have its own."""
    said = spec["questions"]["tokenizer"]
    own = {text: id for text, id in specials.items() if id in _ends(spec)}
    tokenizer = Tokenizer.load(said["call"], vocabulary_file(said, resources), own, said)
    layout = Layout(spec["questions"]["layout"], spec["layouts"][spec["questions"]["layout"]])
    return lambda text: tokenised(layout.render([Message("text", (text,))]), tokenizer)[0]


def _ends(spec: Mapping[str, Any]) -> set[int]:
    """The special tokens that a question is written with."""
    rules = spec["layouts"][spec["questions"]["layout"]]["rules"].values()
    return {item["id"] for rule in rules for item in rule["items"] if "special" in item}


def _shows(message: Message) -> int:
    """How many pictures and clips a message shows."""
    return sum(isinstance(part, Medium) for part in message.parts)


def questions(turns: Sequence[Turn]) -> list[tuple[str, ...]]:
    """For each picture or clip of a dialogue, what is asked while it is seen.

    That is what its own turn says, and what later turns of the user say that show nothing.
    """
    found: list[list[str]] = []
    for turn in turns:
        if turn.role != "user":
            continue
        said = "".join(part for part in turn.parts if isinstance(part, str)).strip()
        shown = sum(isinstance(part, Attachment) for part in turn.parts)
        for earlier in () if shown else found:
            earlier.append(said)
        found += [[said] for _ in range(shown)]
    return [tuple(asked) for asked in found]

"""What a trained model says to a few samples, for the report."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from PIL import Image

from ..blocks.input.processor import Processor
from ..blocks.input.sample import Turn
from ..dsl.recipe import Recipe
from .data import Example, Source
from .eager import Eager
from .generation import Session
from .job import job
from .report import Prediction
from .sampling import Sampling
from .weights import Weights

COUNT = 8
"""Samples that are shown."""

NEW = 64
"""Tokens of an answer, at most."""

SIDE = 256
"""Pixels of the longer side of a picture in the report."""


def predict(
    recipe: Recipe,
    mode: str,
    weights: Path,
    source: Source,
    resources: Path | None,
    dtype: torch.dtype,
) -> list[Prediction]:
    """The greedy answers to some samples of a source, in a mode of the recipe, eagerly.

    Samples that end in no answer, or that the mode cannot take, are passed over.
    """
    opened = Weights.open(recipe, weights)
    made = job(recipe, mode, weights=opened, dtype=dtype, resources=resources)
    spec = dict(made.spec)
    session = Session(Eager().compile(made), Processor(spec, resources), spec)
    examples = [one for one in _spread(source) if _fits(session, one)]
    answers = session.batch(
        [example.turns[:-1] for example in examples],
        new=min(NEW, session.new),
        sampling=Sampling(),
    )
    return [
        Prediction(
            prompt=_text(example.turns[:-1]),
            expected=_text(example.turns[-1:]),
            said=answer.text,
            picture=_picture(example),
        )
        for example, answer in zip(examples, answers, strict=True)
    ]


def _fits(session: Session, example: Example) -> bool:
    *question, answer = example.turns
    try:
        length = session.processor.prompt(question).length
    except ValueError:
        return False
    most: int = session.spec["limits"]["prompt"]
    return answer.role == "assistant" and length <= most


def _spread(source: Source) -> Iterator[Example]:
    """Samples from the whole length of a source, those that can be read."""
    count = min(COUNT, len(source))
    for number in range(count):
        try:
            yield source.read(len(source) * number // count)
        except (ValueError, OSError):
            continue


def _text(turns: Sequence[Turn]) -> str:
    return " ".join(part for turn in turns for part in turn.parts if isinstance(part, str))


def _picture(example: Example) -> bytes | None:
    """The first picture of a sample, made small, as PNG."""
    for shown in example.media:
        if shown.input == "image" and isinstance(shown.content, Path):
            with Image.open(shown.content) as picture:
                picture.thumbnail((SIDE, SIDE))
                buffer = io.BytesIO()
                picture.convert("RGB").save(buffer, "png")
                return buffer.getvalue()
    return None

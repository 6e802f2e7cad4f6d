"""Vectors of pictures and texts, and features of pictures, from an executable.

As a session of dialogues does, these know methods by name and tensors by name, and take the rest
from a feed spec.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.nn import functional

from ..blocks.input.calls import CHUNK
from ..blocks.input.media import MediaInput
from ..blocks.input.pairs import TEXT, written
from ..blocks.input.processor import Processor
from ..blocks.input.sample import Attachment, Turn
from .base import Executable
from .generation import Session


class Looker:
    """What a part of a model makes of pictures."""

    def __init__(self, executable: Executable, spec: Mapping[str, Any]) -> None:
        """`spec` is the feed spec of the mode that the executable was made from."""
        self.executable = executable
        self.spec = spec
        self._medium = next(iter(spec["inputs"]))
        self._input = MediaInput(self._medium, spec["inputs"][self._medium])

    @property
    def class_token(self) -> bool:
        """Whether the first of a picture's tokens stands for all of it."""
        return bool(self.spec["class_token"])

    def pictures(self, pictures: Sequence[Path | Image.Image]) -> Tensor:
        """A row for each picture, in order; ValueError names one that cannot be used."""
        seen = [self._input.see(Attachment(self._medium, picture)) for picture in pictures]
        feeds = self._input.feed(seen)
        return self._rows(self._medium, f"{self._medium}.pictures", len(seen), feeds)

    def _rows(self, method: str, size: str, count: int, feeds: Mapping[str, Tensor]) -> Tensor:
        """The output of a method for so many items, as many at a time as it takes."""
        limit, port = self.executable.limits[size], self.executable.methods[method].inputs
        made = []
        for begin in range(0, count, limit.high):
            some = min(limit.high, count - begin)
            # What takes two at least is shown the last one again.
            index = torch.arange(begin, begin + max(some, limit.low)).clamp(max=begin + some - 1)
            taken = {
                name: feeds[name][index].to(self.executable.device, port[name].dtype)
                for name in port
            }
            (rows,) = self.executable.run(method, taken).values()
            made.append(rows[:some])
        return torch.cat(made)


class Embedder(Looker):
    """Pictures and texts as vectors of length 1, and how well each goes with each."""

    def __init__(
        self, executable: Executable, processor: Processor, spec: Mapping[str, Any]
    ) -> None:
        """As for a session."""
        super().__init__(executable, spec)
        self._processor = processor

    def texts(self, texts: Sequence[str]) -> Tensor:
        """A vector for each text; of a long one, its beginning and its end token count."""
        most = self.executable.limits["length"].high
        samples = [self._processor.sample([Turn(TEXT, (text,))]) for text in texts]
        feeds = written([sample.shortened(most) for sample in samples], self._processor.pad)
        lacking = self.executable.limits["length"].low - feeds["tokens"].shape[1]
        feeds["tokens"] = functional.pad(
            feeds["tokens"], (0, max(0, lacking)), value=self._processor.pad
        )
        named = {f"{TEXT}.{name}": tensor for name, tensor in feeds.items()}
        return self._rows(TEXT, "texts", len(texts), named)

    def classes(self, names: Sequence[str], templates: Sequence[str]) -> Tensor:
        """A vector for each class: the mean of the texts that name it, brought to length 1.

        `{}` in a template stands for the name.
        """
        written_out = [template.replace("{}", name) for name in names for template in templates]
        vectors = self.texts(written_out).unflatten(0, (len(names), len(templates)))
        return functional.normalize(vectors.mean(1), dim=-1)

    def cosines(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """[pictures, texts] how alike the vectors are, from -1 to 1."""
        return pictures.float() @ texts.float().T

    def logits(self, pictures: Tensor, texts: Tensor) -> Tensor:
        """[pictures, texts] the cosines, times the factor that the model has learnt."""
        limit, port = self.executable.limits, self.executable.methods["logits"].inputs
        sizes = {self._medium: f"{self._medium}.pictures", TEXT: "texts"}
        rows = []
        for some in pictures.split(limit[sizes[self._medium]].high):
            columns = []
            for others in texts.split(limit["texts"].high):
                given = {self._medium: some, TEXT: others}
                padded = {
                    name: _at_least(tensor, limit[sizes[name]].low).to(
                        self.executable.device, port[name].dtype
                    )
                    for name, tensor in given.items()
                }
                made = self.executable.run("logits", padded)["logits"]
                columns.append(made[: len(some), : len(others)])
            rows.append(torch.cat(columns, dim=1))
        return torch.cat(rows)


def _at_least(rows: Tensor, least: int) -> Tensor:
    return rows if len(rows) >= least else rows[torch.arange(least).clamp(max=len(rows) - 1)]


AnySession = Session | Embedder | Looker

SESSIONS: Mapping[str, Callable[..., AnySession]] = {
    "chat": lambda executable, resources, spec, chunk: Session(
        executable, Processor(spec, resources), spec, chunk=chunk
    ),
    "retrieval": lambda executable, resources, spec, chunk: Embedder(
        executable, Processor(spec, resources), spec
    ),
    "features": lambda executable, resources, spec, chunk: Looker(executable, spec),
}
"""What drives the executable of a mode, by its kind."""


def session_of(
    executable: Executable,
    resources: Path | None,
    spec: Mapping[str, Any],
    *,
    chunk: int = CHUNK,
) -> AnySession:
    """What drives an executable, as the mode that it was made from says; `chunk` as of a session
    that answers, which the others have no use for."""
    return SESSIONS[spec["kind"]](executable, resources, spec, chunk)

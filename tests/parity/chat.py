"""Prompts of a case on their way through a mode: towers, adapters, language model."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from triptych.blocks.input.sample import Sample
from triptych.compiler.lower import MethodModule
from triptych.compiler.pipeline import for_inference
from triptych.dsl.recipe import Recipe
from triptych.tests.parity.golden import Case, Taps, everywhere


def to_the_left(mask: Tensor) -> Tensor:
    """A mask of what is no padding, as prompts have it: with all padding to the left."""
    return mask.sort(dim=1).values


class Chat:
    """A recipe with the weights of a case, in the mode `chat`; `taps` sees all its modules."""

    def __init__(self, case: Case, recipe: Recipe) -> None:
        program = for_inference(recipe, "chat")
        self.case, self.lowered = case, case.lower(program, recipe)
        self.batches = case.batches(program)
        self.taps = Taps(self.lowered)

    def see(self, views: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What every node of the towers and adapters yields; `features` are the rows of the end."""
        vision, project = (self.lowered.methods[name] for name in ("vision_image", "project"))
        with torch.no_grad():
            seen = vision.values(views)
            handed = {name: seen[node] for name, node in vision.outputs.items()}
            made = project.values(handed)
        (rows,) = (made[node] for node in project.outputs.values())
        return seen | made | {"features": rows}

    def read(self, samples: Sequence[Sample], features: Tensor) -> dict[str, Tensor]:
        """What every node of the language model yields; `logits` are those of all places."""
        prompts = self.batches.prompt_batch(samples)
        caches = self.case.caches(self.lowered, len(samples), prompts.length)
        inputs = dict(prompts.inputs) | {"features": features}
        with torch.no_grad():
            values = self._method("prefill").values(inputs | caches)
            return values | {"logits": everywhere(self.lowered, values)}

    def greedy(self, samples: Sequence[Sample], features: Tensor, steps: int) -> Tensor:
        """The likeliest tokens, one after another over the cache, [B, steps]."""
        prompts = self.batches.prompt_batch(samples)
        caches = self.case.caches(self.lowered, len(samples), prompts.length + steps)
        inputs = dict(prompts.inputs) | {"features": features}
        said = []
        with torch.no_grad():
            logits = self._method("prefill")(inputs | caches)["logits"]
            for step in range(steps):
                said.append(logits.argmax(-1))
                inputs = self.batches.next_inputs(prompts, said[-1], prompts.length + step)
                logits = self._method("decode")(inputs | caches)["logits"]
        return torch.stack(said, dim=1)

    def _method(self, name: str) -> MethodModule:
        return self.lowered.methods[name]

"""Golden cases: tensors that the official implementation of a system made, one folder a case.

They lie below `tests/golden_cases`, or below the folder that the environment names in
TRIPTYCH_GOLDEN. Everything about a case is read from its files.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from triptych.backends.weights import Weights
from triptych.blocks.input.batch import Batches
from triptych.blocks.input.media import MediaInput
from triptych.blocks.input.positions import TextPositions
from triptych.compiler.build import build
from triptych.compiler.graph import Program
from triptych.compiler.lower import Lowered, lower
from triptych.compiler.types import evaluate
from triptych.dsl.load import load_recipe
from triptych.dsl.recipe import Recipe

FOLDER = Path(os.environ.get("TRIPTYCH_GOLDEN") or Path(__file__).parent.parent / "golden_cases")
WEIGHTS = "weights.safetensors"

SYSTEMS = {
    "qwen2_vl": "Qwen2-VL",
    "minigpt4": "MiniGPT-4",
    "qwen_vl": "Qwen-VL",
    "internvl": "InternVL",
    "deepseek_vl": "DeepSeek-VL",
    "sam": "DeepSeek-VL",
    "internvl_1_5": "InternVL 1.5",
    "internvl_tiling": "InternVL 1.5",
    "internvit": "InternVL 1.5",
    "internlm2": "InternVL 1.5",
    "phi3": "InternVL 1.5",
}
"""Whose a case is, by the longest of these that its folder's name starts with."""


@dataclass(frozen=True)
class Kernels:
    """The order of operations that a test runs in, and how near it must come.

    In the order of the published model, values are off by `activation` and `gradient` at most. The
    kernels that triptych runs by default add up in another order, in float32: there the bound is
    that share of a tensor's largest value, if that is above 1.
    """

    published: bool
    activation: float = 2e-5
    gradient: float = 1e-6

    def check(self, found: Tensor, expected: Tensor, name: str, bound: float | None = None) -> None:
        """Fail when a value is too far off; `bound` is that of activations if not given."""
        assert found.shape == expected.shape, f"{name} has the shape {list(found.shape)}"
        bound = self.activation if bound is None else bound
        if not self.published:
            bound *= max(1.0, expected.abs().max().item())
        worst = (found - expected).abs().max().item()
        assert worst <= bound, f"{name} is off by {worst}, more than {bound}"


@dataclass(frozen=True)
class Case:
    """One folder of golden tensors."""

    folder: Path

    @cached_property
    def config(self) -> dict[str, Any]:
        return self._json("config.json")

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        return load_file(self.folder / "inputs.safetensors")

    @cached_property
    def expected(self) -> dict[str, Tensor]:
        return load_file(self.folder / "expected.safetensors")

    @cached_property
    def prompts(self) -> dict[str, Any]:
        return self._json("prompts.json")

    @property
    def weights(self) -> Path:
        """The file of weights: the case's own, or the sibling's that its configuration names."""
        return self.folder / str(self.config.get("weights_from", WEIGHTS))

    @property
    def is_model(self) -> bool:
        """Weights and activations; the other kind is about pictures and prompts."""
        return self.weights.exists()

    @cached_property
    def published(self) -> dict[str, Tensor]:
        """The weights by their published names."""
        return load_file(self.weights)

    def lower(
        self, program: Program, recipe: Recipe, parts: Collection[str] | None = None
    ) -> Lowered:
        """The modules of a program, with the weights of the case read as a published checkpoint.

        With `parts`, only these parts of the recipe are in the file; the others stay as they are.
        """
        lowered = lower(program)
        Weights.open(recipe, self.weights, parts).fill(lowered.module)
        return lowered

    def batches(self, program: Program) -> Batches:
        """How a program's samples are put together; text is given in tokens already."""
        spec = program.spec
        inputs = {name: MediaInput(name, unfolded(given)) for name, given in spec["inputs"].items()}
        positions = TextPositions(spec["text"])
        return Batches(_no_text, spec["tokens"]["pad"], inputs, spec["features"], positions)

    def caches(self, lowered: Lowered, rows: int, slots: int) -> dict[str, Tensor]:
        """Empty caches for a batch."""
        sizes = {"batch": rows, "slots": slots}
        return {
            name: torch.zeros([evaluate(size, sizes) for size in feed.sizes])
            for name, feed in lowered.methods["decode"].signature.items()
            if name.startswith("cache.")
        }

    def _json(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return found


def unfolded(given: Mapping[str, Any]) -> dict[str, Any]:
    """The spec of an input whose rows hold every frame, as published."""
    views = {name: view | {"folded": False} for name, view in given["views"].items()}
    return {**given, "views": views}


def patches(pixels: Tensor, patch: int) -> Tensor:
    """Pictures [M, C, H, W] of one size as what a dense tower takes, [M, P, row]."""
    cut: Tensor = pixels.unflatten(3, (-1, patch)).unflatten(2, (-1, patch))
    return cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)


def everywhere(lowered: Lowered, values: Mapping[str, Tensor]) -> Tensor:
    """The logits of all places, [B, T, V], of what the nodes of a prefill yield."""
    head: Tensor = lowered.module.get_submodule("lm.head")(values["lm.norm"])
    return head


def _no_text(text: str) -> list[int]:
    raise AssertionError("the cases give tokens")


class Taps:
    """What the modules of a program yield, by path, in the order of their calls."""

    def __init__(self, lowered: Lowered) -> None:
        self.seen: defaultdict[str, list[Tensor]] = defaultdict(list)
        for path, module in lowered.module.named_modules():
            module.register_forward_hook(
                lambda module, inputs, output, path=path: self.seen[path].append(output)
            )


def part_totals(name: str) -> dict[str, int]:
    """How many numbers the parameters of each part of a shipped recipe hold."""
    totals: Counter[str] = Counter()
    for parameter, param in build(load_recipe(name)).parameters().items():
        totals[parameter.partition(".")[0]] += param.count
    return dict(totals)


def cases(
    prefix: str, kind: type[Case] = Case, *, where: Callable[[Any], bool] = lambda case: True
) -> pytest.MarkDecorator:
    """Runs a test once for each case whose folder's name starts so; for none, it is skipped.

    `where` narrows the choice by what a case holds.
    """
    found = [kind(folder) for folder in folders() if folder.name.startswith(prefix)]
    chosen = [case for case in found if where(case)]
    return pytest.mark.parametrize("case", chosen, ids=lambda case: case.folder.name)


def folders() -> list[Path]:
    """The folders of all cases that are there."""
    return sorted(path for path in FOLDER.iterdir() if (path / "config.json").exists())


def system(name: str) -> str:
    """Whose case a folder is."""
    known = [prefix for prefix in SYSTEMS if name.startswith(prefix)]
    return SYSTEMS[max(known, key=len)] if known else "others"

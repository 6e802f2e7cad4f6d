"""Golden cases: tensors that the official implementation of a system made, one folder a case.

They lie below `tests/golden_cases`, or below the folder that the environment names in
TRIPTYCH_GOLDEN. Everything about a case is read from its files.
"""

from __future__ import annotations

import json
import os
from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor

from triptych.backends.weights import Weights
from triptych.compiler.graph import Program
from triptych.compiler.lower import Lowered, lower
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
        return self.folder / self.config.get("weights_from", WEIGHTS)

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

    def _json(self, name: str) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / name).read_text(encoding="utf-8"))
        return found


class Taps:
    """What the modules of a program yield, by path, in the order of their calls."""

    def __init__(self, lowered: Lowered) -> None:
        self.seen: defaultdict[str, list[Tensor]] = defaultdict(list)
        for path, module in lowered.module.named_modules():
            module.register_forward_hook(
                lambda module, inputs, output, path=path: self.seen[path].append(output)
            )


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

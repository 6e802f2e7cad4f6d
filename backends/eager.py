"""The reference: runs the lowered modules as they are. All other backends are compared with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from .base import Executable, Method, Missing
from .job import Job


class Eager:
    """Compiles nothing, so that nothing can differ."""

    name: ClassVar[str] = "eager"

    def missing(self) -> Missing | None:
        """Nothing: torch is enough."""
        return None

    def compile(self, job: Job) -> EagerExecutable:
        """The modules themselves."""
        return EagerExecutable(job)


class EagerExecutable(Executable):
    """Calls a lowered module for each method."""

    def __init__(self, job: Job) -> None:
        self.methods = job.methods
        self.limits = job.limits
        self.device = torch.device("cpu")
        self._modules = job.lowered.methods

    def _run(
        self, method: Method, inputs: dict[str, Tensor], sizes: Mapping[str, int]
    ) -> dict[str, Tensor]:
        outputs: dict[str, Tensor] = self._modules[method.name](inputs)
        return outputs

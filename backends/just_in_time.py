"""The gradients of a stage by methods that are compiled when they are first called.

Whenever something was compiled for a batch, eager computes that batch too, and must come to the
same: nothing is learnt by code that was never held against it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor
from torch._dynamo.exc import TorchDynamoException

from .compiled_method import CompiledMethod
from .foreseen import Foreseen, StepError
from .gradients import Gradients
from .optim import clip


class JustInTime:
    """As `Gradients`, of compiled methods; `seconds` is how long batches took that had to compile.

    `methods` has those of each worker. `eager` makes what computes the same without a compiler, and
    `dtype` is the coarsest that any part computes in.
    """

    def __init__(
        self,
        gradients: Gradients,
        methods: Sequence[Sequence[CompiledMethod]],
        eager: Callable[[], Gradients],
        dtype: torch.dtype,
    ) -> None:
        self._gradients = gradients
        self._methods = methods
        self._eager = eager
        self._dtype = dtype
        self.seconds = 0.0

    def of(
        self, shards: Sequence[Mapping[str, Tensor]]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """As there; StepError where compiling fails, or makes something else of a batch than eager
        does."""
        before, began = self.graphs, time.perf_counter()
        try:
            losses, gradients = self._gradients.of(shards)
        except Exception as problem:
            self.seconds += time.perf_counter() - began
            # The way back is compiled behind the way there, and its code checks itself as it runs.
            if self.graphs == before and not isinstance(problem, TorchDynamoException):
                raise
            raise StepError(f"the step cannot be compiled ({_cause(problem)})") from problem
        if self.graphs > before:
            self.seconds += time.perf_counter() - began
            wanted, theirs = self._eager().of(shards)
            foreseen = Foreseen(wanted["loss"], clip(theirs, None), theirs)
            foreseen.expect(losses["loss"], clip(gradients, None), gradients, self._dtype)
        return losses, gradients

    @property
    def graphs(self) -> int:
        """What was compiled so far."""
        return sum(one.graphs for every in self._methods for one in every)

    @property
    def recompiles(self) -> int:
        """Graphs of methods beyond those that they need."""
        return sum(one.recompiles for every in self._methods for one in every)

    def close(self) -> None:
        """Let the workers go."""
        self._gradients.close()


def _cause(problem: Exception) -> str:
    """The first line of what stands behind a compiler's error."""
    inner = getattr(problem, "inner_exception", problem)
    lines = [line.strip() for line in str(inner).splitlines()]
    return f"{type(inner).__name__}: {next(filter(None, lines), '')}"

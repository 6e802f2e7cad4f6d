"""A method of a stage compiled at its first call, as one graph for all sizes that it varies in.

A size of 1 is a constant to torch: a batch of one sample has a graph of its own, compiled when the
first one comes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor
from torch.fx.experimental import _config as shapes

from ..compiler.lower import MethodModule
from .gradients import Method


class CompiledMethod:
    """A method of a stage; what it yields knows the way back to what is trained.

    `graphs` counts what was compiled.
    """

    def __init__(self, method: MethodModule) -> None:
        self.graphs = 0
        self._ones: set[frozenset[str]] = set()
        self._signature = method.signature
        # Not `dynamic=True`: that takes numbers such as a temperature for variables too, finds out
        # at the end that they are not, and compiles everything twice.
        self._run: Method = torch.compile(  # type: ignore[call-overload]  # stubs lack the last one
            method,
            backend=self._counted,
            fullgraph=True,
            dynamic=False,
            isolate_recompiles=True,
        )

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        # What the method does not take is left out: it would be guarded as well.
        taken = {name: inputs[name] for name in self._signature}
        ones: set[str] = set()
        for name, feed in self._signature.items():
            for dim, size in enumerate(feed.sizes):
                if not isinstance(size, int):
                    torch._dynamo.maybe_mark_dynamic(taken[name], dim)
                    if taken[name].shape[dim] == 1:
                        ones.add(str(size))
        self._ones.add(frozenset(ones))
        # Sizes that are equal in the first batch need not be so in the next.
        with shapes.patch(use_duck_shape=False):  # type: ignore[attr-defined]  # made at import
            return self._run(taken)

    @property
    def recompiles(self) -> int:
        """Graphs beyond those that are needed: 0, or a size was taken for fixed that varies."""
        return max(0, self.graphs - len(self._ones))

    def _counted(self, graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
        from torch._inductor.compile_fx import compile_fx

        self.graphs += 1
        return compile_fx(graph, example)

"""torch.compile: each method as one graph, compiled at its first call, for ranges of sizes.

What is compiled is decided here and not by guards: a *bucket* is one compiled graph. Patches,
features and the length of a prompt are ranges inside it; the slots of the cache and a batch of one
are fixed, each in a bucket of its own (torch takes a size of 1 for a constant, and a static cache
gives the better decode). Whatever else torch wants to specialise is an error or a counted graph,
never a silent slow-down.

Blocks that repeat are compiled once (`blocks/regions.py`): the code of 28 takes little longer to
make than that of two.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeAlias

import torch
from torch import Tensor, nn

from ..blocks.operators import lowering
from ..blocks.regions import compiled_once
from . import native
from .base import Executable, Method, Missing
from .exporting import compiled_forms
from .job import Job
from .toolchain import ROUNDING, cache_folder, code_in, missing_compiler

Bucket: TypeAlias = tuple[str, tuple[tuple[str, int], ...]]
"""A method, and the sizes that are fixed in it."""


@dataclass(frozen=True, slots=True)
class Inductor:
    """Compiles each method as a whole, so that a graph break is an error and not a slow-down.

    `cache` is the folder for compiled code that later runs start from; by default one for each
    program in the user's cache folder.
    """

    name: ClassVar[str] = "inductor"
    cache: Path | None = None

    def missing(self) -> Missing | None:
        """A C++ compiler, where there is none."""
        return missing_compiler(self.name)

    def compile(self, job: Job) -> InductorExecutable:
        """Compile at the first call of each bucket."""
        native.load()
        return InductorExecutable(job, self.cache or cache_folder("inductor", job.digest))


class InductorExecutable(Executable):
    """One compiled callable a bucket; `graphs` counts what was compiled, `cache` keeps the code."""

    def __init__(self, job: Job, cache: Path) -> None:
        self.methods = job.methods
        self.limits = job.limits
        self.device = torch.device("cpu")
        self.graphs: Counter[Bucket] = Counter()
        self._modules = job.lowered.methods
        self.cache = cache
        self._compiled: dict[Bucket, Callable[[dict[str, Tensor]], dict[str, Tensor]]] = {}

    @property
    def recompiles(self) -> int:
        """Graphs beyond the first of each bucket: 0, or a size was specialised that should not."""
        return sum(self.graphs.values()) - len(self.graphs)

    def _run(
        self, method: Method, inputs: dict[str, Tensor], sizes: Mapping[str, int]
    ) -> dict[str, Tensor]:
        fixed = {name: size for name, size in sizes.items() if self._is_fixed(name, size)}
        bucket: Bucket = (method.name, tuple(fixed.items()))
        # Guards hold the form in which a graph was traced: later calls must be made in it too.
        with lowering(kv_update="indexed", **compiled_forms(method.name)), compiled_once():
            if bucket in self._compiled:
                return self._compiled[bucket](inputs)
            self._compiled[bucket] = self._made(bucket, method, self._modules[method.name])
            for name, port in method.inputs.items():
                for dim, size in enumerate(port.sizes):
                    if isinstance(size, str) and size not in fixed:
                        torch._dynamo.maybe_mark_dynamic(inputs[name], dim)
            with code_in(self.cache):
                return self._compiled[bucket](inputs)

    def _is_fixed(self, name: str, size: int) -> bool:
        return name == "slots" or (name == "batch" and size == 1)

    def _made(
        self, bucket: Bucket, method: Method, module: nn.Module
    ) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
        equal = _equal_sizes(method)

        def sized(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
            # What torch finds out inside a stretch that is compiled once, its code does not know.
            for name, dim, first, first_dim in equal:
                torch._check(inputs[name].shape[dim] == inputs[first].shape[first_dim])
            made: dict[str, Tensor] = module(inputs)
            return made

        def counted(graph: torch.fx.GraphModule, example: list[Tensor]) -> Any:
            self.graphs[bucket] += 1
            from torch._inductor.compile_fx import compile_fx

            return compile_fx(graph, example, config_patches=ROUNDING)

        # Buckets share the code of `sized`; isolated, none counts against another.
        compiled: Callable[[dict[str, Tensor]], dict[str, Tensor]] = torch.compile(  # type: ignore[call-overload]
            sized, backend=counted, fullgraph=True, dynamic=False, isolate_recompiles=True
        )
        return compiled


def _equal_sizes(method: Method) -> list[tuple[str, int, str, int]]:
    """Dimensions of inputs, each with an earlier one that is of the same size."""
    first: dict[str, tuple[str, int]] = {}
    equal = []
    for name, port in method.inputs.items():
        for dim, size in enumerate(port.sizes):
            if isinstance(size, str) and first.setdefault(size, (name, dim)) != (name, dim):
                equal.append((name, dim, *first[size]))
    return equal

"""From a recipe to what every backend starts with: lowered methods, limits, and weights."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..blocks.input.calls import SLOT_STEP, slot_range
from ..blocks.storage import Storage
from ..compiler.graph import Program
from ..compiler.lower import PRECISIONS, Lowered, MethodModule, lower
from ..compiler.ops import Embed
from ..compiler.pipeline import for_inference
from ..compiler.precision import coarsest
from ..compiler.quantization import prove_quantization, quantized
from ..compiler.text import text_of_methods
from ..compiler.types import Bounds, Symbol
from ..dsl.diagnostics import Findings
from ..dsl.recipe import Recipe
from .base import Limit, Method, Port
from .few_bits import by_part
from .linking import unbound
from .probe import difference, probe
from .records import WeightsRecord
from .resources import resources as resources_of
from .weights import Weights, weights_after


@dataclass(frozen=True)
class Job:
    """What a backend compiles.

    `lowered` has its weights, or lies on the device "meta" when there are none: an artefact's
    programs can be made without them. `spec` is the host's part; `resources` the folder that its
    tokenizer's path starts from.
    """

    recipe: str
    mode: str
    lowered: Lowered
    methods: Mapping[str, Method]
    limits: Mapping[str, Limit]
    resources: Path | None
    quantized: Mapping[str, Storage] = field(default_factory=dict)
    """How the weights are kept that are kept in few bits."""
    weight_rounding: Mapping[str, float] = field(default_factory=dict)
    """For each part, how far few bits bring its weights off: of all that are so kept, the root of
    the squares of what is changed, as a share of the root of their own."""
    rounding: Mapping[str, float] = field(default_factory=dict)
    """How far few bits bring each method off what it yields without them; as in `difference`."""
    weights: Weights | None = None
    """The files that its weights were read from."""
    unbound: WeightsRecord = field(kw_only=True)
    """What weights must be that come later."""

    @property
    def spec(self) -> Mapping[str, Any]:
        """What a processor needs."""
        return self.lowered.program.spec

    @property
    def dtype(self) -> torch.dtype:
        """What weights and activations are computed in; the coarsest, where parts differ in it."""
        return self.lowered.dtype

    @property
    def has_weights(self) -> bool:
        """Whether the parameters hold numbers."""
        return all(not tensor.is_meta for tensor in self.lowered.module.state_dict().values())

    @property
    def tokens(self) -> int:
        """A bound of ids: every table of embeddings has a row for each below it."""
        graphs = self.lowered.program.methods.values()
        return min(
            (node.op.vocab for graph in graphs for node in graph if isinstance(node.op, Embed)),
            default=1,
        )

    @property
    def digest(self) -> str:
        """Names what is compiled: the methods, their limits, the host's part, and the precision."""
        parts = {
            "methods": text_of_methods(dict(self.lowered.program.methods)),
            "limits": {name: str(limit) for name, limit in self.limits.items()},
            "spec": self.spec,
            "dtype": str(self.dtype),
            "quantized": {name: str(storage) for name, storage in self.quantized.items()},
        }
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def job(
    recipe: Recipe,
    mode: str,
    *,
    weights: Weights | int | None = None,
    dtype: torch.dtype | None = None,
    resources: Path | None = None,
) -> Job:
    """What a mode of a recipe needs to be compiled.

    `weights` are read from where they lie, or drawn from a seed, or left out. The precision is that
    of the mode's target unless it is given. WeightsError when the weights do not fit; RecipeError
    when what is to be kept in few bits cannot be.
    """
    if recipe.modes[mode].quantize:
        findings = Findings()
        prove_quantization(recipe, findings)
        findings.raise_if_any()
    if dtype is not None:
        recipe = _in_one(recipe, mode, dtype)
    program = for_inference(recipe, mode)
    dtype = PRECISIONS[coarsest(recipe.modes[mode].target.precision)]
    lowered = lower(program, dtype=dtype, device="meta" if weights is None else "cpu")
    if isinstance(weights, int):
        lowered.init(weights)
    elif weights is not None:
        weights.fill(lowered.module)
    lowered.module.eval().requires_grad_(False)
    made = Job(
        recipe.name,
        mode,
        lowered,
        _outsides(lowered),
        limits(program),
        resources,
        weights=weights if isinstance(weights, Weights) else None,
        unbound=unbound(recipe),
    )
    used = lowered.module.state_dict()
    few = quantized(recipe, recipe.modes[mode])
    return _in_few_bits(made, {name: few[name] for name in few if name in used})


def job_from(
    recipe: Recipe, mode: str, source: Path | int | None, dtype: torch.dtype | None = None
) -> Job:
    """As `job`, from where weights lie (or from a seed, or without any).

    The vocabulary is looked for beside the weights too: the run that a checkpoint lies in keeps it,
    two folders up. ResourceError when it is nowhere.
    """
    if not isinstance(source, Path):
        return job(recipe, mode, weights=source, dtype=dtype, resources=resources_of(recipe))
    beside = [source, *source.resolve().parents[:2]]
    weights = Weights.open(recipe, weights_after(source, recipe.modes[mode].after))
    return job(recipe, mode, weights=weights, dtype=dtype, resources=resources_of(recipe, *beside))


def _in_one(recipe: Recipe, mode: str, dtype: torch.dtype) -> Recipe:
    """The recipe with one precision for the whole model in a mode."""
    word = next(word for word, known in PRECISIONS.items() if known == dtype)
    chosen = recipe.modes[mode]
    target = chosen.target.model_copy(update={"precision": word})
    changed = chosen.model_copy(update={"target": target})
    return recipe.model_copy(update={"modes": {**recipe.modes, mode: changed}})


def _in_few_bits(job: Job, held: Mapping[str, Storage]) -> Job:
    """The job with these weights in few bits, and how far that brings its methods off.

    The job that it is made from shares its modules, and is of no use afterwards.
    """
    if not held:
        return job
    given = {name: probe(method, job.limits, job.tokens) for name, method in job.methods.items()}
    before = _yielded(job, given) if job.has_weights else {}
    lowered, changed = job.lowered.quantized(held)
    made = replace(job, lowered=lowered, methods=_outsides(lowered), quantized=held)
    if not before:
        return made
    after = _yielded(made, given)
    rounding = {name: difference(after[name], before[name]) for name in before}
    return replace(made, weight_rounding=by_part(changed), rounding=rounding)


def _yielded(job: Job, given: Mapping[str, Mapping[str, Tensor]]) -> dict[str, dict[str, Tensor]]:
    """What each method yields for these inputs, which stay as they are."""
    with torch.no_grad():
        return {
            name: job.lowered.methods[name]({feed: x.clone() for feed, x in inputs.items()})
            for name, inputs in given.items()
        }


def _outsides(lowered: Lowered) -> dict[str, Method]:
    return {name: outside(name, method) for name, method in lowered.methods.items()}


def outside(name: str, method: MethodModule) -> Method:
    """What a lowered method takes and yields."""
    inputs = {
        feed: Port(
            tuple(size.name if isinstance(size, Symbol) else _whole(size) for size in port.sizes),
            port.dtype,
        )
        for feed, port in method.signature.items()
    }
    return Method(name, inputs, tuple(method.outputs), tuple(method.state_dict()))


def limits(program: Program) -> dict[str, Limit]:
    """The limits of a program's sizes, as the backends can keep them.

    torch takes a size of 0 or 1 for a constant, so a size that varies starts at 2: the session pads
    the rare case. Only a batch may be 1: backends compile that case by itself where they must.
    Slots come in steps, up to the next step above the most that are needed.
    """
    found = {
        name: _limit(bounds) if name != "batch" else Limit(bounds.least, _most(bounds))
        for name, bounds in program.limits.items()
    }
    if "slots" not in found:
        return found
    return found | {"slots": Limit(*slot_range(found["slots"].high), SLOT_STEP)}


def _limit(bounds: Bounds) -> Limit:
    low = max(bounds.least, 2 * bounds.step)
    return Limit(low, max(_most(bounds), low), bounds.step)


def _most(bounds: Bounds) -> int:
    assert bounds.most is not None, "what a mode feeds is bounded"
    return bounds.most


def _whole(size: object) -> int:
    assert isinstance(size, int), f"an input has the size {size}"
    return size

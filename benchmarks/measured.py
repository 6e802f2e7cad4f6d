"""Real steps and answers, measured: what `triptych plan` says is held against this.

Operations are those of `torch.utils.flop_counter`. It knows no formula for torch's attention on a
CPU, so it is given one here: two products forward; on the way back these two again and three more
(the scores are not kept), as it counts the attention of GPUs.

Memory is that of torch's allocator: every allocation and release that the profiler sees in a step,
those inside kernels too, on top of the tensors that lived before it.
"""

from __future__ import annotations

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.nn import Parameter
from torch.profiler import ProfilerActivity, profile
from torch.utils.flop_counter import FlopCounterMode

from triptych.backends.data import Example, open_source
from triptych.backends.drops import Drops
from triptych.backends.options import Options
from triptych.backends.resources import resources
from triptych.backends.samples import PairSamples, Samples
from triptych.backends.training import completed, overridden
from triptych.backends.training_stage import StageRun
from triptych.blocks.input.sample import Attachment, Turn
from triptych.compiler.costing import Shapes
from triptych.compiler.graph import Program
from triptych.compiler.lower import MethodModule, lower
from triptych.compiler.ops import Input
from triptych.compiler.pipeline import for_inference, for_training
from triptych.compiler.plan import StagePlan, plan
from triptych.compiler.types import Symbol, evaluate
from triptych.dsl.load import load_recipe

RATE = 1e-4


def _attention(q: Sequence[int], k: Sequence[int], *rest: Any, **named: Any) -> int:
    batch, heads, rows, width = q
    return 2 * 2 * batch * heads * rows * k[2] * width


def _attention_back(grad: Sequence[int], *rest: Any, **named: Any) -> int:
    return 5 * _attention(*rest) // 2


def _in_segments(
    q: Tensor, k: Tensor, v: Tensor, segment_id: Tensor, *, out_val: object = None
) -> int:
    _, heads, width = q.shape
    lengths = torch.unique_consecutive(segment_id, return_counts=True)[1].tolist()
    return sum(_attention((1, heads, length, width), (1, heads, length)) for length in lengths)


def _in_segments_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, *rest: Tensor, out_val: object = None
) -> int:
    return 5 * _in_segments(q, k, v, rest[-1]) // 2


# The counter then hands them tensors, not their sizes: where segments begin is in the numbers.
_in_segments._get_raw = _in_segments_back._get_raw = True  # type: ignore[attr-defined]

KERNELS = {
    torch.ops.triptych.causal_attention: _in_segments,
    torch.ops.triptych.causal_attention_backward: _in_segments_back,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: _attention,
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: _attention_back,
}


class _NoModules:
    """Stands in for the counter's tracker of modules, which `autograd.grad` does not go with."""

    parents = ("Global",)

    def __enter__(self) -> None: ...

    def __exit__(self, *error: object) -> None: ...


@dataclass(frozen=True)
class Step:
    """A stage with a batch, ready to run, and the sizes of each of its shards.

    `foreign` are the tensors that lived before it: what else the process does is not counted, and
    holding them keeps their memory from being taken for its own.
    """

    program: Program
    planned: StagePlan
    run: StageRun
    shards: Sequence[Mapping[str, Tensor]]
    shapes: Sequence[Shapes]
    foreign: Sequence[Tensor]

    def flops(self) -> int:
        """The operations of a step."""
        counter = _counter()
        with counter:
            self.run.step(self.shards, RATE)
        return counter.get_total_flops()

    def peak(self) -> int:
        """The most memory at once in a step, in bytes."""
        return peak_of(lambda: self.run.step(self.shards, RATE), self.foreign)


def peak_of(call: Callable[[], object], foreign: Sequence[Tensor] = ()) -> int:
    """The most memory at once while something is called, in bytes: what the allocator gives and
    takes back, beside the tensors that lived before it; those that are foreign to it do not count.
    """
    gc.collect()
    theirs = _storages(foreign)
    lived = sum(size for place, size in _storages(living()).items() if place not in theirs)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as seen:
        call()
    results = seen.profiler and seen.profiler.kineto_results
    assert results
    events = [event for event in results.events() if event.name() == "[memory]"]
    live = most = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return lived + most


def step_of(
    name: str,
    stage: str,
    batch: int,
    precision: str | None = "f32",
    data: Path | None = None,
    *,
    amend: Sequence[str] = (),
    alike: bool = False,
) -> Step:
    """A stage of a recipe over samples of `data`, a file of records, or over pictures of noise,
    which are all of one size where they are `alike`. Without a precision, in the recipe's own.
    """
    gc.collect()
    foreign = living()
    options = Options(precision=precision, batch=batch)  # type: ignore[arg-type]
    recipe = overridden(load_recipe(name, amend=amend), options)
    planned, program = plan(recipe)[stage], for_training(recipe, stage)
    settings = recipe.stages[stage]
    beside = [data.parent] if data else []
    kind = PairSamples if "pairs" in program.spec else Samples
    samples = kind(program.spec, settings, resources(recipe, *beside))
    kinds = next(iter(settings.data.shares))
    ready = [samples.prepare(example) for example in _examples(batch, kinds, data, alike)]
    shards = Drops(program.methods, "measured").into(samples.collate(ready), 0)
    run = StageRun(program, planned, completed({}, program, seed=0))
    # The first step brings in what torch allocates once.
    run.step(shards, RATE)
    shapes = [shapes_in(program, shard) for shard in shards]
    return Step(program, planned, run, shards, shapes, foreign)


def _examples(count: int, kind: str, data: Path | None, alike: bool) -> list[Example]:
    if data is not None:
        source = open_source(data)
        return [source.read(number) for number in range(count)]
    chance = np.random.default_rng(0)
    found = []
    for number in range(count):
        height = 50 if alike else 50 + 8 * (number % 3)
        noise = chance.integers(0, 256, (height, 80, 3), np.uint8)
        shown = Attachment("image", Image.fromarray(noise))
        said = f"Nothing but noise, in every colour there is: {number}."
        turns = (Turn("user", (shown,)), Turn("assistant", (said,)))
        found.append(Example(turns, kind=kind))
    return found


def shapes_in(program: Program, fed: Mapping[str, Tensor]) -> Shapes:
    """The symbols of a program's methods as a batch has them."""
    values: dict[str, int] = {}
    segments: dict[str, Sequence[int]] = {}
    for node in (node for graph in program.methods.values() for node in graph):
        if not isinstance(node.op, Input) or node.name not in fed:
            continue
        tensor = fed[node.name]
        for size, number in zip(node.op.type.sizes, tensor.shape, strict=True):
            if isinstance(size, Symbol):
                assert values.setdefault(size.name, number) == number, size.name
        if node.name.endswith(".segment_id"):
            rows = tensor if tensor.dim() == 2 else tensor[None]
            counts = [torch.unique_consecutive(row, return_counts=True)[1] for row in rows]
            segments[node.name] = tuple(torch.cat(counts).tolist())
    return Shapes(values, segments)


def answer_flops(name: str, mode: str, shapes: Mapping[str, Shapes]) -> dict[str, int]:
    """The operations of a call of each method of a mode, with inputs of these sizes."""
    program = for_inference(load_recipe(name), mode)
    lowered = lower(program)
    lowered.init(0)
    found = {}
    for method, module in lowered.methods.items():
        counter = _counter()
        with counter, torch.no_grad():
            module(_inputs(module, shapes[method]))
        found[method] = counter.get_total_flops()
    return found


def _inputs(method: MethodModule, shapes: Shapes) -> dict[str, Tensor]:
    """Inputs whose numbers mean nothing, but for what decides how much is computed."""
    made = {}
    for name, feed in method.signature.items():
        sizes = [evaluate(size, shapes.values) for size in feed.sizes]
        made[name] = torch.zeros(sizes, dtype=feed.dtype)
        if name in shapes.segments:
            lengths = torch.tensor(shapes.segments[name])
            made[name] = torch.repeat_interleave(torch.arange(len(lengths)), lengths)
        elif name.endswith(".slot"):
            made[name] = torch.arange(sizes[1]).repeat(sizes[0], 1)
    return made


def _counter() -> FlopCounterMode:
    counter = FlopCounterMode(display=False, custom_mapping=KERNELS)
    counter.mod_tracker = _NoModules()  # type: ignore[assignment]
    return counter


def living() -> list[Tensor]:
    """Every tensor of the process that has memory; those that only stand for one have a type."""
    plain = (Tensor, Parameter)
    return [it for it in gc.get_objects() if type(it) in plain and it.device.type == "cpu"]


def _storages(tensors: Sequence[Tensor]) -> dict[int, int]:
    """The bytes of these tensors' memory, by where it lies, each once."""
    storages = (tensor.untyped_storage() for tensor in tensors)
    return {storage.data_ptr(): storage.nbytes() for storage in storages}

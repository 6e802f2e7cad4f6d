"""What a recipe's stages and modes take for samples of a given size: tokens, work and memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from math import ceil
from typing import Any

from ..blocks.input.calls import CHUNK
from ..dsl.modes import AnyMode, Features, Mode
from ..dsl.recipe import Recipe
from ..dsl.stages import Stage
from .costing import Said, Shapes
from .costs.kernels import ITEMS
from .costs.tape import Phase
from .graph import Program
from .memory import Held, Measure, answering, held, item_of, training_step
from .ops import Cache, Input
from .pipeline import for_inference, for_training
from .placement import Placement, Placer
from .plan import Plan, StagePlan
from .precision import coarsest
from .quantization import quantized
from .tokens import as_seen, domain, item_tokens, shown
from .types import Bounds, bounds, evaluate
from .workload import Item, Sample, row_of, seen, shapes_of

PICTURE = Item("image", (448, 448))
CLIP = Item("video", (1280, 720), (300, 30.0))
TEXT = 256
"""What a sample is taken to show and to say where nobody says otherwise."""


class TooLongError(Exception):
    """A sample that a stage or a mode has no room for."""


@dataclass(frozen=True)
class Asked:
    """What a plan is made for: None leaves a choice to the recipe.

    `rows` are those of a micro-batch, or the prompts of a call.
    """

    items: tuple[Item, ...] | None = None
    text: int | None = None
    answer: int | None = None
    rows: int = 1
    devices: int | None = None
    memory: int | None = None


@dataclass(frozen=True)
class Tokens:
    """The tokens of a sample, and how many there is room for.

    `features` are the places of each input in the sample, `each` what one picture or clip can take.
    """

    total: int
    room: int
    text: int
    answer: int
    features: Mapping[str, int]
    each: Mapping[str, Bounds]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        each = {name: {"least": one.least, "most": one.most} for name, one in self.each.items()}
        return {**asdict(replace(self, each={})), "each": each}


@dataclass(frozen=True)
class StageOutlay:
    """What a stage takes.

    `samples` share a row, and a step has `rows` of them, `micro` at a time, `step` being one
    micro-batch. `flops` are those of one sample.
    """

    name: str
    tokens: Tokens
    samples: int
    rows: int
    micro: int
    flops: Mapping[str, Mapping[Phase, int]]
    a_step: int
    once: Mapping[str, int]
    held: Held
    step: Measure
    placement: Placement | None

    def to_json(self) -> dict[str, Any]:
        """Plain data, with all figures."""
        placed = self.placement
        return {
            "name": self.name,
            "tokens": self.tokens.to_json(),
            "samples_a_row": self.samples,
            "rows_a_step": self.rows,
            "micro_batch": self.micro,
            "flops_a_sample": self.flops,
            "flops_a_step": self.a_step,
            "flops_once_a_picture": dict(self.once),
            "held": {**asdict(self.held), "total": self.held.total},
            "step": {"peak": self.step.peak, "at_peak": dict(self.step.at_peak)},
            "placement": placed
            and {
                "fits": placed.fits,
                "sharding": placed.sharding and asdict(placed.sharding),
                "micro_batch": placed.rows,
                "bytes_a_device": placed.need,
            },
        }


@dataclass(frozen=True)
class ModeOutlay:
    """What a mode takes for one call of each method.

    `cache` is what keys and values take for all prompts, `a_token` for one token of one of them;
    `saved` is what `weights` would be more without `quantize`. A prompt is fed to `prefill` in
    pieces; the operations are those of all, the peak is of one.
    """

    name: str
    tokens: Tokens | None
    prompts: int
    weights: int
    cache: int
    a_token: int
    methods: Mapping[str, Measure]
    saved: int = 0

    @property
    def peak(self) -> int:
        """The most memory at once: weights, cache, a call, and what calls before it have made.

        What the towers yield is kept for later turns, what comes behind them until it is fed.
        """
        seen = self._made("vision_")
        kept = {"project": seen, "decode": seen, "prefill": seen + self._made("project")}
        calls = (
            one.peak + kept.get(name.partition("_")[0], 0) for name, one in self.methods.items()
        )
        return self.weights + self.cache + max(calls)

    def _made(self, before: str) -> int:
        return sum(one.made for name, one in self.methods.items() if name.startswith(before))

    def to_json(self) -> dict[str, Any]:
        """Plain data, with all figures."""
        return {
            "name": self.name,
            "tokens": self.tokens and self.tokens.to_json(),
            "prompts": self.prompts,
            "weights": self.weights,
            "saved": self.saved,
            "cache": self.cache,
            "cache_a_token": self.a_token,
            "peak": self.peak,
            "methods": {
                name: {"flops": one.by_part(), "peak": one.peak}
                for name, one in self.methods.items()
            },
        }


@dataclass(frozen=True)
class Outlay:
    """What all stages and modes of a recipe take."""

    stages: tuple[StageOutlay, ...]
    modes: tuple[ModeOutlay, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data, with all figures."""
        return {
            "stages": [stage.to_json() for stage in self.stages],
            "modes": [mode.to_json() for mode in self.modes],
        }


def outlay(recipe: Recipe, planned: Plan, asked: Asked) -> Outlay:
    """What each stage and mode takes; TooLongError where a sample does not fit in."""
    stages = tuple(_stage(recipe, recipe.stages[one.name], one, asked) for one in planned.stages)
    modes = tuple(mode_outlay(recipe, name, asked) for name in recipe.modes)
    return Outlay(stages, modes)


def sample_of(
    recipe: Recipe, name: str, purpose: Stage | AnyMode, asked: Asked
) -> tuple[Sample, Tokens]:
    """A sample as a stage or a mode sees it, and its tokens."""
    recipe = as_seen(recipe, purpose)
    media = shown(recipe, purpose)
    usual = next(((one,) for one in (PICTURE, CLIP) if one.medium in media), ())
    items = usual if asked.items is None else asked.items
    items = tuple(item for item in items if item.medium in media)
    features: dict[str, int] = {}
    for item in items:
        found = seen(recipe, item).tokens
        features[item.medium] = features.get(item.medium, 0) + found
    room = _room(recipe, purpose)
    left = room - sum(features.values())
    text = asked.text or max(1, min(TEXT, left))
    total = text + sum(features.values())
    if total > room:
        raise TooLongError(f"{name} has room for {room:,} tokens, and the sample takes {total:,}")
    answer = min(text, asked.answer or text)
    each = {
        medium: bounds(item_tokens(recipe, medium), domain(recipe))
        for medium in (media if recipe.lm else ())
    }
    return Sample(items, text, answer), Tokens(total, room, text, answer, features, each)


def _room(recipe: Recipe, purpose: Stage | AnyMode) -> int:
    """The most tokens that a sample of a stage, or a prompt of a mode, may take."""
    if isinstance(purpose, Stage):
        assert recipe.speaker
        return purpose.pack or recipe.speaker.context
    if isinstance(purpose, Features):
        return 1
    return purpose.prompt.high


def _stage(recipe: Recipe, stage: Stage, planned: StagePlan, asked: Asked) -> StageOutlay:
    program = for_training(recipe, planned.name)
    sample, tokens = sample_of(recipe, f"stage {planned.name}", stage, asked)
    samples, _ = row_of(recipe, stage, sample)
    rows = ceil(stage.batch / samples)
    shapes = partial(shapes_of, recipe, stage, sample)
    # Pairs are told apart by one another: their batch is never cut, and grows by more than itself.
    pairs = "pairs" in program.spec
    micro = rows if pairs else min(asked.rows, rows)
    step = training_step(program, planned, shapes(micro))
    each = {
        part: {phase: flops // (micro * samples) for phase, flops in phases.items()}
        for part, phases in step.by_part().items()
    }
    placement = None
    if asked.devices is not None and asked.memory is not None:
        placer = Placer(program, planned, shapes, rows, pairs=pairs)
        placement = placer.place(asked.devices, asked.memory)
    return StageOutlay(
        planned.name,
        tokens,
        samples,
        rows,
        micro,
        each,
        sum(step.flops.values()) * rows // micro,
        {part: flops // (micro * samples) for part, flops in step.once.items()},
        held(program, planned),
        step,
        placement,
    )


def mode_outlay(recipe: Recipe, name: str, asked: Asked) -> ModeOutlay:
    """What a mode takes; TooLongError where a sample does not fit in."""
    program, mode = for_inference(recipe, name), recipe.modes[name]
    sample, tokens = sample_of(recipe, f"mode {name}", mode, asked)
    said: Said = mode.target.precision
    shapes = shapes_of(recipe, mode, sample, asked.rows)
    beams = mode.beams if isinstance(mode, Mode) else 1
    wide = shapes_of(recipe, mode, sample, asked.rows * beams)
    few = quantized(recipe, mode)
    a_token, cache = _cache(program, said, shapes)
    # Beams have caches of their own, beside those that prompts are fed to.
    cache *= 1 + beams if beams > 1 else 1
    unseen = {one for one in recipe.inputs if one not in {item.medium for item in sample.items}}
    methods = {
        method: answering(
            program, method, one_call(method, wide if method == "decode" else shapes), said, few
        )
        for method in program.methods
        if method.partition("_")[2] not in unseen
    }
    if (piece := _piece(program, shapes)) is not shapes:
        most = answering(program, "prefill", piece, said, few)
        methods["prefill"] = replace(methods["prefill"], peak=most.peak, at_peak=most.at_peak)
    methods = {
        method: replace(one, peak=one.peak - one.at_peak.get("cache", 0))
        for method, one in methods.items()
    }
    used = {name for graph in program.methods.values() for name in graph.parameters()}
    weights = saved = 0
    for one in used:
        param = program.parameters[one]
        whole = item_of(said, one) * param.count
        weights += few[one].size(*param.shape) if one in few else whole
        saved += whole - few[one].size(*param.shape) if one in few else 0
    return ModeOutlay(
        name,
        tokens if isinstance(mode, Mode) else None,
        asked.rows,
        weights,
        cache,
        a_token,
        methods,
        saved,
    )


def one_call(method: str, shapes: Shapes) -> Shapes:
    """The sizes of one call of a method: `decode` takes one token of each prompt."""
    return Shapes({**shapes.values, "length": 1}, shapes.segments) if method == "decode" else shapes


def _piece(program: Program, shapes: Shapes) -> Shapes:
    """The sizes of a call of `prefill` where a prompt is fed in several; else those of the whole.

    A prompt goes on from any place unless queries stand before it.
    """
    prefill = program.methods.get("prefill")
    if prefill is None or shapes.values["length"] <= CHUNK:
        return shapes
    takes = {node.name for node in prefill if isinstance(node.op, Input)}
    if "features" in takes and "text.feature_index" not in takes:
        return shapes
    features = min(shapes.values["features"], shapes.values["batch"] * CHUNK)
    return Shapes({**shapes.values, "length": CHUNK, "features": features}, shapes.segments)


def _cache(program: Program, said: Said, shapes: Shapes) -> tuple[int, int]:
    """Bytes that keys and values take: of one token, and of all slots of all prompts."""
    for graph in program.methods.values():
        for node in graph:
            if isinstance(node.op, Cache) and node.type:
                item = {**ITEMS, "float": ITEMS[coarsest(said)]}[node.type.dtype]
                whole = item
                for size in node.type.sizes:
                    whole *= evaluate(size, shapes.values)
                return whole // (shapes.values["batch"] * shapes.values["slots"]), whole
    return 0, 0

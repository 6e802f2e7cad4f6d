"""From a recipe to the methods that are lowered: which passes, in which order.

The passes of inference and of training stand in `inference_passes` and `training_passes`, from the
first to the last. A `Watcher` sees what each of them made.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

from ..dsl.diagnostics import Diagnostic, Findings, RecipeError
from ..dsl.modes import AnyMode, Mode
from ..dsl.recipe import Recipe
from .build import build, objectives, of_mode
from .coverage import Coverage, coverage, drop_rates, token_rates
from .graph import Graph, Methods, Program
from .ops import Head, Param
from .passes.add_drop_path import AddDropPath
from .passes.add_losses import AddLosses
from .passes.add_token_drop import AddTokenDrop
from .passes.drop_unused import DropUnused
from .passes.fold_still_frames import FoldStillFrames
from .passes.freeze import Freeze
from .passes.infer_shapes import InferShapes
from .passes.keep_cache import KeepCache
from .passes.place_precisions import PlacePrecisions
from .passes.place_tokens import PlaceTokens
from .passes.score_last import ScoreLast
from .passes.split_blocks import SplitBlocks
from .passes.split_methods import SplitInference, SplitRoutes, SplitTraining
from .passes.tie_weights import TieWeights
from .precision import by_part, prove_precisions
from .proofs.answers import prove_answers
from .proofs.assertions import prove_assertions
from .proofs.caching import prove_caches
from .proofs.context import prove_context
from .proofs.handoff import prove_handoff
from .proofs.layouts import prove_layouts
from .proofs.modes import prove_modes
from .proofs.new_tokens import prove_new_tokens
from .proofs.packing import prove_packing
from .proofs.routes import prove_routes
from .proofs.schedules import prove_schedules
from .proofs.shapes import prove_shapes
from .proofs.stages import prove_stages
from .proofs.vanishing import prove_vanishing
from .proofs.vocabulary import prove_vocabulary
from .quantization import prove_quantization
from .spec import feed_spec
from .tokens import as_seen, inference_limits, meaning_of, route_limits, shown, training_limits
from .types import Bounds
from .verify import verify
from .weights import declared, prove_weights


class Pass(Protocol):
    """From one valid graph to another, the old one left as it was."""

    def run(self, graph: Graph) -> Graph:
        """The new graph."""
        ...


class Split(Protocol):
    """From one graph to several methods."""

    def run(self, graph: Graph) -> Methods:
        """The methods, by name."""
        ...


WHOLE = "model"
"""The name of the one graph that there is before it is split into methods."""


def model_passes(recipe: Recipe) -> tuple[Pass | Split, ...]:
    """What every use of a recipe begins with, in order."""
    return (
        InferShapes(),
        PlaceTokens(meaning_of(recipe)),
        TieWeights(),
        FoldStillFrames(),
    )


def inference_passes(recipe: Recipe, mode: AnyMode) -> tuple[Pass | Split, ...]:
    """The passes of a mode, in order."""
    return (
        *model_passes(recipe),
        KeepCache(),
        ScoreLast(),
        DropUnused(),
        SplitInference(tuple(recipe.encoders)),
        PlacePrecisions(by_part(mode.target.precision)),
    )


def route_passes(recipe: Recipe, mode: AnyMode) -> tuple[Pass | Split, ...]:
    """The passes of a mode with routes of its own, in order."""
    return (
        *model_passes(recipe),
        DropUnused(),
        SplitRoutes(),
        PlacePrecisions(by_part(mode.target.precision)),
    )


def training_passes(recipe: Recipe, stage: str, covered: Coverage) -> tuple[Pass | Split, ...]:
    """The passes of a stage, in order."""
    return (
        *model_passes(recipe),
        AddLosses(objectives(recipe, stage)),
        DropUnused(),
        AddDropPath(drop_rates(recipe, stage)),
        AddTokenDrop(token_rates(recipe, stage)),
        SplitBlocks(recipe.stages[stage].cache),
        Freeze(covered.trained.keys() | covered.adapted.keys()),
        SplitTraining(recipe.stages[stage].cache),
        PlacePrecisions(by_part(recipe.stages[stage].precision)),
    )


@dataclass(frozen=True)
class Step:
    """What there is after a pass, and how long the pass took, in seconds."""

    name: str
    methods: Methods
    seconds: float


class Watcher:
    """Stands between any two passes: verifies what the one made before the next may see it.

    `steps` keeps what there was after each, `build` first, for whoever wants to print it.
    """

    def __init__(self) -> None:
        self.steps: list[Step] = []

    def saw(self, name: str, methods: Methods, seconds: float) -> None:
        """A pass is done; AssertionError when it broke a promise."""
        verify(methods)
        self.steps.append(Step(name, methods, seconds))

    def after(self, name: str) -> Methods:
        """What there was after a pass; KeyError when no such pass ran."""
        for step in reversed(self.steps):
            if step.name == name:
                return step.methods
        raise KeyError(name)


def run(graph: Graph, passes: Iterable[Pass | Split], watcher: Watcher) -> Methods:
    """Hands the graph from pass to pass."""
    methods: Methods = {WHOLE: graph}
    watcher.saw("build", methods, 0.0)
    for step in passes:
        started = time.perf_counter()
        made = Methods()
        for name, before in methods.items():
            after = step.run(before)
            made |= {name: after} if isinstance(after, Graph) else after
        methods = made
        watcher.saw(name_of(step), methods, time.perf_counter() - started)
    return methods


def name_of(step: Pass | Split) -> str:
    """The name of a pass as a person writes it: `drop_unused`."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "_", type(step).__name__).lower()


PROOFS: tuple[Callable[[Recipe, Findings], None], ...] = (
    prove_shapes,
    prove_vanishing,
    prove_context,
    prove_packing,
    prove_modes,
    prove_layouts,
    prove_answers,
    prove_routes,
    prove_stages,
    prove_schedules,
    prove_handoff,
    prove_caches,
    prove_precisions,
    prove_quantization,
    prove_new_tokens,
    prove_weights,
    prove_vocabulary,
    prove_assertions,
)
"""All that is proved of a recipe, in order."""


def prove(recipe: Recipe) -> tuple[Diagnostic, ...]:
    """Prove what can be known of a recipe before a weight is loaded.

    RecipeError with every mistake of all proofs; otherwise the warnings.
    """
    named = recipe.span("")
    findings = Findings(named.source if named else None)
    try:
        build(recipe)
    except RecipeError as error:
        for diagnostic in error.diagnostics:
            findings.add(diagnostic)
        findings.raise_if_any()  # what cannot be built has nothing more to prove
    for proof in PROOFS:
        proof(recipe, findings)
    findings.raise_if_any()
    return findings.in_order


def model(recipe: Recipe, *, watcher: Watcher | None = None) -> Graph:
    """The whole model with types, as every stage and mode begins with it."""
    return run(build(recipe), model_passes(recipe), watcher or Watcher())[WHOLE]


def for_inference(
    recipe: Recipe,
    mode: str,
    *,
    media: Iterable[str] | None = None,
    watcher: Watcher | None = None,
) -> Program:
    """The program of a mode: its vision methods, `project`, `prefill` and `decode`.

    A mode with routes of its own has a method for each: `image`, `text` and `logits`, say.

    `media` names the inputs that it must take; by default those that its layout can place.
    RecipeError when the parts of the recipe do not fit together.
    """
    chosen, whole = recipe.modes[mode], build(recipe).parameters()
    recipe = as_seen(recipe, chosen)
    seen = tuple(shown(recipe, chosen) if media is None else media)
    if not isinstance(chosen, Mode):
        graph = of_mode(recipe, chosen, seen)
        methods = run(graph, route_passes(recipe, chosen), watcher or Watcher())
        limits = route_limits(recipe, chosen)
        return _program(recipe, whole, methods, limits, feed_spec(recipe, chosen, seen))
    methods = run(build(recipe, media=seen), inference_passes(recipe, chosen), watcher or Watcher())
    limits = inference_limits(recipe, chosen, seen)
    return _program(recipe, whole, methods, limits, feed_spec(recipe, chosen, seen))


def for_training(
    recipe: Recipe,
    stage: str,
    *,
    media: Iterable[str] | None = None,
    watcher: Watcher | None = None,
) -> Program:
    """The program of a stage: `prefix`, all that needs no gradient (if any), and `step`.

    `media` is as for inference: a step without pictures, say, for the batches that have none.
    RecipeError when the stage does not say exactly one thing of each parameter.
    """
    chosen, covered = recipe.stages[stage], coverage(recipe, stage)
    whole, recipe = build(recipe).parameters(), as_seen(recipe, chosen)
    seen = tuple(shown(recipe, chosen) if media is None else media)
    methods = run(
        build(recipe, media=seen, losses=chosen.loss),
        training_passes(recipe, stage, covered),
        watcher or Watcher(),
    )
    limits = training_limits(recipe, chosen, seen)
    return _program(recipe, whole, methods, limits, feed_spec(recipe, chosen, seen), covered)


def _program(
    recipe: Recipe,
    whole: dict[str, Param],
    methods: Methods,
    limits: dict[str, Bounds],
    spec: dict[str, object],
    covered: Coverage | None = None,
) -> Program:
    ties = {
        f"{node.name}.weight": f"{node.weights}.weight"
        for graph in methods.values()
        for node in graph
        if isinstance(node.op, Head) and node.op.tied
    }
    added: dict[str, Param] = covered.added if covered else {}
    return Program(
        methods,
        declared(recipe, whole) | added,
        ties,
        covered.learning if covered else frozenset(),
        covered.adapted if covered else {},
        limits,
        spec,
    )

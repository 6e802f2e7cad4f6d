"""Which linear layers a mode keeps in 8 bits: each once, and nothing that is no linear layer."""

from __future__ import annotations

from collections.abc import Mapping

from ..dsl.diagnostics import Diagnostic, Findings, Fix, listing
from ..dsl.kinds import Selector
from ..dsl.modes import AnyMode, TensorRt
from ..dsl.recipe import Recipe
from .build import build
from .coverage import linear_layers
from .graph import Graph, Node
from .places import labels


def quantized(recipe: Recipe, mode: AnyMode) -> tuple[str, ...]:
    """The weights that a mode keeps in 8 bits, in the order of the model."""
    graph = build(recipe)
    linear = linear_layers(graph)
    return tuple(
        name
        for name in graph.parameters()
        if name in linear and any(entry.target.matches(name) for entry in mode.quantize)
    )


def prove_quantization(recipe: Recipe, findings: Findings) -> None:
    """Gather selectors of a mode that select what is no linear layer, or what others select too."""
    graph = build(recipe)
    known = linear_layers(graph)
    linear = [name for name in graph.parameters() if name in known]
    for name, mode in recipe.modes.items():
        if mode.quantize and isinstance(mode.target, TensorRt):
            findings.add(_unable(recipe, name))
        owner = dict[str, int]()  # of each weight, the entry that selected it first
        for index, entry in enumerate(mode.quantize):
            path = f"{name}.quantize[{index}]"
            chosen = [weight for weight in linear if entry.target.matches(weight)]
            if found := _misplaced(recipe, path, entry.target, graph, chosen):
                findings.add(found)
            first = dict[int, str]()
            for weight in chosen:
                if owner.setdefault(weight, index) != index:
                    first.setdefault(owner[weight], weight)
            for other, weight in first.items():
                findings.add(_twice(recipe, path, f"{name}.quantize[{other}]", weight))


def _misplaced(
    recipe: Recipe, path: str, selector: Selector, graph: Graph, chosen: list[str]
) -> Diagnostic | None:
    """The complaint that a selector reaches no linear layer, or modules without any."""
    reached = _reached(graph, selector)
    with_linear = {m for m in reached if any(w.startswith(f"{m}.") for w in chosen)}
    others = [module for module in reached if module not in with_linear]
    if with_linear and not others:
        return None
    reason = "8 bits are for the matrices of linear layers; embeddings and norms stay as they are"
    if not with_linear:
        return Diagnostic(
            "F619",
            f"`{selector}` has no linear layer to keep in 8 bits",
            labels(
                recipe,
                (path, "no linear layer of this model is at or below it"),
                (selector.part, "what it selects of belongs to this"),
            ),
            reason,
            Fix("name linear layers, such as `int8(lm.blocks)`"),
        )
    return Diagnostic(
        "F619",
        f"`{selector}` holds {listing(others)}, which {_have(others)} no linear layer",
        labels(
            recipe,
            (path, "all of this was to be in 8 bits"),
            (selector.part, "it has more than linear layers"),
        ),
        reason,
        Fix("write " + listing(f"int8({module})" for module in reached if module in with_linear)),
    )


def _reached(graph: Graph, selector: Selector) -> Mapping[str, Node]:
    """The modules of which a selector selects something, by name."""
    return {
        node.module: node
        for node in graph
        if any(selector.matches(name) for name in node.parameters)
    }


def _twice(recipe: Recipe, here: str, there: str, weight: str) -> Diagnostic:
    return Diagnostic(
        "F619",
        f"`{weight}` is selected twice",
        labels(recipe, (here, "selected here"), (there, "and here")),
        "each layer is quantised once, or nobody can say how",
        Fix("narrow one of the two selectors"),
    )


def _unable(recipe: Recipe, mode: str) -> Diagnostic:
    return Diagnostic(
        "F619",
        f"mode `{mode}` is for a target that cannot run 8-bit weights",
        labels(recipe, (f"{mode}.quantize", "8 bits"), (f"{mode}.target", "this target")),
        "engines of TensorRT are built here from weights in floating point",
        Fix("choose `eager()`, `inductor()` or `aot()`, or leave `quantize` out"),
    )


def _have(names: list[str]) -> str:
    return "have" if len(names) > 1 else "has"

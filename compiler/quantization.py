"""Which linear layers a mode keeps in few bits: each once, and nothing that is no linear layer."""

from __future__ import annotations

from collections.abc import Mapping
from math import gcd

from ..blocks.storage import Storage
from ..dsl.diagnostics import Diagnostic, Findings, Fix, listing
from ..dsl.kinds import Selector
from ..dsl.modes import AnyMode, TensorRt
from ..dsl.precision import Fewer, Int4
from ..dsl.recipe import Recipe
from .build import build
from .coverage import linear_layers
from .graph import Graph, Node
from .ops import Param
from .places import labels
from .repairs import replaced


def quantized(recipe: Recipe, mode: AnyMode) -> dict[str, Storage]:
    """How a mode keeps each weight that it keeps in few bits, in the order of the model."""
    graph = build(recipe)
    linear = linear_layers(graph)
    return {
        name: stored(entry)
        for name in graph.parameters()
        for entry in mode.quantize
        if name in linear and entry.target.matches(name)
    }


def stored(entry: Fewer) -> Storage:
    """How an entry of `quantize` keeps what it selects."""
    return Storage(4, entry.group) if isinstance(entry, Int4) else Storage(8)


def prove_quantization(recipe: Recipe, findings: Findings) -> None:
    """Gather selectors of a mode that select what is no linear layer, or what others select too."""
    graph = build(recipe)
    known = linear_layers(graph)
    linear = {name: param for name, param in graph.parameters().items() if name in known}
    for name, mode in recipe.modes.items():
        if mode.quantize and isinstance(mode.target, TensorRt):
            findings.add(_unable(recipe, name))
        owner = dict[str, int]()  # of each weight, the entry that selected it first
        for index, entry in enumerate(mode.quantize):
            path = f"{name}.quantize[{index}]"
            chosen = {w: param for w, param in linear.items() if entry.target.matches(w)}
            if found := _misplaced(recipe, path, entry, graph, list(chosen)):
                findings.add(found)
            if isinstance(entry, Int4) and (found := _uneven(recipe, path, entry, chosen)):
                findings.add(found)
            first = dict[int, str]()
            for weight in chosen:
                if owner.setdefault(weight, index) != index:
                    first.setdefault(owner[weight], weight)
            for other, weight in first.items():
                findings.add(_twice(recipe, path, f"{name}.quantize[{other}]", weight))


def _misplaced(
    recipe: Recipe, path: str, entry: Fewer, graph: Graph, chosen: list[str]
) -> Diagnostic | None:
    """The complaint that an entry reaches no linear layer, or modules without any."""
    selector, bits = entry.target, f"{stored(entry).bits} bits"
    reached = _reached(graph, selector)
    with_linear = {m for m in reached if any(w.startswith(f"{m}.") for w in chosen)}
    others = [module for module in reached if module not in with_linear]
    if with_linear and not others:
        return None
    reason = f"{bits} are for the matrices of linear layers; embeddings and norms stay as they are"
    if not with_linear:
        return Diagnostic(
            "F619",
            f"`{selector}` has no linear layer to keep in {bits}",
            labels(
                recipe,
                (path, "no linear layer of this model is at or below it"),
                (selector.part, "what it selects of belongs to this"),
            ),
            reason,
            Fix(f"name linear layers, such as `{_of(entry, 'lm.blocks')}`"),
        )
    return Diagnostic(
        "F619",
        f"`{selector}` holds {listing(others)}, which {_have(others)} no linear layer",
        labels(
            recipe,
            (path, f"all of this was to be in {bits}"),
            (selector.part, "it has more than linear layers"),
        ),
        reason,
        Fix("write " + listing(_of(entry, module) for module in reached if module in with_linear)),
    )


def _uneven(
    recipe: Recipe, path: str, entry: Int4, chosen: Mapping[str, Param]
) -> Diagnostic | None:
    """The complaint that the groups of an entry do not divide the inputs of what it selects."""
    widths = {name: param.shape[1] for name, param in chosen.items()}
    wrong = [name for name, width in widths.items() if width % entry.group]
    if not wrong:
        return None
    shared = gcd(*widths.values())
    fitting = [size for size in range(16, entry.group, 2) if shared % size == 0]
    written = f"int8({entry.target})"
    if fitting:
        best = max(fitting, key=lambda size: (size % 32 == 0, size))  # as processors read them
        written = str(entry.model_copy(update={"group": best}))
    more = f", and those of {len(wrong) - 1:,} more" if len(wrong) > 1 else ""
    return Diagnostic(
        "F619",
        f"groups of {entry.group} do not divide the {widths[wrong[0]]:,} inputs of `{wrong[0]}`",
        labels(
            recipe,
            (path, f"cut into groups of {entry.group}{more}"),
            (entry.target.part, "what it selects of belongs to this"),
        ),
        "every group of a row has as many weights, with a factor and a zero of its own",
        Fix(f"write `{written}`", replaced(recipe, path, written)),
    )


def _of(entry: Fewer, module: str) -> str:
    """An entry, for another target."""
    return str(entry.model_copy(update={"target": Selector.of(module)}))


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
        f"mode `{mode}` is for a target that cannot run quantised weights",
        labels(recipe, (f"{mode}.quantize", "in fewer bits"), (f"{mode}.target", "this target")),
        "engines of TensorRT are built here from weights in floating point",
        Fix("choose `eager()`, `inductor()` or `aot()`, or leave `quantize` out"),
    )


def _have(names: list[str]) -> str:
    return "have" if len(names) > 1 else "has"

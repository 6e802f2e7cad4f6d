"""What a stage keeps of its pictures is the same whenever they are seen."""

from __future__ import annotations

from collections.abc import Iterator

from ...dsl.diagnostics import Diagnostic, Findings, Fix, RecipeError
from ...dsl.kinds import Selector
from ...dsl.recipe import Recipe
from ..build import build, objectives
from ..caching import Blocks, chosen, end_in, handed_on, kept_nodes, media_of_views
from ..coverage import Coverage, cover, drop_rates, token_rates
from ..graph import Graph, Node
from ..ops import Input, TakeTokens, VisionBlocks
from ..passes.add_drop_path import AddDropPath
from ..passes.add_losses import AddLosses
from ..passes.add_token_drop import AddTokenDrop
from ..passes.drop_unused import DropUnused
from ..passes.infer_shapes import InferShapes
from ..passes.split_blocks import SplitBlocks
from ..passes.tie_weights import TieWeights
from ..places import labels
from ..tokens import shown


def prove_caches(recipe: Recipe, findings: Findings) -> None:
    """Gather caches over what learns, over what is left to chance, and over what is no prefix."""
    for name, stage in recipe.stages.items():
        own = Findings()
        covered = cover(recipe, name, own)
        if not stage.cache or own:
            continue
        try:
            graph = _as_trained(recipe, name)
        except RecipeError:
            continue  # what cannot be built is other proofs' to report
        for index, selector in enumerate(stage.cache):
            found = next(_wrong(recipe, name, graph, covered, selector, index), None)
            if found:
                findings.add(found)


def _as_trained(recipe: Recipe, name: str) -> Graph:
    """The graph of a stage up to its loss."""
    stage = recipe.stages[name]
    graph = build(recipe, media=shown(recipe, stage), losses=stage.loss)
    for step in (
        InferShapes(),
        TieWeights(),
        AddLosses(objectives(recipe, name)),
        DropUnused(),
        AddDropPath(drop_rates(recipe, name)),
        AddTokenDrop(token_rates(recipe, name)),
    ):
        graph = step.run(graph)
    return graph


def _wrong(
    recipe: Recipe,
    name: str,
    graph: Graph,
    covered: Coverage,
    selector: Selector,
    index: int,
) -> Iterator[Diagnostic]:
    """What is wrong with one entry of a cache, the worst first."""
    path = f"{name}.cache[{index}]"

    def wrong(title: str, other: tuple[str, str], reason: str, fix: str) -> Diagnostic:
        here = (path, "this is to be kept")
        return Diagnostic("F617", title, labels(recipe, here, other), reason, Fix(fix))

    part = selector.part
    for node in graph:
        named = chosen(node, [selector])
        if named and named != node.parameters.keys() and end_in(node, [selector]) is None:
            tapped = isinstance(node.op, Blocks) and node.op.taps
            yield wrong(
                f"a cache cannot end where `{selector}` does",
                (
                    part,
                    "its inner blocks are taken one by one"
                    if tapped
                    else "a module of this, in part",
                ),
                "what is kept is a value that the model hands on: that of a whole part, of a whole "
                "module of it, or of a tower up to the end of one of its blocks",
                f"write `{part}`, or blocks of a tower: `vit.blocks[0..3]`",
            )
    graph = SplitBlocks([selector]).run(graph)
    kept = kept_nodes(graph, [selector])
    learning = covered.trained.keys() | covered.adapted.keys()
    for node in (graph[one] for one in graph.nodes if one in kept):
        learns = next((one for one in node.parameters if one in learning), None)
        if learns is not None:
            yield wrong(
                f"stage `{name}` keeps values of `{selector}`, and `{learns}` changes them",
                (_trainer(recipe, name, learns), f"`{learns}` learns"),
                "what is kept from the first epoch would be that of other weights in the next",
                "freeze it in this stage, or keep less",
            )
        yield from (
            wrong(
                f"chance has a part in what `{selector}` yields",
                (f"{name}.{setting}", "another draw each time"),
                "what is kept would be that of one draw for the whole stage",
                f"drop `{setting}`, or keep less",
            )
            for setting in _by_chance(recipe, name, node)
        )
    views, fed = media_of_views(graph), [n for n in kept if isinstance(graph[n].op, Input)]
    ends = handed_on(graph, kept)
    of_pictures = all(one.rpartition(".")[0] in views for one in fed) and all(
        medium and _is_per_picture(graph[one]) for one, medium in ends.items()
    )
    if not of_pictures:
        yield wrong(
            f"what `{selector}` yields is not made of one picture",
            (part, "this sees a text, or several inputs at once"),
            "values are kept picture by picture, and found by the picture alone",
            "keep the part before it that sees a picture alone, such as a tower",
        )
    if not ends:
        yield wrong(
            f"nothing of `{selector}` is computed in stage `{name}`",
            (f"{name}.layout", "no picture of its samples reaches it"),
            "a cache that nothing fills is a slip",
            "leave it out",
        )


def _trainer(recipe: Recipe, name: str, parameter: str) -> str:
    """The entry of `train` by which a parameter learns."""
    for index, entry in enumerate(recipe.stages[name].train):
        target = entry if isinstance(entry, Selector) else entry.target
        if target.matches(parameter):
            return f"{name}.train[{index}]"
    return f"{name}.train"


def _by_chance(recipe: Recipe, name: str, node: Node) -> Iterator[str]:
    """The settings of a stage by which a node yields something else each time."""
    if isinstance(node.op, VisionBlocks) and any(node.op.drop_path):
        yield "drop_path"
    if isinstance(node.op, TakeTokens):
        yield "drop_tokens"
    still = isinstance(node.op, Input) and node.op.still
    if still and recipe.stages[name].augment:
        yield "augment"


def _is_per_picture(node: Node) -> bool:
    assert node.type
    return not isinstance(node.type.sizes[0], int)

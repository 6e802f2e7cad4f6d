"""Recipe to graph: every part becomes the operations that it is made of.

The graph says what the model computes from the host's inputs to the logits of all positions; what a
stage or a mode makes of it is the work of passes. A part that sees several inputs is called once
for each, over one set of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..dsl.kinds import Selector
from ..dsl.modes import Features, Retrieval
from ..dsl.objectives import RegionWords
from ..dsl.parts import (
    MLP,
    AttentionPool,
    Decoder,
    LastToken,
    Learned,
    MeanScores,
    MergeMLP,
    PixelShuffle,
    Projection,
    QFormer,
    QueryDecoder,
    Resampler,
    SamNeck,
    SamViT,
    Scale,
    SplitMLP,
    UnitSum,
    ViT,
)
from ..dsl.recipe import Recipe
from . import ops, routes
from .graph import Graph, Node
from .passes.add_losses import MatchRegions, NextToken, Objective, OwnRoute
from .routes import Route
from .types import Size, TensorType
from .yields import PATCHES, Yield, dense, squares, together, view, yielded

CHANNELS = 3
"""Red, green and blue."""
NEXT_TOKEN = "lm"
"""The objective that every language model has; a recipe declares the others."""


def build(
    recipe: Recipe, *, media: Iterable[str] | None = None, losses: Iterable[str] = ()
) -> Graph:
    """The graph of a recipe, with `logits` for output; with `media`, for these inputs only.

    A recipe without a language model yields what its last parts make of pictures and texts instead.
    `losses` names objectives of a stage: those that have routes of their own are outputs too. Types
    are those of the host's inputs alone: the pass `infer_shapes` fills in the rest. RecipeError
    when a part cannot take what it is given.
    """
    builder = Builder(recipe, recipe.inputs if media is None else media)
    outputs = dict(_whole(builder))
    for name in losses:
        if isinstance(recipe.objectives.get(name), routes.OBJECTIVES):
            outputs[f"loss.{name}"] = routes.add_objective(builder, name)
    return Graph.of(builder.nodes, outputs)


def of_mode(recipe: Recipe, mode: Retrieval | Features, media: Iterable[str]) -> Graph:
    """The graph of a mode that has routes of its own, with an output for each."""
    builder = Builder(recipe, media)
    if isinstance(mode, Retrieval):
        return Graph.of(builder.nodes, routes.retrieval(builder, mode))
    return Graph.of(builder.nodes, routes.features(builder, mode))


def _whole(builder: Builder) -> Mapping[str, str]:
    """The outputs that a recipe has before a stage or a mode chooses."""
    recipe = builder.recipe
    if recipe.lm is None and recipe.adapters:
        return routes.loose_ends(builder)
    if recipe.lm is None:
        towers = [(name, medium) for name in recipe.encoders for medium in builder.reaching(name)]
        return {node: node for node in (builder.part(*tower) for tower in towers)}
    if isinstance(recipe.lm, QueryDecoder):
        (medium,) = builder.reaching("lm")
        return {"logits": routes.generation(builder, medium)}
    if any(routes.reads(recipe, source.part) for source in recipe.lm.in_):
        builder.route = routes.fed(builder, routes.QUESTION, "questions")
    rows = [
        builder.rows(source, medium)
        for source in recipe.lm.in_
        for medium in builder.reaching(source.part)
    ]
    return {"logits": decoder(builder, recipe.lm, rows)}


def reach(recipe: Recipe) -> Mapping[str, tuple[str, ...]]:
    """For each input and part of a recipe, the inputs that reach it, in the order of its rows."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in recipe.inputs}
    parts = recipe.encoders | recipe.adapters | ({"lm": recipe.lm} if recipe.lm else {})

    def reaching(name: str) -> tuple[str, ...]:
        if name not in found:
            seen = [s.part for s in parts[name].in_ if not routes.is_text(recipe, s)]
            found[name] = tuple(dict.fromkeys(m for part in seen for m in reaching(part)))
        return found[name]

    for name in parts:  # which may stand in any order
        reaching(name)
    return found


def objectives(recipe: Recipe, stage: str) -> Mapping[str, Objective]:
    """What a stage minimises the sum of, by name."""
    found = dict[str, Objective]()
    for name in recipe.stages[stage].loss:
        if name == NEXT_TOKEN:
            found[name] = NextToken()
            continue
        match recipe.objectives[name]:
            case RegionWords(regions=regions, words=words, temperature=temperature):
                found[name] = MatchRegions(regions, words, temperature)
            case _:
                found[name] = OwnRoute()
    return found


class Builder:
    """Gathers nodes, in an order in which each comes after what it takes."""

    def __init__(self, recipe: Recipe, media: Iterable[str]) -> None:
        self.recipe = recipe
        self.nodes: list[Node] = []
        self._media = frozenset(media)
        self._reach = reach(recipe)
        self.route: Route | None = None
        self.routes: dict[str, Route] = {}
        self.losses: dict[str, str] = {}
        self._built: dict[tuple[str, str, str], str] = {}
        self._taps: dict[tuple[str, str], Mapping[int, str]] = {}
        self._names: set[str] = set()

    def reaching(self, part: str) -> list[str]:
        """The inputs in use that reach a part."""
        return [medium for medium in self._reach[part] if medium in self._media]

    def part(self, name: str, medium: str) -> str:
        """Adds the call of an encoder or an adapter for one input; gives its last node."""
        reads = self.route if routes.reads(self.recipe, name) else None
        key = (name, medium, reads.name if reads else "")
        if key not in self._built:
            part = (self.recipe.encoders | self.recipe.adapters)[name]
            self._built[key] = PARTS[type(part)](self, name, part, medium)
        return self._built[key]

    def source(self, source: Selector, medium: str) -> str:
        """Adds what a part takes of another, `vit.patches` say; gives its last node."""
        if routes.is_spoken(self.recipe, source):
            return routes.spoken(self, source, medium)
        name = self.part(source.part, medium)
        blocks = next((step for step in source.parts[1:] if step.first is not None), None)
        if blocks is not None:
            assert blocks.first is not None
            name = self._taps[source.part, medium][blocks.first]
        whole = Selector(text=source.part, parts=source.parts[:1])
        if source.parts[-1].name != PATCHES or not self.yields(whole, medium).class_token:
            return name
        return self.once(f"{name}.{PATCHES}", ops.DropClassToken(), name)

    def yields(self, source: Selector, medium: str) -> Yield:
        """What a source yields for an input."""
        return yielded(self.recipe, source, medium)

    def rows(self, source: Selector, medium: str) -> str:
        """The same as rows of features, whether packed or dense; gives its last node."""
        name = self.source(source, medium)
        given = self.yields(source, medium)
        if given.is_packed or given.is_vector:
            return name
        return self.once(f"{name}.rows", ops.Rows(), name)

    def place(self, name: str, medium: str) -> dict[str, str]:
        """What tells the call of a part from its others: the route if it reads, else the input."""
        if self.route and routes.reads(self.recipe, name):
            return {"route": self.route.name}
        return {"medium": medium}

    def taps(self, name: str) -> tuple[int, ...]:
        """The blocks of a tower behind which something is taken, the last one included if used."""
        parts = self.recipe.encoders | self.recipe.adapters
        takers = [*parts.values(), *([self.recipe.lm] if self.recipe.lm else [])]
        last, taken = int(getattr(parts[name], "depth", 0)) - 1, set[int | None]()
        for source in (source for taker in takers for source in taker.in_ if source.part == name):
            steps = source.parts[1:] if isinstance(source, Selector) else ()
            taken.add(next((step.first for step in steps if step.first is not None), None))
        if taken <= {None}:
            return ()
        return tuple(sorted({last if block is None else block for block in taken}))

    def tapped(self, name: str, medium: str, blocks: str, taps: tuple[int, ...]) -> str:
        """Adds a node for what each tapped block of a tower yields; gives the last of all."""
        if not taps:
            return blocks
        nodes = {
            block: self.once(f"{blocks}.{block}.out", ops.Tap(index), blocks)
            for index, block in enumerate(taps)
        }
        self._taps[name, medium] = nodes
        return nodes[taps[-1]]

    def once(self, name: str, op: ops.Operation, *inputs: str) -> str:
        """Adds a node that owns nothing, unless it is there."""
        if name not in self._names:
            self.nodes.append(Node(name, op, inputs, loc=self.recipe.span(name.partition(".")[0])))
            self._names.add(name)
        return name

    def call(
        self, module: str, op: ops.Operation, *inputs: str, medium: str = "", route: str = ""
    ) -> str:
        """Adds a call of a module, for an input or on a route; the first owns the parameters."""
        first = module not in self._names
        name = module if first else f"{module}@{route or medium}"
        weights = None if first or not op.parameters() else module
        span = self.recipe.span(module.partition(".")[0])
        self.nodes.append(Node(name, op, inputs, weights, loc=span))
        self._names.add(name)
        return name

    def feed(self, name: str, type: TensorType, *, medium: str = "") -> str:
        """Adds what the host feeds; for patches, of which input they are."""
        still = bool(medium) and self.recipe.inputs[medium].kind == "image"
        self.nodes.append(Node(name, ops.Input(type, still, medium), type=type))
        return name


def vision_tower(builder: Builder, name: str, part: ViT, medium: str) -> str:
    """Patches of one input -> a row for each patch."""
    shown, head_dim = view(builder.recipe, medium, name), part.width // part.heads
    embed = ops.PatchEmbed(part.width, CHANNELS, part.frames_per_patch, part.patch, part.patch_bias)
    rows: tuple[Size | str, ...] = (f"{shown.name}.patches",)
    if not part.is_packed:
        side = grid_of(builder, name, medium)[0]
        rows = (f"{medium}.pictures", side * side)
    patches = builder.feed(
        f"{shown.name}.patches", TensorType((*rows, embed.row), "f32"), medium=medium
    )
    tables = []
    if part.is_packed:
        tables = [
            builder.feed(f"{shown.name}.segment_id", TensorType(rows, "i64")),
            builder.feed(f"{shown.name}.cos", TensorType((*rows, head_dim), "f32")),
            builder.feed(f"{shown.name}.sin", TensorType((*rows, head_dim), "f32")),
        ]
    hidden = builder.call(f"{name}.patch_embed", embed, patches, medium=medium)
    if isinstance(part.pos, Learned):
        hidden = builder.call(
            f"{name}.positions",
            ops.Positions(
                part.width,
                (part.pos.grid.rows, part.pos.grid.columns),
                grid_of(builder, name, medium),
                part.class_token,
            ),
            hidden,
            medium=medium,
        )
    if part.pre_norm:
        pre_norm = ops.Norm(part.pre_norm.call, part.width, part.pre_norm.eps)
        hidden = builder.call(f"{name}.pre_norm", pre_norm, hidden, medium=medium)
    taps = builder.taps(name)
    blocks = ops.VisionBlocks(
        taps[-1] + 1 if taps else part.depth,  # nothing needs the blocks behind the last tap
        part.width,
        part.heads,
        part.ffn,
        part.act,
        part.norm.call,
        part.norm.eps,
        part.qkv_bias,
        rotary=part.is_packed,
        packed=part.is_packed,
        k_bias=part.k_bias,
        qk_norm=part.qk_norm.call if part.qk_norm else None,
        qk_eps=part.qk_norm.eps if part.qk_norm else 0.0,
        layer_scale=part.layer_scale,
        taps=taps,
    )
    last = builder.call(f"{name}.blocks", blocks, hidden, *tables, medium=medium)
    last = builder.tapped(name, medium, last, taps)
    if part.final_norm and (not taps or taps[-1] == part.depth - 1):
        norm = ops.Norm(part.final_norm.call, part.width, part.final_norm.eps)
        last = builder.call(f"{name}.norm", norm, last, medium=medium)
    return last


def sam_tower(builder: Builder, name: str, part: SamViT, medium: str) -> str:
    """The patches of pictures of one size -> a row for each patch of their maps."""
    shown, grid = view(builder.recipe, medium, name), grid_of(builder, name, medium)
    embed = ops.PatchEmbed(part.width, CHANNELS, 1, part.patch, part.patch_bias)
    sizes = (f"{medium}.pictures", grid[0] * grid[1], embed.row)
    patches = builder.feed(f"{shown.name}.patches", TensorType(sizes, "f32"), medium=medium)
    hidden = builder.call(f"{name}.patch_embed", embed, patches, medium=medium)
    positions = ops.MapPositions(part.width, grid)
    hidden = builder.call(f"{name}.positions", positions, hidden, medium=medium)
    taps = builder.taps(name)
    blocks = ops.SamBlocks(
        taps[-1] + 1 if taps else part.depth,
        part.width,
        part.heads,
        part.ffn,
        part.act,
        part.norm.call,
        part.norm.eps,
        part.qkv_bias,
        grid,
        part.window,
        part.global_,
        taps,
    )
    last = builder.call(f"{name}.blocks", blocks, hidden, medium=medium)
    return builder.tapped(name, medium, last, taps)


def grid_of(builder: Builder, name: str, medium: str) -> tuple[int, int]:
    """Rows and columns of patches of a tower whose pictures have one size."""
    grid = builder.yields(Selector.of(name), medium).grid
    assert grid
    return grid


def merge(builder: Builder, name: str, part: MergeMLP, medium: str) -> str:
    """A row for each patch -> a row for each window of patches."""
    (source,) = part.in_
    below, given = builder.source(source, medium), builder.yields(source, medium)
    window = part.window.rows, part.window.columns
    if not given.is_packed:
        grid = squares(builder.recipe, name, source, medium)
        below = builder.once(f"{below}.windows", ops.Windows(grid, window), below)
    op = ops.MergeMLP(
        part.window.area,
        given.width,
        part.hidden,
        part.out,
        part.act,
        part.norm.call,
        part.norm.eps,
    )
    return builder.call(name, op, below, medium=medium)


def qformer(builder: Builder, name: str, part: QFormer, medium: str) -> str:
    """The tokens of each picture -> a row for each query."""
    (source,) = part.in_
    given = dense(builder.recipe, name, source, medium)
    op = ops.QFormer(
        part.queries,
        part.depth,
        part.width,
        given.width,
        part.heads,
        part.ffn,
        part.act,
        part.norm.call,
        part.norm.eps,
        part.cross_every,
    )
    return builder.call(name, op, builder.source(source, medium), medium=medium)


def resampler(builder: Builder, name: str, part: Resampler, medium: str) -> str:
    """The patches of each picture -> a row for each query."""
    (source,) = part.in_
    given = dense(builder.recipe, name, source, medium)
    op = ops.Resampler(
        (part.queries.rows, part.queries.columns),
        squares(builder.recipe, name, source, medium),
        given.width,
        part.width,
        part.heads,
        part.out,
        part.norm.call,
        part.norm.eps,
    )
    return builder.call(name, op, builder.source(source, medium), medium=medium)


def sam_neck(builder: Builder, name: str, part: SamNeck, medium: str) -> str:
    """The maps of a tower -> a row for each cell of a coarser grid."""
    grid = squares(builder.recipe, name, part.in_[0], medium)
    given = together(builder.recipe, name, part.in_, medium)
    op = ops.SamNeck(
        len(given),
        given[0].width,
        grid,
        part.width,
        part.norm.call,
        part.norm.eps,
        (part.grid.rows, part.grid.columns),
        part.strided,
        part.gate,
    )
    maps = [builder.source(source, medium) for source in part.in_]
    return builder.call(name, op, *maps, medium=medium)


def pixel_shuffle(builder: Builder, name: str, part: PixelShuffle, medium: str) -> str:
    """A row for each patch -> a wider row for each square of patches."""
    (source,) = part.in_
    op = ops.PixelShuffle(squares(builder.recipe, name, source, medium), part.factor)
    return builder.call(name, op, builder.source(source, medium), medium=medium)


def project(builder: Builder, name: str, part: Projection, medium: str) -> str:
    """Rows -> rows of another width."""
    (source,) = part.in_
    op = ops.Linear(builder.yields(source, medium).width, part.out, part.bias)
    return builder.call(name, op, builder.source(source, medium), medium=medium)


def mlp(builder: Builder, name: str, part: MLP, medium: str) -> str:
    """Rows -> rows of another width."""
    (source,) = part.in_
    op = ops.MLP(
        builder.yields(source, medium).width,
        part.hidden,
        part.out,
        part.act,
        part.norm.call if part.norm else None,
        part.norm.eps if part.norm else 0.0,
    )
    return builder.call(name, op, builder.source(source, medium), medium=medium)


def split_mlp(builder: Builder, name: str, part: SplitMLP, medium: str) -> str:
    """Rows of several sources -> one row for each place."""
    given = together(builder.recipe, name, part.in_, medium)
    op = ops.SplitMLP(tuple(below.width for below in given), part.each, part.out, part.act)
    sources = [builder.source(source, medium) for source in part.in_]
    return builder.call(name, op, *sources, medium=medium)


PARTS: Mapping[type, Callable[..., str]] = {
    ViT: vision_tower,
    SamViT: sam_tower,
    MergeMLP: merge,
    QFormer: qformer,
    Resampler: resampler,
    SamNeck: sam_neck,
    PixelShuffle: pixel_shuffle,
    Projection: project,
    MLP: mlp,
    SplitMLP: split_mlp,
    AttentionPool: routes.attention_pool,
    QueryDecoder: routes.query_decoder,
    LastToken: routes.last_token,
    MeanScores: routes.mean_scores,
    UnitSum: routes.unit_sum,
    Scale: routes.scale,
}
"""How each type of encoder and adapter is built: it gives the last of the nodes that it adds."""


def decoder(builder: Builder, part: Decoder, features: list[str]) -> str:
    """Ids, and features in their places -> a score for each entry of the vocabulary."""
    tokens = builder.feed("text.tokens", TensorType(("batch", "length"), "i64"))
    hidden = builder.call("lm.embed", ops.Embed(part.vocab, part.width), tokens)
    if features:
        if len(features) > 1:
            features = [builder.call("lm.features", ops.Concat(), *features)]
        index = builder.feed("text.feature_index", TensorType(("batch", "length"), "i64"))
        hidden = builder.call("lm.splice", ops.Splice(), hidden, features[0], index)
    table = TensorType(("batch", "length", part.head_dim), "f32")
    cos, sin = builder.feed("text.cos", table), builder.feed("text.sin", table)
    segment_id = builder.feed("text.segment_id", TensorType(("batch", "length"), "i64"))
    blocks = ops.DecoderBlocks(
        part.depth,
        part.width,
        part.heads,
        part.kv_heads,
        part.head_dim,
        part.ffn,
        part.act,
        part.norm.call,
        part.norm.eps,
        part.qkv_bias,
        scaled_queries=part.query_scale is not None,
    )
    hidden = builder.call("lm.blocks", blocks, hidden, cos, sin, segment_id)
    hidden = builder.call("lm.norm", ops.Norm(part.norm.call, part.width, part.norm.eps), hidden)
    return builder.call("lm.head", ops.Head(part.vocab, part.width, part.tied), hidden)

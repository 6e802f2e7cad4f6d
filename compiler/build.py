"""Recipe to graph: every part becomes the operations that it is made of.

The graph says what the model computes from the host's inputs to the logits of all positions; what a
stage or a mode makes of it is the work of passes. A part that sees several inputs is called once
for each, over one set of parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from ..dsl.recipe import Decoder, MergeMLP, Recipe, RegionWords, ViT
from . import ops
from .graph import Graph, Node
from .passes.add_losses import MatchRegions, NextToken, Objective
from .types import TensorType

CHANNELS = 3
"""Red, green and blue."""
NEXT_TOKEN = "lm"
"""The objective that every language model has; a recipe declares the others."""


def build(recipe: Recipe, *, media: Iterable[str] | None = None) -> Graph:
    """The graph of a recipe, with `logits` for output; with `media`, for these inputs only.

    A recipe without a language model yields the features of each of its last parts instead. Types
    are those of the host's inputs alone: the pass `infer_shapes` fills in the rest.
    """
    builder = Builder(recipe, recipe.inputs if media is None else media)
    ends = recipe.lm.in_ if recipe.lm else tuple(recipe.adapters or recipe.encoders)
    features = [builder.part(end, medium) for end in ends for medium in builder.reaching(end)]
    if recipe.lm is None:
        return Graph.of(builder.nodes, {name: name for name in features})
    return Graph.of(builder.nodes, {"logits": decoder(builder, recipe.lm, features)})


def reach(recipe: Recipe) -> Mapping[str, tuple[str, ...]]:
    """For each input and part of a recipe, the inputs that reach it, in the order of its rows."""
    found: dict[str, tuple[str, ...]] = {name: (name,) for name in recipe.inputs}
    for name, part in (recipe.encoders | recipe.adapters).items():
        found[name] = tuple(medium for source in part.in_ for medium in found[source])
    if recipe.lm:
        found["lm"] = tuple(medium for source in recipe.lm.in_ for medium in found[source])
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
    return found


class Builder:
    """Gathers nodes, in an order in which each comes after what it takes."""

    def __init__(self, recipe: Recipe, media: Iterable[str]) -> None:
        self.recipe = recipe
        self.nodes: list[Node] = []
        self._media = frozenset(media)
        self._reach = reach(recipe)

    def reaching(self, part: str) -> list[str]:
        """The inputs in use that reach a part."""
        return [medium for medium in self._reach[part] if medium in self._media]

    def part(self, name: str, medium: str) -> str:
        """Adds the call of an encoder or an adapter for one input; gives its last node."""
        part = (self.recipe.encoders | self.recipe.adapters)[name]
        return PARTS[type(part)](self, name, part, medium)

    def call(self, module: str, op: ops.Operation, *inputs: str, medium: str | None = None) -> str:
        """Adds a call of a module; the call for the first input owns the parameters."""
        part = module.partition(".")[0]
        first = medium is None or medium == self.reaching(part)[0]
        name = module if first else f"{module}@{medium}"
        weights = None if first or not op.parameters() else module
        self.nodes.append(Node(name, op, inputs, weights, loc=self.recipe.span(part)))
        return name

    def feed(self, name: str, type: TensorType, *, still: bool = False) -> str:
        """Adds what the host feeds."""
        self.nodes.append(Node.fed(name, type, still=still))
        return name


def vision_tower(builder: Builder, name: str, part: ViT, medium: str) -> str:
    """Patches of one input -> a row for each patch."""
    rows, head_dim = f"{medium}.patches", part.width // part.heads
    embed = ops.PatchEmbed(part.width, CHANNELS, part.frames_per_patch, part.patch, part.patch_bias)
    patches = builder.feed(
        f"{medium}.patches",
        TensorType((rows, embed.row), "f32"),
        still=builder.recipe.inputs[medium].kind == "image",
    )
    segment_id = builder.feed(f"{medium}.segment_id", TensorType((rows,), "i64"))
    cos = builder.feed(f"{medium}.cos", TensorType((rows, head_dim), "f32"))
    sin = builder.feed(f"{medium}.sin", TensorType((rows, head_dim), "f32"))
    blocks = ops.VisionBlocks(
        part.depth,
        part.width,
        part.heads,
        part.ffn,
        part.act,
        part.norm.call,
        part.norm.eps,
        part.qkv_bias,
        rotary=True,
    )
    embedded = builder.call(f"{name}.patch_embed", embed, patches, medium=medium)
    return builder.call(f"{name}.blocks", blocks, embedded, segment_id, cos, sin, medium=medium)


def merge(builder: Builder, name: str, part: MergeMLP, medium: str) -> str:
    """A row for each patch -> a row for each window of patches."""
    (source,) = part.in_
    below = builder.part(source, medium)
    op = ops.MergeMLP(
        part.window.area,
        builder.recipe.encoders[source].width,
        part.hidden,
        part.out,
        part.act,
        part.norm.call,
        part.norm.eps,
    )
    return builder.call(name, op, below, medium=medium)


PARTS: Mapping[type, Callable[..., str]] = {ViT: vision_tower, MergeMLP: merge}
"""How each type of encoder and adapter is built."""


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
    )
    hidden = builder.call("lm.blocks", blocks, hidden, cos, sin, segment_id)
    hidden = builder.call("lm.norm", ops.Norm(part.norm.call, part.width, part.norm.eps), hidden)
    return builder.call("lm.head", ops.Head(part.vocab, part.width, part.tied), hidden)

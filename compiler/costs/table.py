"""What each operation of the graph costs: a row for each, beside those of `compiler.lower`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .. import ops
from . import adapters, language, losses, towers
from .kernels import (
    ITEMS,
    cast,
    cat,
    gather,
    linear,
    mean,
    pick,
    where,
)
from .module import Module
from .tape import Value
from .views import (
    expand,
    flatten,
    narrow,
    reshape,
    select,
    unflatten,
)

Row = Callable[..., Value]
"""Takes the operation, the module that owns its parameters, and the values of its inputs."""


def _splice(op: ops.Splice, module: Module, text: Value, features: Value, index: Value) -> Value:
    clamped = text.tape.new(index.sizes, index.item)
    chosen = cast(pick(features, clamped), text.item)
    asked = reshape(text.tape.new(index.sizes, 1), (*index.sizes, 1))
    return where(asked, chosen, text)


def _take_tokens(op: ops.TakeTokens, module: Module, x: Value, index: Value) -> Value:
    places = reshape(index, (*index.sizes, 1))
    return gather(x, expand(places, (*index.sizes, x.sizes[2])))


def _take_last(op: ops.TakeLast, module: Module, x: Value, *place: Value) -> Value:
    batch, _, width = x.sizes
    if not place:
        return reshape(narrow(x, 1, 1), (batch, width))
    rows = flatten(x, 0, 1)
    return pick(rows, place[0])


ROWS: Mapping[type[ops.Operation], Row] = MappingProxyType(
    {
        ops.Cast: lambda op, module, x: cast(x, ITEMS[op.to]),
        ops.PatchEmbed: towers.patch_embed,
        ops.Positions: towers.positions,
        ops.MapPositions: towers.map_positions,
        ops.VisionBlocks: towers.vision_blocks,
        ops.SamBlocks: towers.sam_blocks,
        ops.Tap: lambda op, module, taps: select(taps),
        ops.DropClassToken: lambda op, module, x: narrow(x, 1, x.sizes[1] - 1),
        ops.TakeTokens: _take_tokens,
        ops.Rows: lambda op, module, x: flatten(x, 0, 1),
        ops.Pictures: lambda op, module, x: unflatten(x, 0, (-1, op.tokens)),
        ops.Windows: adapters.windows,
        ops.MergeMLP: adapters.merge_mlp,
        ops.QFormer: adapters.qformer,
        ops.Resampler: adapters.resampler,
        ops.AttentionPool: adapters.attention_pool,
        ops.Queries: lambda op, module: module["weight"],
        ops.QueryBlocks: language.query_blocks,
        ops.Scale: lambda op, module: module["weight"],
        ops.UnitSum: losses.unit_sum,
        ops.Mean: lambda op, module, x: mean(x, 1, keep=False),
        ops.Pick: lambda op, module, x, index: pick(x, index),
        ops.Similarities: losses.similarities,
        ops.Contrast: losses.contrast,
        ops.HardNegatives: losses.hard_negatives,
        ops.SamNeck: adapters.sam_neck,
        ops.PixelShuffle: adapters.pixel_shuffle,
        ops.Linear: adapters.linear_layer,
        ops.MLP: adapters.mlp,
        ops.SplitMLP: adapters.split_mlp,
        ops.Embed: language.embed,
        ops.DecoderBlocks: language.decoder_blocks,
        ops.Norm: lambda op, module, x: module.norm("", x),
        ops.Head: lambda op, module, x: linear(x, module["weight"], None),
        ops.Concat: lambda op, module, *rows: cat(rows, 0),
        ops.Splice: _splice,
        ops.TakeRows: lambda op, module, x, index: pick(flatten(x, 0, 1), index),
        ops.TakeLast: _take_last,
        ops.CrossEntropy: losses.cross_entropy,
        ops.RegionWords: losses.region_words,
        ops.Add: losses.added,
    }
)
"""Every operation but those that the host feeds."""

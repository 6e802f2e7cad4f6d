"""What adapters compute, in shapes: as `blocks.adapter` has them.

Shapes are named as there: M pictures, N patches, S tokens of a picture, Q queries, W width.
"""

from __future__ import annotations

from .. import ops
from .kernels import (
    F32,
    add,
    cast,
    cat,
    convolution,
    linear,
    mean,
    multiply,
    resized,
)
from .module import Module, activated, attend, heads_of, mixed
from .tape import Value
from .towers import table_for
from .views import (
    expand,
    flatten,
    permute,
    transpose,
    unbind,
    unflatten,
)


def merge_mlp(op: ops.MergeMLP, module: Module, x: Value) -> Value:
    """Norm, neighbours side by side, two linear layers."""
    joined = flatten(unflatten(module.norm("norm.", x), -2, (-1, op.area)), -2)
    return module.feed_forward(joined, op.act)


def mlp(op: ops.MLP, module: Module, x: Value) -> Value:
    """Two linear layers, behind a norm if there is one."""
    if op.norm:
        x = module.norm("norm.", x)
    return module.feed_forward(x, op.act)


def split_mlp(op: ops.SplitMLP, module: Module, *sources: Value) -> Value:
    """A linear layer for each source, one for all."""
    ups = [module.linear(f"up.{index}", x) for index, x in enumerate(sources)]
    return module.linear("fc2", activated(cat(ups, -1), op.act))


def linear_layer(op: ops.Linear, module: Module, x: Value) -> Value:
    """One linear layer."""
    return linear(x, module["weight"], module.get("bias"))


def windows(op: ops.Windows, module: Module, x: Value) -> Value:
    """Patches reordered window by window."""
    return reordered(x, op.grid, op.window)


def reordered(x: Value, grid: tuple[int, int], window: tuple[int, int]) -> Value:
    """Raster patches, those of a window one after another."""
    (rows, columns), (down, across) = grid, window
    cut = unflatten(x, 1, (rows // down, down, columns // across, across))
    return flatten(transpose(cut, 2, 3), 1, 4)


def pixel_shuffle(op: ops.PixelShuffle, module: Module, x: Value) -> Value:
    """Squares of patches as one token each."""
    return flatten(
        unflatten(reordered(x, op.grid, (op.factor, op.factor)), 1, (-1, op.factor**2)), 2
    )


def qformer(op: ops.QFormer, module: Module, pictures: Value) -> Value:
    """Queries through blocks in which they look at pictures."""
    query = module.norm("norm.", module["query"])
    x = expand(query, (pictures.sizes[0], *query.sizes[1:]))

    def block(module: Module, index: int, x: Value) -> Value:
        return _qformer_block(module, op, x, pictures)

    return module.under("blocks").stacked(range(op.depth), block, x)


def _qformer_block(module: Module, op: ops.QFormer, x: Value, pictures: Value) -> Value:
    x = module.norm("norm1.", add(x, _attention(module.under("attn"), op.heads, x, x, x)))
    if module.get("cross.q.weight") is not None:
        looked = _attention(module.under("cross"), op.heads, x, pictures, pictures)
        x = module.norm("cross_norm.", add(x, looked))
    return module.norm("norm2.", add(x, module.under("mlp").feed_forward(x, op.act)))


def _attention(module: Module, heads: int, q: Value, k: Value, v: Value) -> Value:
    given = (("q", q), ("k", k), ("v", v))
    made = [heads_of(module.linear(name, x), heads) for name, x in given]
    return module.linear("o", mixed(attend(*made)))


def resampler(op: ops.Resampler, module: Module, x: Value) -> Value:
    """One cross-attention of queries with places, then a linear layer."""
    value = module.norm("norm_kv.", module.linear("kv", x))
    table = module["table"]
    key = add(value, table_for(table, op.queries, op.grid))
    query = add(module.norm("norm_q.", module["query"]), table)
    queries = expand(query, (x.sizes[0], *query.sizes[1:]))
    made = _attention(module.under("attn"), op.heads, queries, key, value)
    return module.linear("proj", module.norm("norm.", made))


def attention_pool(op: ops.AttentionPool, module: Module, x: Value) -> Value:
    """The mean of the tokens looks at the tokens."""
    asking = module.norm("norm_q.", mean(x, 1))
    attn = module.under("attn")
    given = (("q", asking), ("k", module.norm("norm_k.", x)), ("v", module.norm("norm_v.", x)))
    q, k, v = (
        heads_of(add(attn.linear(name, one), attn[f"{name}_bias"]), op.heads) for name, one in given
    )
    made = attn.linear("proj", mixed(attend(q, k, v)))
    return flatten(made, 0, 1)


def sam_neck(op: ops.SamNeck, module: Module, *maps: Value) -> Value:
    """Maps, each through a neck, then all through the same strided convolutions."""
    first, *others = [
        _coarser(
            op, module, _neck(module.under("necks").under(index), unflatten(x, 1, op.from_grid))
        )
        for index, x in enumerate(maps)
    ]
    if others:
        for factor, other in zip(unbind(module["gate"]), others, strict=True):
            first = add(first, multiply(other, factor))
    return transpose(flatten(first, 2), 1, 2)


def _neck(module: Module, x: Value) -> Value:
    made = permute(
        convolution(permute(x, (0, 3, 1, 2)), module["conv1.weight"], 1, 0), (0, 2, 3, 1)
    )
    normed = permute(module.norm("norm1.", made), (0, 3, 1, 2))
    made = permute(convolution(normed, module["conv2.weight"], 1, 1), (0, 2, 3, 1))
    return permute(module.norm("norm2.", made), (0, 3, 1, 2))


def _coarser(op: ops.SamNeck, module: Module, x: Value) -> Value:
    x = cast(resized(cast(x, F32), op.grid), x.item)
    for index in range(len(op.strided)):
        x = convolution(x, module[f"strided.{index}.weight"], 2, 1)
    return x

"""What the blocks of language models compute, in shapes: as `blocks.language` has them.

Shapes are named as there: B batch, T tokens, S keys, W width, H heads, D head width, Q queries,
L tokens of text, M pictures.
"""

from __future__ import annotations

from .. import ops
from .kernels import (
    F32,
    I64,
    add,
    cast,
    cat,
    embedded,
    gather,
    multiply,
    pick,
    scatter,
)
from .module import Module, attend, heads_of, mixed, rotated
from .segments import Lengths, Segments, segments_apart
from .tape import Value
from .views import (
    expand,
    narrow,
    reshape,
    unsqueeze,
)

BOOL = 1


def embed(op: ops.Embed, module: Module, ids: Value) -> Value:
    """A row of the table for each id."""
    return embedded(module["weight"], ids)


def decoder_blocks(
    op: ops.DecoderBlocks, module: Module, x: Value, *rest: Value, lengths: Lengths = ()
) -> Value:
    """Blocks over rows of segments, or over a cache."""
    cos, sin, *others = rest
    cache, scale = None, None
    mask: Value | Segments
    if op.cached:
        cache, *scaled = others[2:]
        scale = scaled[0] if scaled else None
        mask = seen(x, cache)
    else:
        mask = segments_apart(x, lengths)

    def block(module: Module, index: int, x: Value) -> Value:
        return decoder_block(module, op, x, cos, sin, mask, cache, scale)

    return module.stacked(range(op.depth), block, x)


def seen(x: Value, cache: Value | None, batch: int | None = None) -> Value:
    """[B, T, S]: which key each token sees, of two comparisons as large."""
    rows, length = x.sizes[:2]
    keys = length if cache is None else cache.sizes[-2]
    compared = x.tape.new((rows if batch is None else batch, length, keys), BOOL)
    return x.tape.new(compared.sizes, BOOL)


def decoder_block(
    module: Module,
    op: ops.DecoderBlocks | ops.QueryBlocks,
    x: Value,
    cos: Value,
    sin: Value,
    mask: Value | Segments | None,
    cache: Value | None = None,
    scale: Value | None = None,
) -> Value:
    """Attention and gated feed-forward, each behind its norm and beside a residual."""
    h = module.norm("norm1.", x)
    x = add(x, _attention(module.under("attn"), op, h, cos, sin, mask, cache, scale))
    return add(x, module.under("mlp").gated(module.norm("norm2.", x), op.act))


def _attention(
    module: Module,
    op: ops.DecoderBlocks | ops.QueryBlocks,
    x: Value,
    cos: Value,
    sin: Value,
    mask: Value | Segments | None,
    cache: Value | None,
    scale: Value | None,
) -> Value:
    shared = op.kv_heads if isinstance(op, ops.DecoderBlocks) else op.heads
    q, k, v = (
        heads_of(module.linear(name, x), heads)
        for name, heads in (("q", op.heads), ("k", shared), ("v", shared))
    )
    cos, sin = (cast(unsqueeze(table, 1), q.item) for table in (cos, sin))
    q, k = rotated(q, cos, sin), rotated(k, cos, sin)
    if scale is not None:
        q = multiply(q, cast(reshape(scale, (scale.sizes[0], 1, scale.sizes[1], 1)), q.item))
    if cache is not None:
        k = v = cached(cache)
    return module.linear("o", mixed(attend(q, k, v, mask)))


def cached(cache: Value) -> Value:
    """The keys, or the values, of a layer: [B, K, S, D] of [layers, 2, B, K, S, D]."""
    return Value(cache.sizes[2:], cache.strides[2:], cache.item, cache.buffer)


def query_blocks(op: ops.QueryBlocks, module: Module, *values: Value) -> Value:
    """Blocks in which queries look at pictures; what there is depends on the use."""
    match op.use:
        case "text":
            (x,) = values
            return _run(op, module, x, seen(x, None, 1))
        case "queries":
            query, pictures = values
            x = expand(query, (pictures.sizes[0], *query.sizes[1:]))
            return _run(op, module, x, None, pictures, queries=query.sizes[1])
        case "joint":
            query, pictures, text, which, _ = values
            x = _joined(query, text)
            mask = x.tape.new((x.sizes[0], 1, x.sizes[1]), BOOL)
            made = _run(op, module, x, mask, pictures, which, queries=query.sizes[1])
            return narrow(made, 1, query.sizes[1])
        case "caption":
            query, pictures, text, which = values
            x = _joined(query, text)
            made = _run(op, module, x, seen(x, None, 1), pictures, which, queries=query.sizes[1])
            return narrow(made, 1, text.sizes[1])
        case "begin":
            query, pictures, x, cos, sin, _, _, cache = values
            return _begin(op, module, query, pictures, x, cos, sin, cache)
        case "go_on":
            x, cos, sin, _, _, cache = values
            mask = seen(x, cache)

            def block(module: Module, index: int, x: Value) -> Value:
                return decoder_block(module, op, x, cos, sin, mask, cache)

            return module.stacked(range(op.depth), block, x)


def _joined(query: Value, text: Value) -> Value:
    return cat((expand(query, (text.sizes[0], *query.sizes[1:])), text), 1)


def _begin(
    op: ops.QueryBlocks,
    module: Module,
    query: Value,
    pictures: Value,
    x: Value,
    cos: Value,
    sin: Value,
    cache: Value,
) -> Value:
    batch, _, width = x.sizes
    queries = query.sizes[1]
    tape = x.tape
    looked = pick(pictures, tape.new((batch,), I64))
    place = tape.new((batch, queries), I64)
    places = expand(reshape(place, (batch, queries, 1)), (batch, queries, width))
    x = scatter(x, places, expand(query, (batch, queries, width)))
    mask = seen(x, cache)

    def block(module: Module, index: int, x: Value) -> Value:
        return _query_block(module, op, x, cos, sin, mask, cache, looked, None, place)

    return module.stacked(range(op.depth), block, x)


def _run(
    op: ops.QueryBlocks,
    module: Module,
    x: Value,
    mask: Value | None,
    pictures: Value | None = None,
    which: Value | None = None,
    *,
    queries: int = 0,
) -> Value:
    batch, length, _ = x.sizes
    tape = x.tape
    cos, sin = tape.new((1, length, op.head_dim), F32), tape.new((1, length, op.head_dim), F32)
    place = expand(reshape(tape.new((queries,), I64), (1, queries)), (batch, queries))

    def block(module: Module, index: int, x: Value) -> Value:
        return _query_block(module, op, x, cos, sin, mask, None, pictures, which, place)

    return module.stacked(range(op.depth), block, x)


def _query_block(
    module: Module,
    op: ops.QueryBlocks,
    x: Value,
    cos: Value,
    sin: Value,
    mask: Value | None,
    cache: Value | None,
    pictures: Value | None,
    which: Value | None,
    place: Value,
) -> Value:
    h = module.norm("norm1.", x)
    x = add(x, _attention(module.under("attn"), op, h, cos, sin, mask, cache, None))
    if pictures is not None and module.get("cross.q.weight") is not None:
        places = expand(reshape(place, (*place.sizes, 1)), (*place.sizes, x.sizes[2]))
        looking = gather(x, places)
        looking = add(looking, _look(module.under("cross"), op, looking, pictures, which))
        x = scatter(x, places, looking)
    return add(x, module.under("mlp").gated(module.norm("norm2.", x), op.act))


def _look(
    module: Module, op: ops.QueryBlocks, x: Value, pictures: Value, which: Value | None
) -> Value:
    pictures = module.norm("norm_kv.", pictures)
    q, k, v = (
        heads_of(module.linear(name, given), op.heads)
        for name, given in (("q", module.norm("norm_q.", x)), ("k", pictures), ("v", pictures))
    )
    if which is not None:
        k, v = pick(k, which), pick(v, which)
    return module.linear("o", mixed(attend(q, k, v)))

"""What the blocks of vision towers compute, in shapes: as `blocks.vision` has them.

Shapes are named as there: N packed patches, M pictures, T tokens, W width, H heads, D head width.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import groupby
from math import prod

from .. import ops
from .kernels import (
    F32,
    add,
    along,
    attention,
    cast,
    cat,
    each,
    linear,
    matmul,
    multiply,
    padded,
    pick,
    resized,
    stack,
)
from .module import Module, mixed, plain_attention, rotated
from .segments import Lengths
from .tape import Value
from .views import (
    expand,
    flatten,
    narrow,
    permute,
    reshape,
    select,
    split,
    transpose,
    unbind,
    unflatten,
)


def patch_embed(op: ops.PatchEmbed, module: Module, rows: Value) -> Value:
    """One product over rows of patches; a kernel over several frames is summed for folded ones."""
    kernel = module["weight"]
    if op.folded:
        kernel = along(kernel, 2, keep=True)
    return linear(cast(rows, kernel.item), flatten(kernel, 1), module.get("bias"))


def positions(op: ops.Positions, module: Module, x: Value) -> Value:
    """The class token before the patches, and a row of a table for each."""
    table = table_for(module["table"], op.table, op.grid)
    token = module.get("class_token")
    if token is None:
        return add(x, table)
    tokens = expand(token, (x.sizes[0], 1, op.width))
    return add(cat((tokens, x), 1), table)


def table_for(table: Value, sizes: tuple[int, int], grid: tuple[int, int]) -> Value:
    """A table of places, resized to another grid in float32 where that is not its own."""
    if sizes == grid:
        return table
    before = table.sizes[1] - prod(sizes)
    if before:
        patches = table_for(narrow(table, 1, prod(sizes)), sizes, grid)
        return cat((narrow(table, 1, before), patches), 1)
    wide = cast(unflatten(transpose(table, 1, 2), 2, sizes), F32)
    return cast(transpose(flatten(resized(wide, grid), 2), 1, 2), table.item)


def map_positions(op: ops.MapPositions, module: Module, x: Value) -> Value:
    """A learned vector for each cell."""
    return add(x, flatten(module["table"], 1, 2))


def vision_blocks(
    op: ops.VisionBlocks, module: Module, x: Value, *rest: Value, lengths: Lengths = ()
) -> Value:
    """Blocks over packed patches or over pictures."""
    kept = None
    if op.drop_path:
        rest, kept = rest[:-1], rest[-1]

    def block(module: Module, index: int, x: Value, *rest: Value) -> Value:
        counts = (None, None) if kept is None else tuple(unbind(select(kept)))
        branch = _attention(op, module.under("attn"), module.norm("norm1.", x), rest, lengths)
        x = _residual(x, branch, module.get("ls1"), counts[0])
        del branch
        branch = module.under("mlp").feed_forward(module.norm("norm2.", x), op.act)
        return _residual(x, branch, module.get("ls2"), counts[1])

    return run_blocks(op, module, block, x, *rest)


def run_blocks(
    op: ops.VisionBlocks | ops.SamBlocks,
    module: Module,
    block: Callable[..., Value],
    x: Value,
    *rest: Value,
) -> Value:
    """One block after another; with taps, what each of those yields, stacked."""

    def one(module: Module, index: int, x: Value) -> Value:
        return block(module, index, x, *rest)

    first, behind = op.span or (0, op.depth)
    if not op.taps:
        return module.stacked(range(first, behind), one, x)
    tapped = []
    for tap in sorted(op.taps):
        x = module.stacked(range(first, tap + 1), one, x)
        tapped.append(x)
        first = tap + 1
    return stack([tapped[sorted(op.taps).index(tap)] for tap in op.taps])


def _residual(x: Value, branch: Value, scale: Value | None, kept: Value | None) -> Value:
    if scale is not None:
        branch = multiply(branch, scale)
    if kept is not None:
        shape = (kept.sizes[0], *[1] * (len(branch.sizes) - 1))
        branch = multiply(branch, reshape(cast(kept, branch.item), shape))
    return add(x, branch)


def _attention(
    op: ops.VisionBlocks, module: Module, x: Value, rest: Sequence[Value], lengths: Lengths
) -> Value:
    q, k, v = (unflatten(part, -1, (op.heads, -1)) for part in _qkv(op, module, x))
    if not op.packed:
        q, k, v = (transpose(part, 1, 2) for part in (q, k, v))
        made = transpose(attention(q, k, v), 1, 2)
        return module.linear("proj", flatten(made, -2))
    if op.rotary:
        cos, sin = (reshape(table, (table.sizes[0], 1, table.sizes[1])) for table in rest[1:3])
        q, k = (cast(rotated(cast(part, F32), cos, sin), v.item) for part in (q, k))
    return module.linear("proj", flatten(_by_segments(q, k, v, lengths), 1))


def _qkv(op: ops.VisionBlocks, module: Module, x: Value) -> tuple[Value, Value, Value]:
    q, k, v = split(module.linear("qkv", x), -1, [op.width] * 3)
    q_bias, v_bias = module.get("q_bias"), module.get("v_bias")
    if q_bias is not None and v_bias is not None:
        q, v = add(q, q_bias), add(v, v_bias)
    if op.qk_norm:
        q, k = module.norm("q_norm.", q), module.norm("k_norm.", k)
    return q, k, v


def _by_segments(q: Value, k: Value, v: Value, lengths: Lengths) -> Value:
    """Attention inside each segment: neighbours of one length are one batch."""
    pieces = []
    for length, group in groupby(lengths):
        count = sum(1 for _ in group)
        parts = [
            transpose(unflatten(narrow(x, 0, count * length), 0, (-1, length)), 1, 2)
            for x in (q, k, v)
        ]
        pieces.append(flatten(transpose(attention(*parts), 1, 2), 0, 1))
        del parts
    return cat(pieces, 0)


def sam_blocks(op: ops.SamBlocks, module: Module, x: Value) -> Value:
    """Blocks over maps of patches, most of them inside windows."""

    def block(module: Module, index: int, x: Value) -> Value:
        normed = unflatten(module.norm("norm1.", x), 1, op.grid)
        window = None if index in op.attend_all else op.window
        x = add(x, flatten(_in_windows(op, module.under("attn"), normed, window), 1, 2))
        return add(x, module.under("mlp").feed_forward(module.norm("norm2.", x), op.act))

    return run_blocks(op, module, block, x)


def _in_windows(op: ops.SamBlocks, module: Module, x: Value, window: int | None) -> Value:
    if window is None:
        return _map_attention(op, module, x)
    maps, rows, columns, width = x.sizes
    tall, wide = (side + -side % window for side in (rows, columns))
    if (tall, wide) != (rows, columns):
        x = padded(x, (maps, tall, wide, width))
    cut = unflatten(unflatten(x, 2, (-1, window)), 1, (-1, window))
    grid = (maps, cut.sizes[1], cut.sizes[3])
    windows = flatten(transpose(cut, 2, 3), 0, 2)
    made = transpose(unflatten(_map_attention(op, module, windows), 0, grid), 2, 3)
    whole = flatten(flatten(made, 3, 4), 1, 2)
    return narrow(narrow(whole, 1, rows), 2, columns)


def _map_attention(op: ops.SamBlocks, module: Module, x: Value) -> Value:
    rows, columns = x.sizes[1:3]
    qkv = unflatten(flatten(module.linear("qkv", x), 1, 2), -1, (3, op.heads, -1))
    q, k, v = unbind(permute(qkv, (2, 0, 3, 1, 4)))
    by_row = _by_distance(module["rel_pos_h"], rows)
    by_column = _by_distance(module["rel_pos_w"], columns)
    made = _told_apart(q, k, v, by_row, by_column)
    return module.linear("proj", unflatten(mixed(made), 1, (rows, columns)))


def _by_distance(table: Value, length: int) -> Value:
    return pick(table, table.tape.new((length, length), 8))


def _told_apart(q: Value, k: Value, v: Value, by_row: Value, by_column: Value) -> Value:
    """Attention with a term for the row and one for the column of each key: wider queries.

    Queries wider than values go through plain products on a CPU.
    """
    tokens = q.sizes[2]
    rows, columns = by_row.sizes[0], by_column.sizes[0]
    grid = unflatten(q, 2, (rows, columns))
    # [M, H, I, J, D] by [I, K, D], a product for each row; the same for each column.
    along = _by_place(grid, by_row, 2)
    across = _by_place(grid, by_column, 3)
    here = q.tape.new((tokens, rows + columns), 1)
    wide_q = cat((each(q), flatten(along, 2, 3), flatten(across, 2, 3)), -1)
    wide_k = cat((k, _repeated(here, k)), -1)
    return plain_attention(wide_q, wide_k, v)


def _repeated(here: Value, k: Value) -> Value:
    """Which row and column each key is in, for all maps and heads."""
    told = reshape(cast(here, k.item), (1, 1, *here.sizes))
    return expand(told, (*k.sizes[:2], *here.sizes))


def _by_place(grid: Value, table: Value, dim: int) -> Value:
    """Each query by the vectors of its own row or column, as einsum does it."""
    maps, heads, *_, width = grid.sizes
    side, other = grid.sizes[dim], grid.sizes[5 - dim]
    first = permute(grid, (dim, 0, 1, 5 - dim, 4))
    flat = reshape(first, (side, maps * heads * other, width))
    made = matmul(flat, transpose(table, 1, 2))
    apart = reshape(made, (side, maps, heads, other, side))
    return permute(apart, (1, 2, 0, 3, 4) if dim == 2 else (1, 2, 3, 0, 4))

"""What torch computes with: what each kernel counts, makes, keeps and needs on the way back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from math import prod
from typing import Literal

from .tape import Node, Sizes, Source, Value, contiguous
from .views import expand, flatten, narrow, ordered, reshape, transpose, unbind

F32 = 4
I64 = 8
ITEMS: Mapping[str, int] = {"f32": F32, "bf16": 2, "f16": 2}
"""Bytes of a number, by the names that recipes use."""


def matmul(one: Value, other: Value) -> Value:
    """[..., N, K] by [..., K, M]; a matrix `other` serves all of `one`."""
    if len(other.sizes) == 2 and len(one.sizes) > 2:
        rows = flatten(one, 0, -2)
        return reshape(matmul(rows, other), (*one.sizes[:-1], other.sizes[-1]))
    if len(one.sizes) > 3:
        before = tuple(max(a, b) for a, b in zip(one.sizes[:-2], other.sizes[:-2], strict=True))
        left, right = (
            reshape(expand(x, (*before, *x.sizes[-2:])), (prod(before), *x.sizes[-2:]))
            for x in (one, other)
        )
        made = _product(left, right)
        return reshape(made, (*before, *made.sizes[-2:]))
    return _product(one, other)


def _product(one: Value, other: Value) -> Value:
    tape = one.tape
    wants = one.wants, other.wants

    def backward(saved: list[Value | None], grad: Value) -> list[Value | None]:
        left, right = saved
        into_left = _product(grad, transpose(right, -2, -1)) if wants[0] and right else None
        into_right = _product(transpose(left, -2, -1), grad) if wants[1] and left else None
        return [into_left, into_right]

    node = tape.record(
        [one, other], [one if wants[1] else None, other if wants[0] else None], backward
    )
    tape.work(2 * one.count * other.sizes[-1])
    made = tape.new((*one.sizes[:-1], other.sizes[-1]), one.item)
    return _from(made, node)


def linear(x: Value, weight: Value, bias: Value | None) -> Value:
    """x W^T + b over the innermost size; a matrix in few bits is first brought to what `x` is."""
    if weight.item == 1 and weight.sizes[1] == x.sizes[-1]:
        made = each(linear(x, cast(weight, x.item), None))
        return made if bias is None else add(made, bias)
    if weight.item == 1:
        return linear(x, cast(cat([each(weight), each(weight)], -1), x.item), bias)
    if bias is None or not (len(x.sizes) == 2 or x.is_contiguous):
        made = matmul(x, transpose(weight, 0, 1))
        # Behind a product of its own the bias is added in place.
        return made if bias is None else _biased(made, bias)
    rows = flatten(x, 0, -2) if len(x.sizes) > 2 else x
    return reshape(_affine(rows, weight, bias), (*x.sizes[:-1], weight.sizes[0]))


def _affine(x: Value, weight: Value, bias: Value) -> Value:
    tape = x.tape
    wants = x.wants, weight.wants, bias.wants

    def backward(saved: list[Value | None], grad: Value) -> list[Value | None]:
        given, matrix = saved
        into_x = _product(grad, matrix) if wants[0] and matrix else None
        into_weight = _product(transpose(grad, 0, 1), given) if wants[1] and given else None
        return [into_x, into_weight, grad if wants[2] else None]

    node = tape.record(
        [x, weight, bias], [x if wants[1] else None, weight if wants[0] else None], backward
    )
    tape.work(2 * x.count * weight.sizes[0])
    return _from(tape.new((x.sizes[0], weight.sizes[0]), x.item), node)


def _biased(x: Value, bias: Value) -> Value:
    node = x.tape.record([x, bias], [], lambda saved, grad: [grad, grad])
    return Value(x.sizes, x.strides, x.item, x.buffer, Source(node) if node else None)


def add(one: Value, other: Value) -> Value:
    """The sum; sizes of 1 are repeated."""
    node = one.tape.record([one, other], [], lambda saved, grad: [grad, grad])
    return _from(_like(one, other), node)


def multiply(one: Value, other: Value) -> Value:
    """The product, number by number."""
    wants = one.wants, other.wants

    def backward(saved: list[Value | None], grad: Value) -> list[Value | None]:
        left, right = saved
        into_left = _like(grad, right) if wants[0] and right else None
        into_right = _like(grad, left) if wants[1] and left else None
        return [into_left, into_right]

    node = one.tape.record(
        [one, other], [one if wants[1] else None, other if wants[0] else None], backward
    )
    return _from(_like(one, other), node)


def each(x: Value, keeps: Literal["input", "output", ""] = "") -> Value:
    """A function of each number, which keeps its input or its output; `` for a constant factor."""
    node = x.tape.record([x], [x] if keeps == "input" else [], lambda saved, grad: [_like(grad)])
    made = _like(x)
    if node and keeps == "output":
        node.keep(made)
    return _from(made, node)


def squared(x: Value) -> Value:
    """x ** 2, whose way back makes two more tensors as large."""

    def backward(saved: list[Value | None], grad: Value) -> list[Value | None]:
        power = _like(grad)
        doubled = _like(power)
        return [_like(doubled)]

    return _from(_like(x), x.tape.record([x], [x], backward))


def mean(x: Value, dim: int = -1, *, keep: bool = True) -> Value:
    """The mean along a size."""
    dim %= len(x.sizes)
    whole, item, tape = x.sizes, x.item, x.tape
    node = tape.record([x], [], lambda saved, grad: [tape.new(whole, item)])
    sizes = (*x.sizes[:dim], *([1] if keep else []), *x.sizes[dim + 1 :])
    return _from(tape.new(sizes, item), node)


def total(x: Value) -> Value:
    """The sum of all numbers."""
    whole, tape = x.sizes, x.tape
    node = tape.record(
        [x], [], lambda saved, grad: [expand(reshape(grad, (1,) * len(whole)), whole)]
    )
    return _from(tape.new((), x.item), node)


def along(x: Value, dim: int, *, keep: bool = False) -> Value:
    """The sum along a size, whose gradient is repeated."""
    tape, whole = x.tape, x.sizes
    kept = (*whole[:dim], 1, *whole[dim + 1 :])
    node = tape.record([x], [], lambda saved, grad: [expand(reshape(grad, kept), whole)])
    return _from(tape.new(kept if keep else (*whole[:dim], *whole[dim + 1 :]), x.item), node)


def lengths(x: Value) -> Value:
    """The length of each vector, [..., 1], whose way back needs the vectors and the lengths."""
    tape, whole, item = x.tape, x.sizes, x.item
    node = tape.record([x], [x], lambda saved, grad: [tape.new(whole, item)])
    made = tape.new((*x.sizes[:-1], 1), item)
    if node:
        node.keep(made)
    return _from(made, node)


def cast(x: Value, item: int) -> Value:
    """In numbers of so many bytes; the same where they are that already."""
    if x.item == item:
        return x
    before = x.item
    node = x.tape.record([x], [], lambda saved, grad: [_like(grad, item=before)])
    return _from(_like(x, item=item), node)


def cat(parts: Sequence[Value], dim: int) -> Value:
    """One after another along a size."""
    dim %= len(parts[0].sizes)
    lengths = [part.sizes[dim] for part in parts]
    first = parts[0]
    node = first.tape.record(
        list(parts), [], lambda saved, grad: [narrow(grad, dim, length) for length in lengths]
    )
    sizes = (*first.sizes[:dim], sum(lengths), *first.sizes[dim + 1 :])
    return _from(first.tape.new(sizes, first.item), node)


def stack(parts: Sequence[Value]) -> Value:
    """Side by side, along a new outermost size."""
    first, count = parts[0], len(parts)
    node = first.tape.record(list(parts), [], lambda saved, grad: unbind(grad))
    return _from(first.tape.new((count, *first.sizes), first.item), node)


def layer_norm(x: Value, weight: Value, bias: Value) -> Value:
    """Layer normalisation as one kernel, which keeps its input and two numbers a row."""
    tape = x.tape
    wants = x.wants, weight.wants, bias.wants

    def backward(saved: list[Value | None], grad: Value) -> list[Value | None]:
        given = saved[0]
        assert given
        held = ordered(given), ordered(grad)
        into_x = tape.new(given.sizes, given.item) if wants[0] else None
        scale = tape.new(given.sizes[-1:], given.item) if wants[1] else None
        shift = tape.new(given.sizes[-1:], given.item) if wants[2] else None
        del held
        return [into_x, scale, shift]

    node = tape.record([x, weight, bias], [x, weight], backward)
    held = ordered(x.alone())
    made = tape.new(x.sizes, x.item)
    rows = (*x.sizes[:-1], 1)
    statistics = tape.new(rows, x.item), tape.new(rows, x.item)
    del held
    for one in statistics if node else ():
        assert node
        node.keep(one)
    return _from(made, node)


def softmax(x: Value) -> Value:
    """Shares along the innermost size; also their logarithms."""
    node = x.tape.record([x], [], lambda saved, grad: [_like(grad)])
    made = x.tape.new(x.sizes, x.item)
    if node:
        node.keep(made)
    return _from(made, node)


def safe_softmax(x: Value) -> Value:
    """`softmax` that looks for rows without a key behind it: a mask as large."""
    shares = softmax(x)
    x.tape.new(x.sizes, 1)
    return shares


def pick(x: Value, index: Value) -> Value:
    """The members of the outermost size that an index names."""
    whole, item, tape = x.sizes, x.item, x.tape
    node = tape.record([x], [index], lambda saved, grad: [tape.new(whole, item)])
    return _from(tape.new((*index.sizes, *x.sizes[1:]), x.item), node)


def embedded(table: Value, ids: Value) -> Value:
    """A row of a table for each id; the gradient is as large as the table."""
    tape, whole, item = table.tape, table.sizes, table.item
    node = tape.record([table], [ids], lambda saved, grad: [tape.new(whole, item)])
    return _from(tape.new((*ids.sizes, whole[-1]), item), node)


def gather(x: Value, index: Value) -> Value:
    """Along the second size, what an index of the same number of sizes names."""
    whole, item, tape = x.sizes, x.item, x.tape
    node = tape.record([x], [index], lambda saved, grad: [tape.new(whole, item)])
    return _from(tape.new(index.sizes, x.item), node)


def scatter(x: Value, index: Value, source: Value) -> Value:
    """`x` with what `source` has in the places that an index names along the second size."""
    tape, wants, item = x.tape, (x.wants, source.wants), x.item

    def backward(saved: list[Value | None], grad: Value) -> list[Value | None]:
        index = saved[0]
        assert index
        into_x = _like(grad) if wants[0] else None
        return [into_x, tape.new(index.sizes, item) if wants[1] else None]

    node = tape.record([x, source], [index], backward)
    return _from(_like(x), node)


def where(condition: Value, one: Value, other: Value) -> Value:
    """One of two, number by number."""
    tape, wants = one.tape, (one.wants, other.wants)

    def backward(saved: list[Value | None], grad: Value) -> list[Value | None]:
        return [_like(grad) if wanted else None for wanted in wants]

    return _from(_like(one), tape.record([one, other], [condition], backward))


def attention(q: Value, k: Value, v: Value, mask: Value | None = None) -> Value:
    """[B, H, T, D] in one kernel that never holds the scores; they are computed again on the way.

    A mask is held as numbers, each time that it is used.
    """
    tape, item = q.tape, q.item
    batch, heads, rows, width = q.sizes
    added = None if mask is None else tape.new(mask.sizes, item)
    scores = batch * heads * rows * k.sizes[2]
    shapes = q.sizes, k.sizes, v.sizes

    def backward(saved: list[Value | None], grad: Value) -> list[Value | None]:
        tape.work(10 * scores * width)
        return [tape.new(sizes, item, _heads_inside(sizes)) for sizes in shapes]

    node = tape.record([q, k, v], [q, k, v, *([] if added is None else [added])], backward)
    tape.work(4 * scores * width)
    made = tape.new(q.sizes, item, _heads_inside(q.sizes))
    normaliser = tape.new((batch, heads, rows), F32)
    if node:
        node.keep(made)
        node.keep(normaliser)
    return _from(made, node)


def _heads_inside(sizes: Sizes) -> Sizes:
    """The strides of [B, H, T, D] whose memory is [B, T, H, D]."""
    batch, heads, rows, width = sizes
    step = contiguous((batch, rows, heads, width))
    return (step[0], step[2], step[1], step[3])


def convolution(x: Value, weight: Value, stride: int, padding: int) -> Value:
    """A square convolution over [B, C, R, S]."""
    tape, item = x.tape, x.item
    out, _, side, _ = weight.sizes
    sizes = (x.sizes[0], out, *((n + 2 * padding - side) // stride + 1 for n in x.sizes[2:]))
    flops = 2 * prod(sizes) * weight.count // out
    wants = x.wants, weight.wants

    def backward(saved: list[Value | None], grad: Value) -> list[Value | None]:
        given, kernel = saved
        assert given and kernel
        tape.work(flops * sum(wants))
        into_x = tape.new(given.sizes, item, _channels_last(given.sizes)) if wants[0] else None
        return [into_x, tape.new(kernel.sizes, item) if wants[1] else None]

    node = tape.record([x, weight], [x, weight], backward)
    tape.work(flops)
    return _from(tape.new(sizes, item, _channels_last(sizes)), node)


def resized(x: Value, grid: tuple[int, int]) -> Value:
    """[B, C, R, S] interpolated to another grid."""
    tape, whole, item = x.tape, x.sizes, x.item
    node = tape.record([x], [], lambda saved, grad: [tape.new(whole, item, _channels_last(whole))])
    sizes = (*x.sizes[:2], *grid)
    strides = contiguous(sizes) if x.is_contiguous else _channels_last(sizes)
    return _from(tape.new(sizes, item, strides), node)


def padded(x: Value, sizes: Sizes) -> Value:
    """Filled up to larger sizes."""
    whole, tape, item = x.sizes, x.tape, x.item
    node = tape.record([x], [], lambda saved, grad: [tape.new(whole, item)])
    return _from(tape.new(sizes, x.item), node)


def negative_log(scores: Value, targets: Value) -> Value:
    """The negative log-likelihood of one entry a row of log-shares."""
    whole, tape, item = scores.sizes, scores.tape, scores.item
    node = tape.record([scores], [scores, targets], lambda saved, grad: [tape.new(whole, item)])
    return _from(tape.new(scores.sizes[:1], item), node)


def _channels_last(sizes: Sizes) -> Sizes:
    """The strides of [B, C, R, S] whose memory is [B, R, S, C]."""
    batch, channels, rows, columns = sizes
    step = contiguous((batch, rows, columns, channels))
    return (step[0], step[3], step[1], step[2])


def _from(made: Value, node: Node | None) -> Value:
    """The value as the output of a node, if there is one."""
    made.source = Source(node) if node else None
    return made


def _like(*values: Value | None, item: int | None = None) -> Value:
    """A tensor for what is computed number by number of others: the widest numbers, the order in
    memory of the first that has all sizes.
    """
    given = [x for x in values if x is not None]
    first = given[0]
    if len(given) == 1:
        sizes, strides = _laid_out(((first.sizes, first.strides),))
        return first.tape.new(sizes, item or first.item, strides)
    sizes, strides = _laid_out(tuple((x.sizes, x.strides) for x in given))
    return first.tape.new(sizes, item or max(x.item for x in given), strides)


@cache
def _laid_out(given: tuple[tuple[Sizes, Sizes], ...]) -> tuple[Sizes, Sizes]:
    """Sizes and strides of what tensors of these sizes and strides are brought together to."""
    rank = max(len(sizes) for sizes, _ in given)
    shapes = [(1,) * (rank - len(sizes)) + sizes for sizes, _ in given]
    sizes = tuple(max(column) for column in zip(*shapes, strict=True))
    whole = next((strides for shape, strides in given if shape == sizes), None)
    if whole is None:
        return sizes, contiguous(sizes)
    order = sorted(range(rank), key=lambda dim: (-whole[dim], dim))
    inside = contiguous(tuple(sizes[dim] for dim in order))
    strides = [0] * rank
    for dim, stride in zip(order, inside, strict=True):
        strides[dim] = stride
    return sizes, tuple(strides)

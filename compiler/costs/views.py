"""Other sizes for the same memory: what torch views, and copies only where it must."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from math import prod

from .tape import Sizes, Source, Value, contiguous


def view(x: Value, sizes: Sizes, strides: Sizes, back: Sequence[object]) -> Value:
    """The memory of `x` in another shape; `back` is the function and arguments for its gradient."""
    undo, *rest = back
    assert callable(undo)
    node = x.tape.record([x], [], lambda saved, grad: [undo(grad, *rest)])
    return Value(sizes, strides, x.item, x.buffer, Source(node) if node else None, True)


def reshape(x: Value, sizes: Sequence[int]) -> Value:
    """As many numbers in another shape; a copy where their order in memory does not allow it."""
    wanted = tuple(sizes)
    if wanted == x.sizes:
        return x
    strides = _restrided(x.sizes, x.strides, wanted)
    if strides is None:
        x = copied(x)
        strides = contiguous(wanted)
    return view(x, wanted, strides, (reshape, x.sizes))


def flatten(x: Value, first: int, last: int = -1) -> Value:
    """Neighbouring sizes as one."""
    last %= len(x.sizes)
    first %= len(x.sizes)
    middle = prod(x.sizes[first : last + 1])
    return reshape(x, (*x.sizes[:first], middle, *x.sizes[last + 1 :]))


def unflatten(x: Value, dim: int, sizes: Sequence[int]) -> Value:
    """One size as several; one of them may be -1."""
    dim %= len(x.sizes)
    known = prod(size for size in sizes if size != -1)
    filled = [x.sizes[dim] // known if size == -1 else size for size in sizes]
    return reshape(x, (*x.sizes[:dim], *filled, *x.sizes[dim + 1 :]))


def permute(x: Value, order: Sequence[int]) -> Value:
    """The sizes in another order."""
    order = [dim % len(x.sizes) for dim in order]
    undo = sorted(range(len(order)), key=order.__getitem__)
    sizes, strides = (tuple(which[dim] for dim in order) for which in (x.sizes, x.strides))
    return view(x, sizes, strides, (permute, undo))


def transpose(x: Value, one: int, other: int) -> Value:
    """Two sizes exchanged."""
    order = list(range(len(x.sizes)))
    order[one], order[other] = order[other], order[one]
    return permute(x, order)


def expand(x: Value, sizes: Sequence[int]) -> Value:
    """Repeated along sizes of 1, without memory; gradients are summed."""
    wanted = tuple(sizes)
    strides = tuple(
        0 if have != want else stride
        for have, want, stride in zip(x.sizes, wanted, x.strides, strict=True)
    )
    return view(x, wanted, strides, (lambda grad: grad,))


def unsqueeze(x: Value, dim: int) -> Value:
    """With a size of 1 put in."""
    return reshape(x, (*x.sizes[:dim], 1, *x.sizes[dim:]))


def narrow(x: Value, dim: int, length: int) -> Value:
    """Some neighbours along a size; the gradient is zero elsewhere, and as large as the whole."""
    dim %= len(x.sizes)
    sizes = (*x.sizes[:dim], length, *x.sizes[dim + 1 :])
    whole, item, tape = x.sizes, x.item, x.tape
    return view(x, sizes, x.strides, (lambda grad: tape.new(whole, item),))


def select(x: Value) -> Value:
    """One of the outermost."""
    whole, item, tape = x.sizes, x.item, x.tape
    return view(x, x.sizes[1:], x.strides[1:], (lambda grad: tape.new(whole, item),))


def split(x: Value, dim: int, lengths: Sequence[int]) -> list[Value]:
    """Cut along a size; the gradients of the pieces are put together again."""
    dim %= len(x.sizes)
    whole, item, tape = x.sizes, x.item, x.tape
    node = tape.record([x], [], lambda saved, *grads: [tape.new(whole, item)], len(lengths))
    return [
        Value(
            (*x.sizes[:dim], length, *x.sizes[dim + 1 :]),
            x.strides,
            x.item,
            x.buffer,
            Source(node, index) if node else None,
            True,
        )
        for index, length in enumerate(lengths)
    ]


def unbind(x: Value) -> list[Value]:
    """The members along the outermost size; their gradients are stacked."""
    whole, item, tape = x.sizes, x.item, x.tape
    node = tape.record([x], [], lambda saved, *grads: [tape.new(whole, item)], x.sizes[0])
    return [
        Value(x.sizes[1:], x.strides[1:], x.item, x.buffer, Source(node, i) if node else None, True)
        for i in range(x.sizes[0])
    ]


def copied(x: Value) -> Value:
    """The numbers in their order."""
    node = x.tape.record([x], [], lambda saved, grad: [grad])
    made = x.tape.new(x.sizes, x.item)
    made.source = Source(node) if node else None
    return made


def ordered(x: Value) -> Value:
    """The same where the numbers lie in their order, else a copy."""
    return x if x.is_contiguous else copied(x)


@cache
def _restrided(sizes: Sizes, strides: Sizes, wanted: Sizes) -> Sizes | None:
    """The strides that show the same memory in other sizes; None where there are none."""
    if prod(sizes) == 0:
        return contiguous(wanted)
    found = list[int]()
    left = list(wanted)
    base = strides[-1] if strides else 1
    chunk = have = 1
    for dim in range(len(sizes) - 1, -1, -1):
        chunk *= sizes[dim]
        broken = dim == 0 or (sizes[dim - 1] != 1 and strides[dim - 1] != chunk * base)
        if not broken:
            continue
        while left and (have < chunk or left[-1] == 1):
            found.append(have * base)
            have *= left.pop()
        if have != chunk:
            return None
        if dim > 0:
            base, chunk, have = strides[dim - 1], 1, 1
    while left:
        found.append(have * base)
        have *= left.pop()
    return tuple(reversed(found)) if len(found) == len(wanted) else None

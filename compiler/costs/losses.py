"""What losses and their like compute, in shapes: as `blocks.loss` and `blocks.contrast` have them.

Shapes are named as there: B pairs, K scored places, V vocabulary, R regions, C labels, W width.
"""

from __future__ import annotations

from .. import ops
from .kernels import (
    F32,
    I64,
    along,
    cast,
    each,
    lengths,
    matmul,
    mean,
    multiply,
    negative_log,
    softmax,
    stack,
    total,
)
from .module import Module
from .tape import Value
from .views import (
    expand,
    reshape,
    transpose,
)


def cross_entropy(op: ops.CrossEntropy, module: Module, *values: Value) -> Value:
    """The weighted sum of the cross entropies of rows of scores."""
    return _weighted(*values)


def _weighted(scores: Value, targets: Value, weight: Value) -> Value:
    loss = negative_log(softmax(cast(scores, F32)), targets)
    return total(multiply(loss, weight))


def unit(x: Value) -> Value:
    """Vectors brought to length 1: x / max(|x|, eps)."""
    length = each(lengths(x), "input")
    whole = expand(length, x.sizes)
    return multiply(x, whole)


def region_words(
    op: ops.RegionWords,
    module: Module,
    features: Value,
    pool: Value,
    words: Value,
    mask: Value,
    target: Value,
    weight: Value,
) -> Value:
    """Mean features of regions against mean embeddings of labels."""
    shown = reshape(cast(mask, F32), (*mask.sizes, 1))
    summed = along(multiply(cast(words, F32), shown), 1)
    label = multiply(summed, each(along(shown, 1), "input"))
    region = matmul(cast(pool, F32), cast(features, F32))
    ones, others = unit(region), unit(label)
    return _weighted(each(matmul(ones, transpose(others, -2, -1))), target, weight)


def similarities(
    op: ops.Similarities, module: Module, one: Value, other: Value, scale: Value | None = None
) -> Value:
    """Cosines of all pairs, times a factor where there is one."""
    return cosines(one, other, scale)


def cosines(one: Value, other: Value, scale: Value | None) -> Value:
    """[B, N] in float32."""
    left, right = (unit(cast(x, F32)) for x in (one, other))
    made = matmul(left, transpose(right, -2, -1))
    return made if scale is None else multiply(each(cast(scale, F32), "output"), made)


def unit_sum(op: ops.UnitSum, module: Module, *vectors: Value) -> Value:
    """The sum of vectors of length 1."""
    return along(stack([unit(x) for x in vectors]), 0)


def contrast(
    op: ops.Contrast,
    module: Module,
    image: Value,
    text: Value,
    scale: Value,
    group: Value,
    weight: Value,
) -> Value:
    """The symmetric cross entropy of pairs."""
    tape, pairs = image.tape, image.sizes[0]
    target = tape.new((pairs, pairs), F32)
    losses = [
        each(along(multiply(softmax(cosines(one, other, scale)), target), 1))
        for one, other in ((image, text), (text, image))
    ]
    return total(multiply(mean(stack(losses), 0, keep=False), weight))


def hard_negatives(
    op: ops.HardNegatives,
    module: Module,
    image: Value,
    text: Value,
    scale: Value,
    group: Value,
) -> Value:
    """What each pair is matched with: drawn by similarity, without a gradient."""
    tape = image.tape
    recording, tape.recording = tape.recording, False
    softmax(cosines(image, text, scale))
    tape.recording = recording
    return tape.new((3 * group.sizes[0],), I64)


def added(op: ops.Add, module: Module, *terms: Value) -> Value:
    """The sum of several, stacked first."""
    return along(stack(terms), 0)

"""Sizes: equal expressions are equal, and evaluation, bounds and text agree."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from triptych.compiler.sizing import fit, fit_frame
from triptych.compiler.text import read_size
from triptych.compiler.types import (
    Bounds,
    Symbol,
    TensorType,
    add,
    bounds,
    divide,
    evaluate,
    maximum,
    minimum,
    multiply,
    substitute,
    symbols,
    total,
)

A, B = Symbol("a"), Symbol("b.rows")
NAMES = ("a", "b.rows", "c")


def sizes():
    leaves = st.integers(0, 50) | st.sampled_from(NAMES).map(Symbol)

    def deeper(inner):
        pairs = st.tuples(inner, inner)
        return (
            pairs.map(lambda pair: add(*pair))
            | pairs.map(lambda pair: multiply(*pair))
            | pairs.map(lambda pair: maximum(*pair))
            | pairs.map(lambda pair: minimum(*pair))
            | st.tuples(inner, st.integers(1, 9), st.booleans()).map(
                lambda made: divide(made[0], made[1], up=made[2])
            )
        )

    return st.recursive(leaves, deeper, max_leaves=8)


values = st.fixed_dictionaries({name: st.integers(0, 60) for name in NAMES})


@given(sizes())
def test_text_reads_back_as_the_same_size(size):
    assert read_size(str(size)) == size


@given(sizes(), values)
def test_a_value_lies_within_the_bounds(size, where):
    domain = {name: Bounds(max(0, value - 3), value + 3) for name, value in where.items()}
    found = bounds(size, domain)
    assert found.most is not None
    assert found.least <= evaluate(size, where) <= found.most


@given(sizes(), sizes(), sizes(), values)
def test_canonical_form_keeps_the_value(one, two, three, where):
    a, b, c = (evaluate(size, where) for size in (one, two, three))
    assert evaluate(add(one, two, three), where) == a + b + c
    assert evaluate(multiply(one, two, three), where) == a * b * c
    assert evaluate(divide(add(one, two), 4), where) == (a + b) // 4


@given(sizes(), sizes())
def test_order_of_terms_and_factors_does_not_matter(one, two):
    assert add(one, two) == add(two, one)
    assert multiply(one, two) == multiply(two, one)


@given(sizes(), values)
def test_substitution_is_evaluation_in_two_steps(size, where):
    meaning = {"c": add(multiply(2, A), B)}
    seen = {**where, "c": 2 * where["a"] + where["b.rows"]}
    assert evaluate(substitute(size, meaning), where) == evaluate(size, seen)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (4 * A // 4, "a"),
        ((4 * A + 8 * B) // 4, "a + 2 * b.rows"),
        ((4 * A + B) // 4, "(4 * a + b.rows) // 4"),
        (divide(A, 2, up=True) * B, "b.rows * ceil(a / 2)"),
        ((A // 2) * 6, "6 * (a // 2)"),
        (3 + A + 4, "a + 7"),
        (total("image", 4 * A) // 4, "total(image, a)"),
        (maximum(A, minimum(B, 3)), "max(a, min(b.rows, 3))"),
        (fit(A, B, multiple=28, most=4), "fit(a, b.rows; multiple = 28, most = 4)"),
        (fit_frame(A, B, 2, slack=1.05), "fit_frame(a, b.rows, 2; slack = 1.05)"),
    ],
)
def test_reads_as_a_person_would_write_it(size, text):
    assert str(size) == text
    assert read_size(text) == size


def test_a_total_adds_up_the_items_of_a_batch():
    each = Symbol("image.rows") * Symbol("image.columns")
    items = [{"image.rows": 2, "image.columns": 3}, {"image.rows": 1, "image.columns": 5}]
    assert evaluate(total("image", each), {"image": items}) == 11
    assert evaluate(total("image", each), {}) == 0


def test_a_symbol_without_a_value_is_named():
    with pytest.raises(KeyError, match="a"):
        evaluate(A + 1, {})


def test_bounds_try_the_values_of_a_symbol_that_occurs_twice():
    # Alone, a factor of at most 10 and one of at most 10 would allow 100.
    falls = fit_frame(1, 1, A, multiple=1, least=1, most=100, cap=20, per=1, aspect=1)
    assert bounds(A * falls, {"a": Bounds(1, 10)}).most == 20


def test_symbols_are_named_from_left_to_right():
    assert list(symbols(A + B * A)) == ["a", "a", "b.rows"]


def test_a_type_says_its_sizes_and_its_numbers():
    assert str(TensorType(("batch", 4 * A, 3), "i64")) == "i64[batch, 4 * a, 3]"
    assert TensorType(("batch", 7)) == TensorType((Symbol("batch"), 7))


@given(
    st.integers(1, 4000),
    st.integers(1, 4000),
    st.integers(2, 384),
    st.sampled_from([(4, 64), (128, 768), (4, 16384)]),
)
def test_resizing_stays_within_its_bounds(width, height, pairs, budget):
    if max(width, height) > 200 * min(width, height):
        return
    limits = {"multiple": 28, "least": budget[0], "most": budget[1], "aspect": 200}
    picture = fit(width, height, **limits)
    found, where = bounds(picture, {}), evaluate(picture, {})
    assert found.most is not None and found.least <= where <= found.most
    frame = fit_frame(width, height, 2 * pairs, **limits, cap=2048, slack=1.05, per=2)
    found, where = bounds(frame, {}), evaluate(frame, {})
    assert found.most is not None and found.least <= where <= found.most

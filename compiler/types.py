"""Sizes known and named, and the type of what flows along an edge.

A size is a whole number or an expression over symbols: `image.patches // 4`. An expression is kept
in a plain canonical form (constants folded, terms in one order), so that equal sizes compare equal
as far as recipes need it; it can be evaluated, bounded over a domain, and printed in a form that
`compiler.text` reads back.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

Option: TypeAlias = int | float
Values: TypeAlias = Mapping[str, "int | Sequence[Values]"]
"""What symbols stand for: whole numbers; for `Total`, the items of that kind, each with its own."""


@dataclass(frozen=True, slots=True)
class Bounds:
    """The least and the greatest that a size can be (None: without limit), and its steps.

    >>> str(Bounds(4, 16384)), str(Bounds(4, 768, 2)), str(Bounds(0, None))
    ('4..16384', '4..768 by 2', '0..')
    """

    least: int
    most: int | None
    step: int = 1

    def __str__(self) -> str:
        ends = f"{self.least}..{'' if self.most is None else self.most}"
        return ends if self.step == 1 else f"{ends} by {self.step}"


class Expression:
    """A size that is not known before the data is there; see `Size`."""

    __slots__ = ()

    def __add__(self, other: Size) -> Size:
        return add(self, other)

    def __radd__(self, other: Size) -> Size:
        return add(other, self)

    def __mul__(self, other: Size) -> Size:
        return multiply(self, other)

    def __rmul__(self, other: Size) -> Size:
        return multiply(other, self)

    def __floordiv__(self, other: int) -> Size:
        return divide(self, other)

    def parts(self) -> tuple[Size, ...]:
        """What the expression is made of, one level down."""
        return ()

    def evaluate(self, values: Values) -> int:
        """The number that the expression is where its symbols are `values`; see `evaluate`."""
        raise NotImplementedError

    def bounds(self, domain: Mapping[str, Bounds]) -> Bounds:
        """The least and the most over a domain; see `bounds`."""
        raise NotImplementedError

    def rebuilt(self, change: Callable[[Size], Size]) -> Size:
        """The same expression of changed parts."""
        return self


Size: TypeAlias = int | Expression


@dataclass(frozen=True, slots=True)
class Symbol(Expression):
    """A size with a name, whose value comes with the data.

    >>> str((Symbol("rows") * 4 + 2) // 3), str(Symbol("rows") * 4 // 4)
    ('(4 * rows + 2) // 3', 'rows')
    """

    name: str

    def evaluate(self, values: Values) -> int:
        """The value of the symbol; KeyError when it has none."""
        value = values[self.name]
        assert isinstance(value, int), f"{self.name} is not a number"
        return value

    def bounds(self, domain: Mapping[str, Bounds]) -> Bounds:
        """What the domain says of the symbol; any natural number when it says nothing."""
        return domain.get(self.name, Bounds(0, None))

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True, slots=True)
class Sum(Expression):
    """Terms added up; made by `add`."""

    terms: tuple[Size, ...]

    def parts(self) -> tuple[Size, ...]:
        """The terms."""
        return self.terms

    def evaluate(self, values: Values) -> int:
        """The sum."""
        return sum(evaluate(term, values) for term in self.terms)

    def bounds(self, domain: Mapping[str, Bounds]) -> Bounds:
        """Least and most of each term, added up."""
        each = [bounds(term, domain) for term in self.terms]
        most = [bound.most for bound in each]
        return Bounds(
            sum(bound.least for bound in each),
            None if None in most else sum(value for value in most if value is not None),
        )

    def rebuilt(self, change: Callable[[Size], Size]) -> Size:
        """The sum of the changed terms."""
        return add(*(change(term) for term in self.terms))

    def __str__(self) -> str:
        return " + ".join(map(str, self.terms))


@dataclass(frozen=True, slots=True)
class Product(Expression):
    """Factors multiplied, a constant first; made by `multiply`."""

    factors: tuple[Size, ...]

    def parts(self) -> tuple[Size, ...]:
        """The factors."""
        return self.factors

    def evaluate(self, values: Values) -> int:
        """The product."""
        return math.prod(evaluate(factor, values) for factor in self.factors)

    def bounds(self, domain: Mapping[str, Bounds]) -> Bounds:
        """Sizes are never negative, so the ends multiply."""
        each = [bounds(factor, domain) for factor in self.factors]
        most = [bound.most for bound in each]
        return Bounds(
            math.prod(bound.least for bound in each),
            None if None in most else math.prod(value for value in most if value is not None),
        )

    def rebuilt(self, change: Callable[[Size], Size]) -> Size:
        """The product of the changed factors."""
        return multiply(*(change(factor) for factor in self.factors))

    def __str__(self) -> str:
        return " * ".join(_inside(factor) for factor in self.factors)


@dataclass(frozen=True, slots=True)
class Quotient(Expression):
    """A size divided by a number, rounded down, or up where `up` says so; made by `divide`."""

    dividend: Size
    divisor: int
    up: bool = False

    def parts(self) -> tuple[Size, ...]:
        """What is divided."""
        return (self.dividend,)

    def evaluate(self, values: Values) -> int:
        """The quotient as a whole number."""
        return self._of(evaluate(self.dividend, values))

    def bounds(self, domain: Mapping[str, Bounds]) -> Bounds:
        """Division keeps the order of its argument."""
        inner = bounds(self.dividend, domain)
        return Bounds(self._of(inner.least), None if inner.most is None else self._of(inner.most))

    def rebuilt(self, change: Callable[[Size], Size]) -> Size:
        """The quotient of the changed dividend."""
        return divide(change(self.dividend), self.divisor, up=self.up)

    def _of(self, value: int) -> int:
        return -(-value // self.divisor) if self.up else value // self.divisor

    def __str__(self) -> str:
        if self.up:
            return f"ceil({self.dividend} / {self.divisor})"
        return f"{_inside(self.dividend)} // {self.divisor}"


@dataclass(frozen=True, slots=True)
class Extreme(Expression):
    """The greatest or the least of several sizes; made by `maximum` and `minimum`."""

    kind: Literal["max", "min"]
    choices: tuple[Size, ...]

    def parts(self) -> tuple[Size, ...]:
        """What there is to choose from."""
        return self.choices

    def evaluate(self, values: Values) -> int:
        """The extreme of the values."""
        pick = max if self.kind == "max" else min
        return pick(evaluate(choice, values) for choice in self.choices)

    def bounds(self, domain: Mapping[str, Bounds]) -> Bounds:
        """The extreme of the ends; an end without limit loses in a minimum."""
        each = [bounds(choice, domain) for choice in self.choices]
        ends = [bound.most for bound in each if bound.most is not None]
        if self.kind == "max":
            return Bounds(
                max(bound.least for bound in each), max(ends) if len(ends) == len(each) else None
            )
        return Bounds(min(bound.least for bound in each), min(ends) if ends else None)

    def rebuilt(self, change: Callable[[Size], Size]) -> Size:
        """The extreme of the changed choices."""
        pick = maximum if self.kind == "max" else minimum
        return pick(*(change(choice) for choice in self.choices))

    def __str__(self) -> str:
        return f"{self.kind}({', '.join(map(str, self.choices))})"


@dataclass(frozen=True, slots=True)
class Function:
    """A rule that makes a size of sizes where arithmetic alone does not say it, such as a resize.

    `compute` takes the arguments, then the options by name; `bound` takes the bounds of the
    arguments in place of the arguments.
    """

    name: str
    compute: Callable[..., int]
    bound: Callable[..., Bounds]


@dataclass(frozen=True, slots=True)
class Call(Expression):
    """A function of sizes: `fit(image.height, image.width; least = 4, most = 16384)`."""

    function: Function
    arguments: tuple[Size, ...]
    options: tuple[tuple[str, Option], ...] = ()

    def parts(self) -> tuple[Size, ...]:
        """The arguments."""
        return self.arguments

    def evaluate(self, values: Values) -> int:
        """What the function makes of the values of its arguments."""
        numbers = [evaluate(argument, values) for argument in self.arguments]
        return self.function.compute(*numbers, **dict(self.options))

    def bounds(self, domain: Mapping[str, Bounds]) -> Bounds:
        """What the function says of the bounds of its arguments."""
        each = [bounds(argument, domain) for argument in self.arguments]
        return self.function.bound(*each, **dict(self.options))

    def rebuilt(self, change: Callable[[Size], Size]) -> Size:
        """The call with changed arguments."""
        arguments = tuple(change(argument) for argument in self.arguments)
        return Call(self.function, arguments, self.options)

    def __str__(self) -> str:
        options = ", ".join(f"{name} = {value!r}" for name, value in self.options)
        tail = f"; {options}" if options else ""
        return f"{self.function.name}({', '.join(map(str, self.arguments))}{tail})"


@dataclass(frozen=True, slots=True)
class Total(Expression):
    """A size summed over all items of a kind; made by `total`."""

    kind: str
    each: Size

    def parts(self) -> tuple[Size, ...]:
        """What one item adds."""
        return (self.each,)

    def evaluate(self, values: Values) -> int:
        """`values[kind]` lists the items, each with its own symbols; an item shadows `values`."""
        items = values.get(self.kind, ())
        assert not isinstance(items, int)
        return sum(evaluate(self.each, {**values, **item}) for item in items)

    def bounds(self, domain: Mapping[str, Bounds]) -> Bounds:
        """The bounds of one item, times those of the number of items, `KIND.count`."""
        count, each = domain.get(f"{self.kind}.count", Bounds(0, None)), bounds(self.each, domain)
        open_end = count.most is None or each.most is None
        most = None if open_end else (count.most or 0) * (each.most or 0)
        return Bounds(count.least * each.least, most)

    def rebuilt(self, change: Callable[[Size], Size]) -> Size:
        """The total of the changed summand."""
        return total(self.kind, change(self.each))

    def __str__(self) -> str:
        return f"total({self.kind}, {self.each})"


def _inside(size: Size) -> str:
    """A size as a factor: sums and quotients in brackets."""
    return f"({size})" if isinstance(size, Sum) or _is_floor(size) else str(size)


def _is_floor(size: Size) -> bool:
    return isinstance(size, Quotient) and not size.up


def add(*sizes: Size) -> Size:
    """The sum in canonical form: like terms gathered, terms in the order of their text.

    >>> str(add(Symbol("b"), 2, Symbol("a"), Symbol("b"), 3))
    'a + 2 * b + 5'
    """
    constant, counts = 0, dict[Size, int]()
    for size in sizes:
        for term in size.terms if isinstance(size, Sum) else (size,):
            if isinstance(term, int):
                constant += term
                continue
            factor, rest = _coefficient(term)
            counts[rest] = counts.get(rest, 0) + factor
    terms = [multiply(counts[rest], rest) for rest in sorted(counts, key=str) if counts[rest]]
    if constant or not terms:
        terms.append(constant)
    return terms[0] if len(terms) == 1 else Sum(tuple(terms))


def _coefficient(term: Size) -> tuple[int, Size]:
    """A term as a number times the rest."""
    if isinstance(term, Product) and isinstance(term.factors[0], int):
        return term.factors[0], multiply(*term.factors[1:])
    return 1, term


def multiply(*sizes: Size) -> Size:
    """The product in canonical form: sums multiplied out, one constant first, factors in order.

    >>> str(multiply(Symbol("b"), 2, Symbol("a"), 3)), multiply(0, Symbol("a"))
    ('6 * a * b', 0)
    >>> str(multiply(Symbol("a") + 1, Symbol("b") + 2))
    '2 * a + a * b + b + 2'
    """
    for index, size in enumerate(sizes):
        if isinstance(size, Sum):
            rest = (*sizes[:index], *sizes[index + 1 :])
            return add(*(multiply(term, *rest) for term in size.terms))
    constant, factors = 1, list[Size]()
    for size in sizes:
        for factor in size.factors if isinstance(size, Product) else (size,):
            if isinstance(factor, int):
                constant *= factor
            else:
                factors.append(factor)
    if constant == 0 or not factors:
        return constant
    factors.sort(key=str)
    if constant != 1:
        factors.insert(0, constant)
    return factors[0] if len(factors) == 1 else Product(tuple(factors))


def divide(size: Size, divisor: int, *, up: bool = False) -> Size:
    """The quotient, rounded down or `up`; exact where each term is a multiple of the divisor.

    >>> str(divide(4 * Symbol("a") + 8, 4)), str(divide(Symbol("a"), 4)), divide(7, 2, up=True)
    ('a + 2', 'a // 4', 4)
    """
    assert divisor > 0
    if isinstance(size, int):
        return -(-size // divisor) if up else size // divisor
    terms = size.terms if isinstance(size, Sum) else (size,)
    split = [(term, 1) if isinstance(term, int) else _coefficient(term)[::-1] for term in terms]
    if all((n if isinstance(n, int) else f) % divisor == 0 for n, f in split):
        return add(
            *(n // divisor if isinstance(n, int) else multiply(f // divisor, n) for n, f in split)
        )
    return Quotient(size, divisor, up)


def total(kind: str, each: Size) -> Size:
    """A size summed over all items of a kind, a constant factor before it.

    >>> str(total("image", 4 * Symbol("image.tokens")))
    '4 * total(image, image.tokens)'
    """
    if isinstance(each, int):
        return multiply(each, Symbol(f"{kind}.count"))
    factor, rest = _coefficient(each)
    return multiply(factor, Total(kind, rest))


def maximum(*sizes: Size) -> Size:
    """The greatest of the sizes.

    >>> str(maximum(Symbol("a"), 3, 5)), maximum(3, 5)
    ('max(a, 5)', 5)
    """
    return _extreme("max", sizes)


def minimum(*sizes: Size) -> Size:
    """The least of the sizes."""
    return _extreme("min", sizes)


def _extreme(kind: Literal["max", "min"], sizes: Sequence[Size]) -> Size:
    choices = dict[Size, None]()
    for size in sizes:
        nested = isinstance(size, Extreme) and size.kind == kind
        choices.update(dict.fromkeys(size.choices if nested else (size,)))  # type: ignore[union-attr]
    numbers = [choice for choice in choices if isinstance(choice, int)]
    others: list[Size] = sorted((c for c in choices if not isinstance(c, int)), key=str)
    if numbers:
        others.append(max(numbers) if kind == "max" else min(numbers))
    return others[0] if len(others) == 1 else Extreme(kind, tuple(others))


MOST_TRIED = 2000
"""`bounds` tries the values of a symbol one by one up to this many."""


def evaluate(size: Size, values: Values) -> int:
    """The number that a size is where its symbols have these values.

    >>> evaluate(Symbol("rows") * 4 + 2, {"rows": 3})
    14
    """
    return size if isinstance(size, int) else size.evaluate(values)


def bounds(size: Size, domain: Mapping[str, Bounds]) -> Bounds:
    """The least and the most that a size can be where its symbols stay in a domain.

    The bounds hold, but need not be reached: each part of an expression is bounded for itself. Of a
    symbol that occurs several times and has few values, each value is tried.

    >>> str(bounds(Symbol("rows") * 4 + 2, {"rows": Bounds(1, 10)}))
    '6..42'
    """
    if isinstance(size, int):
        return Bounds(size, size)
    for name, times in Counter(symbols(size)).items():
        limits = domain.get(name)
        if times > 1 and limits and limits.most is not None and limits.most > limits.least:
            tried = range(limits.least, limits.most + 1, limits.step)
            if len(tried) <= MOST_TRIED:
                each = [bounds(size, {**domain, name: Bounds(n, n)}) for n in tried]
                most = [bound.most for bound in each if bound.most is not None]
                return Bounds(
                    min(bound.least for bound in each),
                    max(most) if len(most) == len(each) else None,
                )
    return size.bounds(domain)


def symbols(size: Size) -> Iterator[str]:
    """The names in a size, from left to right, as often as they occur."""
    if isinstance(size, Symbol):
        yield size.name
    elif isinstance(size, Expression):
        for part in size.parts():
            yield from symbols(part)


def substitute(size: Size, meaning: Mapping[str, Size]) -> Size:
    """The size with each symbol of `meaning` replaced by what it means there, all the way down.

    >>> str(substitute(Symbol("patches") // 4, {"patches": 8 * Symbol("rows")}))
    '2 * rows'
    """
    if isinstance(size, int):
        return size
    if isinstance(size, Symbol):
        return substitute(meaning[size.name], meaning) if size.name in meaning else size
    return size.rebuilt(lambda part: substitute(part, meaning))


DType = Literal["float", "bf16", "f16", "f32", "i64"]
"""What numbers are: `float` is what a program is lowered to; the others stay as they are."""


@dataclass(frozen=True, slots=True)
class TensorType:
    """The sizes of a tensor, outermost first, and what its numbers are.

    >>> str(TensorType(("batch", 576, 1024)))
    'float[batch, 576, 1024]'
    """

    sizes: tuple[Size, ...]
    dtype: DType = "float"

    def __init__(self, sizes: Sequence[Size | str] = (), dtype: DType = "float") -> None:
        """A name in place of a size stands for the symbol of that name."""
        made = tuple(Symbol(size) if isinstance(size, str) else size for size in sizes)
        object.__setattr__(self, "sizes", made)
        object.__setattr__(self, "dtype", dtype)

    @property
    def width(self) -> Size:
        """The innermost size."""
        return self.sizes[-1]

    def __str__(self) -> str:
        return f"{self.dtype}[{', '.join(map(str, self.sizes))}]"

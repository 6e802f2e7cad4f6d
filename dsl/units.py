"""Numbers with units: what `28px`, `600Gtok` and `2ksteps` mean, and which may be added."""

from dataclasses import dataclass

UNIT_WORDS = {
    "px": "pixels",
    "tok": "tokens",
    "frames": "frames",
    "fps": "frames a second",
    "s": "seconds",
    "steps": "steps",
    "seq": "sequences",
    "epochs": "epochs",
    "B": "bytes",
}
"""The dimensions of the language, in words; a quantity is kept in one of these units."""

_COUNTED = ("tok", "steps", "seq", "frames", "B")
_PREFIXES = {"k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12}

UNITS: dict[str, tuple[str, int, int]] = {
    **{unit: (unit, 1, 1) for unit in UNIT_WORDS},
    **{
        prefix + unit: (unit, factor, 1)
        for unit in _COUNTED
        for prefix, factor in _PREFIXES.items()
    },
    **{
        name: ("B", 1024**power, 1)
        for power, name in enumerate(("KiB", "MiB", "GiB", "TiB"), start=1)
    },
    "ms": ("s", 1, 1000),
    **{prefix: ("", factor, 1) for prefix, factor in _PREFIXES.items()},
}
"""From what may follow a number to (base unit, numerator, denominator)."""

LARGEST = 10**18
"""No number of a recipe is larger; keeps arithmetic quick and typing slips visible."""


@dataclass(frozen=True, slots=True)
class Quantity:
    """A number in a base unit; the unit of a bare number is empty.

    >>> print(Quantity.of(600, "Gtok"), Quantity.of(5, "ms"), Quantity(28, "px"))
    600000000000tok 0.005s 28px
    """

    value: int | float
    unit: str = ""

    @classmethod
    def of(cls, value: int | float, suffix: str) -> "Quantity":
        """A number as written, with its unit or scale prefix; KeyError for an unknown one."""
        base, numerator, denominator = UNITS[suffix] if suffix else ("", 1, 1)
        return cls(whole(value * numerator, denominator), base)

    def __str__(self) -> str:
        return f"{self.value}{self.unit}"


def whole(value: int | float, divisor: int | float = 1) -> int | float:
    """`value / divisor`, an int where that loses nothing.

    >>> whole(6, 3), whole(7, 2), whole(2e3)
    (2, 3.5, 2000)
    """
    if isinstance(value, int) and isinstance(divisor, int) and value % divisor == 0:
        return value // divisor
    quotient = value / divisor
    return int(quotient) if quotient.is_integer() else quotient

"""What an expression is worth before a model has given it a type."""

from abc import ABC, abstractmethod
from dataclasses import dataclass

from .source import Span
from .syntax import Path
from .units import Quantity


@dataclass(frozen=True, slots=True)
class RangeValue:
    """The ends of a range, not yet in the unit of a setting."""

    low: Quantity | None
    high: Quantity
    step: Quantity | None


@dataclass(frozen=True, slots=True)
class GridValue:
    """The sides of a grid."""

    sides: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class ListValue:
    """The members of a list."""

    items: tuple["Given", ...]


@dataclass(frozen=True, slots=True)
class CallValue:
    """A call, by name; its arguments are worth what a model makes of them."""

    name: str
    positional: tuple["Given", ...]
    named: tuple[tuple[str, "Given"], ...]


Value = Quantity | str | bool | RangeValue | GridValue | ListValue | CallValue | Path


class Given(ABC):
    """A written value, with the means to find out what it is worth.

    A model asks for what its setting needs: the worth of an expression, or the path itself where
    a setting takes a choice, a part or a selector.
    """

    @property
    @abstractmethod
    def span(self) -> Span:
        """Where it was written."""

    @abstractmethod
    def value(self) -> Value:
        """What it is worth, references followed.

        Raises `Reported` when that depends on a mistake, which has been reported then.
        """

    @abstractmethod
    def path(self) -> Path | None:
        """The path as written, when it is one."""


class Reported(Exception):  # noqa: N818 - it carries no message: that has been reported
    """The value depends on a mistake that has been reported already."""

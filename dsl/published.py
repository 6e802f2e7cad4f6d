"""What a recipe may say of published weights: where they stand, and how their names map to ours."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from .kinds import CallModel, Count, Model, Positive, Quoted
from .parts import Hf
from .reading import Calls, Measure, Members, OneOrMore


class Renamed(Model):
    """The published tensor is ours under another name: a target that is a text alone."""

    target: str

    @property
    def targets(self) -> tuple[str, ...]:
        """The patterns of our names, in the order in which the published tensor holds them."""
        return (self.target,)


class Transposed(CallModel):
    """The published matrix is ours with rows for columns."""

    call: Literal["transposed"] = "transposed"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Quoted

    @property
    def targets(self) -> tuple[str, ...]:
        """As for a text."""
        return (self.target,)


class Squeezed(CallModel):
    """The published tensor is ours without its leading sizes of one."""

    call: Literal["squeezed"] = "squeezed"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Quoted

    @property
    def targets(self) -> tuple[str, ...]:
        """As for a text."""
        return (self.target,)


class Joined(CallModel):
    """The published tensor holds several of ours, one below another.

    With `groups`, its rows stand in so many groups, each of an equal share of every one of ours.
    """

    call: Literal["joined"] = "joined"
    positional: ClassVar[tuple[str, ...]] = ("targets",)
    targets: Annotated[tuple[Quoted, ...], Members()] = Field(min_length=2)
    groups: Count = 1


class Interleaved(CallModel):
    """Ours has `parts` of equal size one below another; the published rows stand in groups.

    Each group holds an equal share of every part: queries, keys and values head by head, say.
    """

    call: Literal["interleaved"] = "interleaved"
    positional: ClassVar[tuple[str, ...]] = ("target",)
    target: Quoted
    parts: Count
    groups: Count

    @property
    def targets(self) -> tuple[str, ...]:
        """As for a text."""
        return (self.target,)


Form = Renamed | Transposed | Squeezed | Joined | Interleaved
"""How a published tensor holds ours."""


class MapRule(Model):
    """Published name to ours; each `*` captures any text, left to right, on both sides."""

    source: str
    target: Annotated[Form, Calls()]


class Normal(CallModel):
    """Drawn from a normal distribution around 0."""

    call: Literal["normal"] = "normal"
    positional: ClassVar[tuple[str, ...]] = ("std",)
    std: Positive


class Filled(CallModel):
    """One number everywhere: `filled(0)`, `filled(1)`."""

    call: Literal["filled"] = "filled"
    positional: ClassVar[tuple[str, ...]] = ("value",)
    value: Annotated[float, Measure()]


class FreshRule(Model):
    """Parameters that no published tensor gives, and how they start.

    Without `init` each starts as its part says.
    """

    pattern: str
    init: Annotated[Normal | Filled, Calls()] | None = None


class IgnoreRule(Model):
    """Published tensors that have no place in the model, and why."""

    pattern: str
    reason: str = Field(min_length=1)


class Weights(Model):
    """Where published weights stand, and how their names map to ours; usable both ways."""

    from_: Annotated[tuple[Annotated[Hf, Calls()], ...], OneOrMore()] = Field(
        alias="from", min_length=1
    )
    rules: tuple[MapRule, ...] = ()
    fresh: tuple[FreshRule, ...] = ()
    ignored: tuple[IgnoreRule, ...] = ()

    @property
    def repositories(self) -> str:
        """Where they are published, for a sentence."""
        return ", ".join(source.repository for source in self.from_)

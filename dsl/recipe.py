"""A whole recipe: frozen models, one a block or call, whose fields are the settings.

A call such as `rope2d(theta: 1e4)` is a model too, told apart by its field `call`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from pydantic import Field

from .inputs import Input
from .kinds import CallModel, Model
from .modes import AnyMode, Mode
from .objectives import Objective
from .parts import Adapter, Decoder, Encoder, QueryDecoder
from .published import Weights
from .reading import Measure
from .source import Span
from .stages import Stage
from .syntax import Comparison
from .texts import Layout, Tokens
from .units import Quantity


def _calls(above: type[CallModel]) -> dict[str, type[CallModel]]:
    found = {above.model_fields["call"].default: above} if "call" in above.model_fields else {}
    for below in above.__subclasses__():
        found |= _calls(below)
    return found


CALLS: Mapping[str, type[CallModel]] = _calls(CallModel)
"""Every call that a recipe may make, by name."""


OriginKind = Literal["given", "derived", "inherited", "imported", "assumed", "default"]


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a value came from; `replaced` is what stood there in a base, or in an imported block.

    `recipe` names the recipe whose text holds the value; `span` is None for a default.
    """

    kind: OriginKind
    span: Span | None
    recipe: str
    replaced: "Origin | None" = None
    imported: bool = False
    """Whether an import brought it, whatever kind of value it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Facts:
    """Where each value of a recipe stands, by path; never what tells two recipes apart.

    All blocks share one set of names, so a path starts at the block: `lm` is where it is declared,
    `lm.width` a setting, `sft.optim.lr` an argument, `sft.train[0]` a member of a list,
    `tokens.im_end` a special token, `chatml.user` a rule (`chatml.settings.system` is
    a setting, where there is a rule `chatml.system` as well), `weights.rules[3]`,
    `weights.fresh[0]` and `weights.ignored[0]` statements of the weights, `asserts[0]` an assert.
    `sources` holds, for a
    value that was computed, the paths of the settings that it was computed from; `amended` the
    settings that stand under `amend`.
    """

    spans: Mapping[str, Span] = field(default_factory=lambda: MappingProxyType({}))
    origins: Mapping[str, Origin] = field(default_factory=lambda: MappingProxyType({}))
    sources: Mapping[str, tuple[str, ...]] = field(default_factory=lambda: MappingProxyType({}))
    amended: frozenset[str] = frozenset()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Facts)

    def __hash__(self) -> int:
        return hash(Facts)


@dataclass(frozen=True, slots=True)
class Assertion:
    """A comparison that must hold, as written; the compiler supplies what it speaks of."""

    text: str
    comparison: Comparison = field(compare=False)


class Recipe(Model):
    """A whole recipe: what goes in, the parts, the weights, the layouts, how it is trained and run.

    Dicts are in the order of the text, stages in an order that respects `after`. Two recipes are
    equal when they mean the same, however they are written.
    """

    name: str
    language: int
    tokens: Tokens | None = None
    inputs: dict[str, Input] = Field(default_factory=dict)
    encoders: dict[str, Encoder] = Field(default_factory=dict)
    adapters: dict[str, Adapter] = Field(default_factory=dict)
    lm: Decoder | QueryDecoder | None = None
    weights: Weights | None = None
    layouts: dict[str, Layout] = Field(default_factory=dict)
    objectives: dict[str, Objective] = Field(default_factory=dict)
    stages: dict[str, Stage] = Field(default_factory=dict)
    modes: dict[str, AnyMode] = Field(default_factory=dict)
    asserts: tuple[Assertion, ...] = ()
    facts: Facts = Field(default_factory=Facts, exclude=True, repr=False)

    def span(self, path: str) -> Span | None:
        """Where the value at a path stands: of itself, or of the nearest thing that holds it."""
        while path:
            if path in self.facts.spans:
                return self.facts.spans[path]
            path = path.rpartition("[" if path.endswith("]") else ".")[0]
        return self.facts.spans.get("")

    @property
    def chats(self) -> dict[str, Mode]:
        """The modes that write answers."""
        return {name: mode for name, mode in self.modes.items() if isinstance(mode, Mode)}

    @property
    def speaker(self) -> "Decoder | QueryDecoder | None":
        """What reads and writes text: the language model, else a decoder with queries."""
        decoders = (part for part in self.adapters.values() if isinstance(part, QueryDecoder))
        return self.lm or next(decoders, None)

    def block(self, name: str) -> Model | None:
        """The block of this name; None when there is none."""
        singles: dict[str, Model | None] = {
            "tokens": self.tokens,
            "lm": self.lm,
            "weights": self.weights,
        }
        if name in singles:
            return singles[name]
        named: tuple[Mapping[str, Model], ...] = (
            self.inputs,
            self.encoders,
            self.adapters,
            self.layouts,
            self.objectives,
            self.stages,
            self.modes,
        )
        return next((blocks[name] for blocks in named if name in blocks), None)

    def quantity(self, path: str) -> Quantity | None:
        """The number at a path such as `lm.context`, with its unit; None when there is no number.

        Ranges, words and lists have no quantity; neither has a setting that was left out.
        """
        block, *names = path.split(".")
        value: object = self.block(block)
        unit = ""
        for name in names:
            if not isinstance(value, Model):
                return None
            field = next(
                (
                    key
                    for key, info in type(value).model_fields.items()
                    if name in (key, info.alias)
                ),
                None,
            )
            if field is None:
                return None
            markers = type(value).model_fields[field].metadata
            unit = next((marker.unit for marker in markers if isinstance(marker, Measure)), "")
            value = getattr(value, field)
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return Quantity(value, unit)

    def origin(self, path: str) -> Origin | None:
        """Where the value at a path came from; None when there is no such value."""
        return self.facts.origins.get(path)

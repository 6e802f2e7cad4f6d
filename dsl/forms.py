"""How each kind of value looks in JSON: a schema of it, and the way there from a checked recipe."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

from pydantic import BaseModel

from .kinds import Range
from .published import Renamed
from .units import UNITS

Json = Any
Schema = dict[str, Any]

_NAME = r"[A-Za-z_][A-Za-z0-9_]*"
_STEP = rf"{_NAME}(\[[0-9]+(\.\.[0-9]+)?\])?"
NAME = f"^{_NAME}$"
"""What a block, a special token or a rule may be called."""
PATH = rf"^{_STEP}(\.{_STEP})*$"
"""A part, a layout, a stage, a selector."""
EXPRESSION: Schema = {
    "type": "object",
    "properties": {"expression": {"type": "string"}},
    "required": ["expression"],
    "additionalProperties": False,
    "description": "A value that refers to others, in the recipe language: `4 * vit.width`.",
}
BOUNDS = {
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
}
LENGTHS = {"min_length": "minItems", "max_length": "maxItems"}


class Form(ABC):
    """How the values of one field look in JSON."""

    is_text: ClassVar[bool] = False
    """Whether a JSON string is a text in quotes, not a word or number of the language."""

    @abstractmethod
    def schema(self, models: "Models") -> Schema:
        """What JSON may stand there."""

    @abstractmethod
    def json(self, value: Any, shown: "Shown", path: str) -> Json:
        """A value of a checked recipe; `path` says where it stands: `lm.pos.theta`."""

    @property
    def member(self) -> "Form":
        """The form of what a list holds; itself where there is none."""
        return self


class Models(ABC):
    """Gathers the schemas of models, so that each stands once under `$defs`."""

    @abstractmethod
    def reference(self, model: type[BaseModel]) -> Schema:
        """A `$ref` to the schema of a model."""


class Shown(ABC):
    """Turns models into JSON, knowing what of a recipe was written."""

    @abstractmethod
    def model(self, model: BaseModel, path: str) -> Json:
        """The settings or arguments of a model."""


@dataclass(frozen=True)
class Number(Form):
    """A number, as a string where it has a unit: `28`, `"28px"`."""

    unit: str
    is_whole: bool
    bounds: Mapping[str, float] = field(default_factory=dict)

    def schema(self, models: Models) -> Schema:
        """With the bounds of the setting; those of a unit are left to `triptych check`."""
        if self.unit:
            return {"type": "string", "pattern": f"^{measured((self.unit,), self.is_whole)}$"}
        kind = "integer" if self.is_whole else "number"
        return {"type": kind} | {BOUNDS[key]: bound for key, bound in self.bounds.items()}

    def json(self, value: Any, shown: Shown, path: str) -> Json:
        """The number, with its unit if it has one."""
        if isinstance(value, float) and value.is_integer() and abs(value) < 10**15:
            value = int(value)
        return f"{value}{self.unit}" if self.unit else value


@dataclass(frozen=True)
class Written(Form):
    """A string that is written as the recipe language has it: a range, a grid, a name."""

    pattern: str
    unit: str = ""

    def schema(self, models: Models) -> Schema:
        """Strings of the pattern."""
        return {"type": "string", "pattern": self.pattern}

    def json(self, value: Any, shown: Shown, path: str) -> Json:
        """The text."""
        if not isinstance(value, Range):
            return str(value)
        low = "" if value.low is None else f"{value.low}{self.unit}"
        step = "" if value.step == 1 else f" by {value.step}{self.unit}"
        return f"{low}..{value.high}{self.unit}{step}"


@dataclass(frozen=True)
class Words(Form):
    """One of several words."""

    choices: tuple[str, ...]

    def schema(self, models: Models) -> Schema:
        """The words."""
        return {"enum": list(self.choices)}

    def json(self, value: Any, shown: Shown, path: str) -> Json:
        """The word."""
        return value


@dataclass(frozen=True)
class Text(Form):
    """A text, which the language writes in quotes; true and false, where the type says so."""

    is_text: ClassVar[bool] = True
    kind: str
    least: int = 0

    def schema(self, models: Models) -> Schema:
        """Any string, or not an empty one."""
        return {"type": self.kind} | ({"minLength": self.least} if self.least else {})

    def json(self, value: Any, shown: Shown, path: str) -> Json:
        """The value as it is; the target of a map that only renames."""
        return value.target if isinstance(value, Renamed) else value


@dataclass(frozen=True)
class Sequence(Form):
    """A list; `word` is what stands in its place for None, where something can."""

    of: Form
    lengths: Mapping[str, int] = field(default_factory=dict)
    word: str = ""

    @property
    def member(self) -> Form:
        """The form of what the list holds."""
        return self.of

    def schema(self, models: Models) -> Schema:
        """With the number of members, where that is bounded."""
        listed: Schema = {"type": "array", "items": either(self.of.schema(models))}
        listed |= {LENGTHS[key]: bound for key, bound in self.lengths.items()}
        return {"anyOf": [listed, {"const": self.word}]} if self.word else listed

    def json(self, value: Any, shown: Shown, path: str) -> Json:
        """The members."""
        if value is None:
            return self.word
        return [self.of.json(item, shown, f"{path}[{i}]") for i, item in enumerate(value)]


@dataclass(frozen=True)
class WordOrMore(Form):
    """One word, or what another form takes."""

    word: Words
    other: Form

    @property
    def member(self) -> Form:
        """That of the other form."""
        return self.other.member

    def schema(self, models: Models) -> Schema:
        """Either of them."""
        return {"anyOf": [self.word.schema(models), self.other.schema(models)]}

    def json(self, value: Any, shown: Shown, path: str) -> Json:
        """The word, or the other."""
        return (self.word if isinstance(value, str) else self.other).json(value, shown, path)


@dataclass(frozen=True)
class Table(Form):
    """Names, and what stands under each."""

    of: Form

    @property
    def member(self) -> Form:
        """The form of what stands under a name."""
        return self.of

    def schema(self, models: Models) -> Schema:
        """An object without keys of its own."""
        return {
            "type": "object",
            "propertyNames": {"pattern": NAME},
            "additionalProperties": self.of.schema(models),
        }

    def json(self, value: Any, shown: Shown, path: str) -> Json:
        """The same names."""
        return {name: self.of.json(item, shown, f"{path}.{name}") for name, item in value.items()}


@dataclass(frozen=True)
class Object(Form):
    """One of several models, told apart by `call`, `type`, `kind` or `item`; or another form."""

    models: tuple[type[BaseModel], ...]
    other: Form | None = None

    @property
    def member(self) -> Form:
        """That of the other form."""
        return self.other.member if self.other else self

    def schema(self, models: Models) -> Schema:
        """Any of them."""
        schemas = [models.reference(model) for model in self.models]
        if self.other:
            schemas.insert(0, self.other.schema(models))
        return schemas[0] if len(schemas) == 1 else {"anyOf": schemas}

    def json(self, value: Any, shown: Shown, path: str) -> Json:
        """The model's settings or arguments."""
        if isinstance(value, self.models):
            return shown.model(value, path)
        assert self.other
        return self.other.json(value, shown, path)


PLAIN_TEXT = Text("string")


def measured(units: tuple[str, ...], is_whole: bool) -> str:
    """The pattern of a number with one of these units; scales, as in `2ksteps`, are units too."""
    spelt = sorted(name for name, (base, _, _) in UNITS.items() if base in units)
    digits = r"[0-9]+" if is_whole else r"[0-9]+(\.[0-9]+)?"
    return f"{digits}({'|'.join(spelt)})"


def ranged(unit: str) -> str:
    """The pattern of a range, or of a single number."""
    number = measured((unit,), True) if unit else "[0-9]+"
    return rf"^(({number})?\.\.)?{number}( by {number})?$"


def either(schema: Schema) -> Schema:
    """What the schema takes, or an expression in its place."""
    reference = {"$ref": "#/$defs/Expression"}
    if set(schema) == {"anyOf"}:
        return {"anyOf": [*schema["anyOf"], reference]}
    return {"anyOf": [schema, reference]}

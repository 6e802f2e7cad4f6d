"""A recipe as JSON: its schema, made of the same models that check a recipe, and a recipe in it.

Such a recipe is whole: what it would inherit, import or derive is worked out. What is assumed, and
what is amended beyond training, is named beside it by paths, as `triptych assumed` prints them.
"""

import ast
import inspect
import textwrap
from collections.abc import Iterator, Mapping
from functools import cache
from typing import Any

from pydantic import BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from .assumed import assumed
from .check import EDITION
from .facts import SETTINGS
from .fields import form_of
from .forms import EXPRESSION, NAME, Form, Json, Models, Schema, Shown, either
from .names import WIDENED
from .reading import Default
from .recipe import Recipe
from .texts import Rule

TAGS = ("call", "type", "kind", "item")
"""Fields that tell models apart; a recipe writes them otherwise."""
BESIDE = {
    "assumed": "The paths of values that nothing published says: `sft.batch`, `sft.optim.lr`.",
    "amended": "The paths of settings of modes that admit more than any stage trains on.",
}
"""What is said of values beside the recipe itself."""


_ELSEWHERE = {(Recipe, "asserts"), (Recipe, "facts"), (Rule, "name")}
"""Fields that JSON has in another form: as text, not at all, as the key."""


@cache
def fields_of(model: type[BaseModel]) -> dict[str, tuple[FieldInfo, Form]]:
    """The fields of a model by the names that they have in JSON, each with its form."""
    model.model_rebuild()  # of items that hold items, whose types were not known at first
    return {
        info.alias or name: (info, form_of(info.annotation, tuple(info.metadata)))
        for name, info in model.model_fields.items()
        if (model, name) not in _ELSEWHERE
    }


# The schema --------------------------------------------------------------------------------------


def schema() -> Schema:
    """The JSON Schema (draft 2020-12) of a recipe.

    >>> schema()["$defs"]["Mrope"]["required"]
    ['call', 'sections', 'theta']
    """
    definitions = _Definitions()
    whole = definitions.schema_of(Recipe)
    whole["properties"] |= {
        "name": {"type": "string", "pattern": NAME},
        "language": {"const": EDITION},
        "asserts": {"type": "array", "items": {"type": "string"}},
        **{
            name: {"type": "array", "items": {"type": "string"}, "description": text}
            for name, text in BESIDE.items()
        },
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": f"A recipe of triptych, edition {EDITION}",
        **whole,
        "$defs": dict(sorted(definitions.found.items())) | {"Expression": EXPRESSION},
    }


class _Definitions(Models):
    """The schemas of the models that have been referred to, by the names of their classes."""

    def __init__(self) -> None:
        self.found: dict[str, Schema] = {}
        self._models: dict[str, type[BaseModel]] = {}

    def reference(self, model: type[BaseModel]) -> Schema:
        """A `$ref`; the model's own schema is made the first time."""
        name = model.__name__
        assert self._models.setdefault(name, model) is model, f"two models have the name {name}"
        if name not in self.found:
            self.found[name] = {}  # for models that hold themselves
            self.found[name] = self.schema_of(model)
        return {"$ref": f"#/$defs/{name}"}

    def schema_of(self, model: type[BaseModel]) -> Schema:
        """An object with the fields of a model, and no others."""
        said = _docs(model)
        properties, required = dict[str, Schema](), list[str]()
        for name, (info, form) in fields_of(model).items():
            if name in TAGS:
                properties[name] = {"const": info.default}
                required.append(name)
                continue
            own = form.schema(self)
            is_setting = bool(info.metadata) or "anyOf" in own
            properties[name] = (either(own) if is_setting and model is not Recipe else own) | (
                {"description": said[name]} if name in said else {}
            )
            if info.is_required() and not _has_default(info):
                required.append(name)
        return {
            "type": "object",
            "description": _first_line(model),
            "properties": properties,
            "required": required,
            "additionalProperties": False,
        }


def _has_default(info: FieldInfo) -> bool:
    """Whether a missing setting is worth an expression."""
    return any(isinstance(marker, Default) for marker in info.metadata)


def _first_line(model: type[BaseModel]) -> str:
    return (model.__doc__ or "").strip().split("\n\n")[0].replace("\n    ", " ")


def _docs(model: type[BaseModel]) -> Mapping[str, str]:
    """What is written under the fields of a model, and of those that it builds on."""
    said: dict[str, str] = {}
    for cls in reversed(model.__mro__):
        if not issubclass(cls, BaseModel) or cls is BaseModel:
            continue
        (node,) = ast.parse(textwrap.dedent(inspect.getsource(cls))).body
        assert isinstance(node, ast.ClassDef)
        for field, text in zip(node.body, node.body[1:], strict=False):
            if isinstance(field, ast.AnnAssign) and isinstance(text, ast.Expr):
                name = ast.unparse(field.target)
                info = model.model_fields.get(name)
                if info and isinstance(text.value, ast.Constant):
                    said[info.alias or name] = inspect.cleandoc(str(text.value.value))
    return said


# A recipe ----------------------------------------------------------------------------------------


def to_json(recipe: Recipe) -> Json:
    """The recipe as JSON that the schema takes; what was not written is left out.

    >>> from .load import load_recipe
    >>> to_json(load_recipe("qwen2_vl_2b"))["lm"]["pos"]
    {'call': 'mrope', 'sections': [16, 24, 24], 'theta': 1000000}
    """
    shown = _Shown(recipe)
    data: dict[str, Json] = {"name": recipe.name, "language": recipe.language}
    for name, (_, form) in fields_of(Recipe).items():
        value = getattr(recipe, name)
        if name in data or not value:
            continue
        if isinstance(value, dict):
            data[name] = {key: form.member.json(one, shown, key) for key, one in value.items()}
        else:
            data[name] = form.json(value, shown, name)
    if recipe.asserts:
        data["asserts"] = [assertion.text for assertion in recipe.asserts]
    widened = (f"{mode}.{setting}" for mode in recipe.modes for setting in WIDENED)
    amended = [path for path in widened if path in recipe.facts.amended]
    beside = {"assumed": sorted(assumed(recipe)), "amended": sorted(amended)}
    return data | {
        name: [path.replace(f".{SETTINGS}", ".") for path in paths]
        for name, paths in beside.items()
        if paths
    }


class _Shown(Shown):
    """Leaves out what a recipe leaves to its defaults."""

    def __init__(self, recipe: Recipe) -> None:
        self._origins = recipe.facts.origins

    def model(self, model: BaseModel, path: str) -> Json:
        """The settings or arguments of a model that were written."""
        return dict(self._written(model, path))

    def _written(self, model: BaseModel, path: str) -> Iterator[tuple[str, Json]]:
        fields = {info.alias or name: name for name, info in type(model).model_fields.items()}
        opened = getattr(model, "open_arguments", None)
        for name, (info, form) in fields_of(type(model)).items():
            value = getattr(model, fields[name])
            below = path if name == opened else f"{path}.{name}"
            if name in TAGS or not self._is_left(info, value, below):
                yield name, form.json(value, self, below)

    def _is_left(self, info: FieldInfo, value: Any, path: str) -> bool:
        """Whether a value is the one that the setting has unless it is written."""
        block, _, name = path.partition(".")
        origin = self._origins.get(f"{block}.{SETTINGS}{name}") or self._origins.get(path)
        if origin is not None:
            return origin.kind == "default"
        default = info.get_default(call_default_factory=True)
        return default is not PydanticUndefined and bool(value == default)

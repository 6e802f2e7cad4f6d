"""What a block, a call or one of its settings is for: the words beside it in the code."""

import ast
import inspect
from collections.abc import Mapping
from functools import cache
from textwrap import dedent

from .kinds import Model


def description(model: type[Model], name: str | None = None) -> str:
    """What a type of block or call is for, or its setting `name`, as written; empty for nothing.

    >>> from triptych.dsl.stages import AdamW
    >>> description(AdamW, "no_decay")
    'What it is not for all the same.'
    >>> description(AdamW)
    'Adam with decoupled weight decay; `clip` bounds the norm of all gradients together.'
    """
    if name is None:
        return _joined(inspect.getdoc(model) or "")
    fields = model.model_fields.items()
    field = next((key for key, info in fields if name in (key, info.alias)), name)
    return next((found[field] for found in map(_of_settings, model.__mro__) if field in found), "")


@cache
def _of_settings(model: type) -> Mapping[str, str]:
    """The texts behind the fields that a class declares itself, by field."""
    if not issubclass(model, Model) or model is Model:
        return {}
    (made,) = ast.parse(dedent(inspect.getsource(model))).body
    assert isinstance(made, ast.ClassDef)
    found: dict[str, str] = {}
    for statement, behind in zip(made.body, made.body[1:], strict=False):
        match statement, behind:
            case ast.AnnAssign(target=ast.Name(id=name)), ast.Expr(value=ast.Constant(value=str())):
                text = behind.value.value  # type: ignore[attr-defined]
                found[name] = _joined(inspect.cleandoc(text))
    return found


def _joined(text: str) -> str:
    """The first paragraph, on one line."""
    return " ".join(text.split("\n\n")[0].split())

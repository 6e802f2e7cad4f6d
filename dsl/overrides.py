"""What `--set` lays over a recipe: settings named by their path."""

from collections.abc import Sequence
from dataclasses import replace
from typing import TypeGuard

from . import syntax
from .diagnostics import Diagnostic, Findings, Fix, Label, listing, nearest, rename
from .recipe import CALLS
from .whole import Entry, Stated, Whole


def amend_by_path(whole: Whole, setting: syntax.Setting, findings: Findings) -> None:
    """Set what a path names: a setting, `lm.width`, or an argument, `video.resize.clip`."""
    block, name, *inner = setting.name.split(".")
    part = whole.parts.get(block)
    if part is None:
        near = nearest(block, whole.parts)
        path = ".".join([near or "", name, *inner])
        findings.add(
            Diagnostic(
                "N209",
                f"`{whole.name}` has no `{block}`",
                (Label(setting.name_span),),
                fix=rename(setting.name_span, path)
                if near
                else Fix(f"it has {listing(whole.parts)}"),
            )
        )
        return
    before = part.setting(name)
    value = setting.value
    if inner:
        whole_call = before.statement.value if before and _is_setting(before.statement) else None
        changed = _with_argument(whole_call, inner, setting) if whole_call else None
        if changed is None:
            findings.add(
                Diagnostic(
                    "N209",
                    f"`{block}.{name}` is no call whose argument could be set",
                    (Label(setting.name_span),),
                    fix=Fix(f"write `{block}.{name} = ...` in full"),
                )
            )
            return
        value = changed
    plain = syntax.Setting(name, value, setting.name_span, setting.span)
    part.entries["setting", name] = Entry(plain, setting.span.source.name, False, True, before)


def _is_setting(statement: Stated) -> TypeGuard[syntax.Setting]:
    return isinstance(statement, syntax.Setting)


def _with_argument(
    value: syntax.Value, names: Sequence[str], setting: syntax.Setting
) -> syntax.Value | None:
    """A call with one argument, or an argument of that, exchanged; None when it is no call."""
    if not isinstance(value, syntax.Call):
        return None
    call = CALLS.get(value.name)
    fields = (*(call.positional if call else ()), *([None] * len(value.arguments)))
    if value.name == "assumed":
        names = ["", *names]
        fields = ("",)
    arguments = list(value.arguments)
    for number, argument in enumerate(arguments):
        if names[0] == (argument.name or fields[number]):
            inner = (
                _with_argument(argument.value, names[1:], setting) if names[1:] else setting.value
            )
            if inner is None:
                return None
            arguments[number] = replace(argument, value=inner)
            return replace(value, arguments=tuple(arguments))
    if names[1:]:
        return None
    added = syntax.Argument(names[0], setting.value, setting.name_span, setting.span)
    return replace(value, arguments=(*arguments, added))

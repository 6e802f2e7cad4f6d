"""Ways of torch that give wrong answers, or none of what they promise, are not taken."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("backends", "cli", "compiler", "blocks", "benchmarks")
    for path in (ROOT / folder).rglob("*.py")
)


def wrong_ways(source: str) -> Iterator[str]:
    """What a program takes of these.

    Gradients of `_export_forward_backward` are wrong through attention; `freezing` as an option of
    torch.compile packs nothing: it works as a setting of Inductor only.
    """
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) | ast.alias(name=name) | ast.Constant(value=name) if str(
                name
            ).endswith("_export_forward_backward"):
                yield "_export_forward_backward"
            case ast.Dict(keys=keys) if any(
                isinstance(key, ast.Constant) and key.value == "freezing" for key in keys
            ):
                yield "freezing"
            case ast.Call(func=ast.Name(id="dict"), keywords=keywords) if any(
                keyword.arg == "freezing" for keyword in keywords
            ):
                yield "freezing"


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_way_that_is_known_to_be_wrong_is_taken(path):
    assert not list(wrong_ways(path.read_text(encoding="utf-8")))


@pytest.mark.parametrize(
    ("source", "taken"),
    [
        ("from torch.export.experimental import _export_forward_backward as f", 1),
        ("torch.export.experimental._export_forward_backward(program)", 1),
        ("getattr(experimental, '_export_forward_backward')(program)", 1),
        ("torch.compile(module, options={'freezing': True})", 1),
        ("OPTIONS = {'max_autotune': True, 'freezing': on}", 1),
        ("torch.compile(module, options=dict(freezing=True))", 1),
        ("torch._inductor.config.freezing = True", 0),
        ("with config.patch(freezing=True): pass", 0),
    ],
)
def test_a_wrong_way_is_seen_however_it_is_written(source, taken):
    assert len(list(wrong_ways(source))) == taken

"""Ways of torch that give wrong answers, or none of what they promise, are not taken."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(
    path
    for folder in ("backends", "cli", "compiler", "blocks")
    for path in (ROOT / folder).rglob("*.py")
)


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_way_that_is_known_to_be_wrong_is_taken(path):
    """Gradients of `_export_forward_backward` are wrong through attention; `freezing` as an option
    of torch.compile packs nothing: it works as a setting of Inductor only."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute | ast.alias):
            name = node.attr if isinstance(node, ast.Attribute) else node.name
            assert not name.endswith("_export_forward_backward")
        if isinstance(node, ast.Dict):
            keys = [key.value for key in node.keys if isinstance(key, ast.Constant)]
            assert "freezing" not in keys

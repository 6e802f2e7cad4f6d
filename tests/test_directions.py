"""Imports run one way, as docs/architecture.md draws them."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("dsl", "compiler", "blocks", "recipes", "backends", "cli")

# What a file may import of ours, by folder; the longest prefix that matches the file decides.
MAY_IMPORT = {
    "dsl": ["dsl"],
    "blocks": ["blocks"],
    "recipes": ["recipes"],
    # The compiler counts tokens and calls by the rules that are run, pure Python ones. And it
    # asks the same vocabularies; and what few bits take.
    "compiler": [
        "compiler",
        "dsl",
        "recipes",
        "blocks.input.calls",
        "blocks.input.sizes",
        "blocks.input.layout",
        "blocks.input.writing",
        "blocks.storage",
    ],
    "compiler/lower.py": ["compiler", "dsl", "blocks"],
    "backends": ["backends", "compiler", "dsl", "blocks"],
    # What runs inside an artefact stands on the blocks alone.
    "backends/artefact.py": ["backends", "blocks"],
    "backends/generation.py": ["backends", "blocks"],
    # A question on the command line is made of turns and attachments: the host side of the blocks.
    "cli": ["cli", "backends", "compiler", "dsl", "recipes", "blocks.input"],
}
# dsl finds the recipes that ship by name.
MAY_IMPORT["dsl/files.py"] = ["dsl", "recipes"]
RULES_OF_INPUT = ("calls", "sizes", "layout", "tokenizer", "writing")
NO_TORCH = [
    "dsl",
    "recipes",
    "compiler",
    "blocks/storage.py",
    *(f"blocks/input/{name}.py" for name in RULES_OF_INPUT),
]
TORCH_ALLOWED = ["compiler/lower.py"]


def files():
    return [
        path.relative_to(ROOT)
        for folder in FOLDERS
        for path in sorted((ROOT / folder).rglob("*.py"))
    ]


def imports(path: Path):
    """(absolute module below triptych or third-party name, is it at module level)."""
    tree = ast.parse((ROOT / path).read_text(encoding="utf-8"))
    top = set(ast.iter_child_nodes(tree))
    package = path.parent.parts
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom):
            if node.level:
                base = list(package[: len(package) - node.level + 1])
                target = [*base, *(node.module.split(".") if node.module else [])]
                for alias in node.names:
                    yield "ours", ".".join([*target, alias.name]), node in top
            else:
                yield "third", node.module or "", node in top
        elif isinstance(node, ast.Import):
            for alias in node.names:
                yield "third", alias.name, node in top


def rule(path: Path, table):
    keys = [key for key in table if str(path) == key or str(path).startswith(key + "/")]
    return table[max(keys, key=len)]


@pytest.mark.parametrize("path", files(), ids=str)
def test_imports_run_one_way(path):
    allowed = rule(path, MAY_IMPORT)
    for kind, module, _ in imports(path):
        if kind == "ours":
            assert any(module == a or module.startswith(a + ".") for a in allowed), module
        else:
            assert module.split(".")[0] != "triptych", (
                f"{module}: inside the package, import relatively"
            )


@pytest.mark.parametrize("path", files(), ids=str)
def test_the_front_end_knows_no_torch(path):
    light = any(str(path) == key or str(path).startswith(key + "/") for key in NO_TORCH)
    if not light or str(path) in TORCH_ALLOWED:
        return
    assert not [m for kind, m, _ in imports(path) if kind == "third" and m.split(".")[0] == "torch"]


@pytest.mark.parametrize("path", [p for p in files() if p.parts[0] == "cli"], ids=str)
def test_commands_import_torch_inside_functions_only(path):
    heavy = ("torch", "matplotlib", "safetensors.torch")
    for kind, module, top in imports(path):
        if top and kind == "third":
            assert not module.startswith(heavy), module
        if top and kind == "ours":
            light = module in ("backends.BACKENDS", "backends.able")
            assert light or not module.startswith(("backends", "compiler.lower")), module

"""What is in the tree is in the wheel, and nothing else."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
CONFIG = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
PACKAGES = CONFIG["tool"]["setuptools"]["packages"]
OURS = ("dsl", "compiler", "blocks", "recipes", "backends", "cli")


def test_every_package_is_listed():
    found = {"triptych"} | {
        "triptych." + ".".join(path.parent.relative_to(ROOT).parts)
        for folder in OURS
        for path in (ROOT / folder).rglob("__init__.py")
    }
    assert found == set(PACKAGES)


def test_every_folder_with_code_is_a_package():
    for folder in OURS:
        for path in (ROOT / folder).rglob("*.py"):
            assert (path.parent / "__init__.py").exists(), path.parent


def test_only_the_face_lies_at_the_root():
    assert {path.name for path in ROOT.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    out = tmp_path_factory.mktemp("wheel")
    tree = tmp_path_factory.mktemp("tree") / "triptych"
    # A copy of what git tracks or would track, so that build/ never appears in the checkout.
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split("\n")
    for name in filter(None, listed):
        if (ROOT / name).is_file():
            target = tree / name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes((ROOT / name).read_bytes())
    command = [sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "--no-build-isolation"]
    subprocess.run([*command, "-w", str(out), str(tree)], check=True, capture_output=True)
    (path,) = out.glob("*.whl")
    return set(zipfile.ZipFile(path).namelist())


def test_the_wheel_holds_code_grammar_recipes_and_pictures(wheel):
    for folder in OURS:
        for path in (ROOT / folder).rglob("*"):
            if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts:
                assert f"triptych/{path.relative_to(ROOT)}" in wheel, path.name
    assert "triptych/py.typed" in wheel


def test_the_wheel_holds_nothing_of_tests_or_benchmarks(wheel):
    assert not [name for name in wheel if name.startswith(("triptych/tests", "triptych/bench"))]
    tops = {name.split("/")[0] for name in wheel}
    assert tops == {"triptych", *(top for top in tops if top.endswith(".dist-info"))}

"""An artefact runs in a folder of its own, in an environment that holds only what it needs.

The environment is a folder of links to the packages of requirements-run.txt, and nothing else: no
site-packages, no language, no compiler of ours, and no C++ compiler on the path. The same in a
virtual environment that pip fills: `make fresh`.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import asked, picture

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("__init__.py", "backends", "blocks", "cli")
"""What is there of triptych itself."""
MUST_FAIL = ("lark", "networkx", "sympy", "jinja2", "triptych.dsl", "triptych.compiler")
RUN = """
import importlib, sys
sys.path.insert(0, {site!r})
for name in {missing!r}:
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        continue
    sys.exit(f"{{name}} is there")
from triptych.cli.main import main
sys.argv = ["triptych", *{arguments!r}]
main()
"""


def required():
    """The distributions that requirements-run.txt names."""
    lines = (ROOT / "requirements-run.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The environment: what each distribution put into site-packages, by links."""
    folder = tmp_path_factory.mktemp("site")
    for name in [*required(), "triptych"]:
        distribution = importlib.metadata.distribution(name)
        tops = {Path(file).parts[0] for file in distribution.files or ()}
        for top in tops - {"..", "__pycache__"}:
            if not re.match(r"__editable__|.*\.pth$", top) and not (folder / top).exists():
                (folder / top).symlink_to(Path(str(distribution.locate_file(top))))
    (folder / "triptych").mkdir()
    for part in PARTS:
        (folder / "triptych" / part).symlink_to(ROOT / part)
    return folder


def alone(site, folder, *arguments):
    """The command in the environment, where no program is on the path."""
    code = RUN.format(site=str(site), missing=MUST_FAIL, arguments=arguments)
    return subprocess.run(
        [sys.executable, "-I", "-S", "-c", code],
        cwd=folder,
        env={"PATH": "", "HOME": str(folder), "LANG": os.environ.get("LANG", "C.UTF-8")},
        capture_output=True,
        text=True,
        check=False,
    )


def test_an_artefact_answers(artefact, site, tmp_path):
    shutil.copytree(artefact.folder, tmp_path / "elsewhere")
    picture(90, 60).save(tmp_path / "a.png")
    question = ("--image", "a.png", "--prompt", "what?", "--max-new", "6", "--json")
    done = alone(site, tmp_path, "run", "elsewhere", *question)
    assert done.returncode == 0, done.stderr
    (answer,) = artefact.session().batch([asked(picture(90, 60), "what?")], new=6)
    assert tuple(json.loads(done.stdout)["tokens"]) == answer.tokens


def test_an_artefact_is_inspected(artefact, site, tmp_path):
    done = alone(site, tmp_path, "inspect", str(artefact.folder))
    assert done.returncode == 0, done.stderr
    assert "can run" in done.stdout


def test_what_needs_the_language_says_so_where_it_is_not_installed():
    """As in such an environment that pip filled, where the files of the language are there."""
    code = (
        "import sys\n"
        "sys.modules['lark'] = None\n"
        "from triptych.cli.main import main\n"
        "sys.argv = ['triptych', 'check', 'qwen2_vl_2b']\n"
        "main()"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2
    said = "error: lark is not installed here, and this command needs it: pip install triptych\n"
    assert done.stderr == said

"""What answers in a blink starts without torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

HEAVY = ("torch", "numpy", "scipy", "matplotlib", "tokenizers", "PIL", "av")


@pytest.mark.parametrize(
    ("argv", "status"),
    [
        (["--help"], 0),
        (["list"], 0),
        (["lsp", "--help"], 0),
        (["check", "qwen2_vl_2b", "--format", "sarif"], 0),
        (["why", "qwen2_vl_72b", "vit.tokens"], 0),
        (["assumed", "qwen2_vl_72b"], 0),
        (["check", "qwen2_vl_72b"], 0),
        (["plan", "qwen2_vl_72b"], 0),
        (["show", "qwen2_vl_2b", "--ir"], 0),
        (["show", "qwen2_vl_2b", "--json"], 0),
        (["schema"], 0),
        (["new", "qwen2_vl_2b", "--encoder", "no"], 2),
        (["tokens", "qwen2_vl_7b", "--image", "224x224"], 0),
        (["diff", "qwen2_vl_7b", "qwen2_vl_2b"], 1),
        (["explain", "S402"], 0),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_starts_without_torch(argv, status):
    without(HEAVY, argv, status)


def test_a_preview_reads_vocabularies_and_pictures_but_needs_no_torch():
    without(("torch",), ["preview", "qwen2_vl_7b"], 0)


def without(heavy, argv, status):
    code = (
        "import sys\n"
        "from triptych.cli.main import main\n"
        f"sys.argv = ['triptych', *{argv!r}]\n"
        "try:\n    main()\n"
        f"except SystemExit as leave:\n    assert leave.code == {status}, leave.code\n"
        f"heavy = sorted(set(sys.modules) & set({heavy!r}))\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]

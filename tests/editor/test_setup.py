"""What docs/editors.md says to write is well formed, and starts the command that there is."""

from __future__ import annotations

import json
import re
import tomllib
from pathlib import Path

import triptych
from triptych.cli.main import COMMANDS

PAGE = (Path(triptych.__file__).parent / "docs" / "editors.md").read_text(encoding="utf-8")
BLOCKS = dict(re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.M | re.S))


def test_every_editor_starts_the_server():
    assert "lsp" in COMMANDS
    code = json.loads(f"{{{BLOCKS['json']}}}")
    started = [code["glspc.server.command"], *code["glspc.server.commandArguments"]]
    assert started == ["triptych", "lsp"]
    helix = tomllib.loads(BLOCKS["toml"])
    server = helix["language-server"]["triptych"]
    assert [server["command"], *server["args"]] == ["triptych", "lsp"]
    assert 'cmd = { "triptych", "lsp" }' in BLOCKS["lua"]


def test_every_editor_knows_recipes_by_their_suffix():
    (language,) = tomllib.loads(BLOCKS["toml"])["language"]
    assert language["file-types"] == ["vlm"] and language["language-servers"] == ["triptych"]
    assert 'vlm = "triptych"' in BLOCKS["lua"] and '"triptych"' in BLOCKS["json"]

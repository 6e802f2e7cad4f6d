"""Each inference mode of each published system answers, from a real picture in a file."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from triptych.cli.run import run_command

from .conftest import MODES, tiny


def asked(name, mode, backend, picture, *more):
    """The answer to a question about a picture, as data."""
    arguments = [name, "--mode", mode, "--backend", backend, "--random-weights", "0", "--json"]
    asking = ["--image", str(picture), "--max-new", "4"]
    if "user" in tiny(name).layouts[tiny(name).modes[mode].layout].rules:
        asking += ["--prompt", "What is this?"]
    done = CliRunner().invoke(run_command, [*arguments, *asking, *more])
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_a_mode_answers(name, mode, picture):
    first = asked(name, mode, "eager", picture)
    assert first == asked(name, mode, "eager", picture)
    assert len(first["tokens"]) <= 4

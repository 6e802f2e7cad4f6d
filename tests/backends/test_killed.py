"""A compilation that is killed leaves what was there before, and the next one clears up."""

from __future__ import annotations

import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from triptych.backends import packing
from triptych.backends.artefact import Artefact
from triptych.backends.manifest import MANIFEST
from triptych.backends.packing import writing

from .conftest import TINY


@pytest.mark.parametrize("before", ["nothing", "an artefact"])
def test_kill_9_in_the_middle(artefact, tmp_path, before):
    out = tmp_path / "out"
    if before == "an artefact":
        shutil.copytree(artefact.folder, out)
    command = [sys.executable, "-m", "triptych", "compile", TINY, "--backend", "aot"]
    with subprocess.Popen(
        [*command, "--out", str(out)], stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stderr
        said = next(line for line in process.stderr if "compile" in line)
        assert "vision_image" in said
        process.send_signal(signal.SIGKILL)
    assert process.returncode == -signal.SIGKILL
    (left,) = tmp_path.glob(".out.*")
    assert (left / "programs" / "vision_image.pt2").exists()
    if before == "nothing":
        assert not out.exists()
    else:
        assert Artefact(out).manifest == artefact.manifest
    with writing(out) as beside:
        assert not left.exists()
        shutil.copytree(artefact.folder, beside, dirs_exist_ok=True)
    assert Artefact(out).manifest == artefact.manifest
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_what_others_are_writing_is_left_alone(tmp_path):
    """Of another machine, whose processes are not to be seen here, and of one that still runs."""
    names = (".out.elsewhere.1", f"{packing._beside(Path('out'))}1", ".out.notes")
    for name in names:
        (tmp_path / name).mkdir()
    with writing(tmp_path / "out") as beside:
        (beside / MANIFEST).write_text("new")
    assert {path.name for path in tmp_path.iterdir()} == {"out", *names}


def test_where_names_cannot_be_exchanged_the_old_one_is_put_back(tmp_path, monkeypatch):
    """On such a file system there is a moment without either, in which a process may be killed."""
    out = tmp_path / "out"
    out.mkdir()
    (out / MANIFEST).write_text("old")
    monkeypatch.setattr(packing, "exchanged", lambda one, other: False)
    with writing(out) as beside:
        (beside / MANIFEST).write_text("new")
    assert (out / MANIFEST).read_text() == "new"
    ended = subprocess.Popen([sys.executable, "-c", ""])
    ended.wait()
    out.rename(tmp_path / f"{packing._beside(out)}{ended.pid}.old")
    with pytest.raises(ZeroDivisionError), writing(out):
        assert (out / MANIFEST).read_text() == "new"
        _ = 1 / 0
    assert (out / MANIFEST).read_text() == "new"
    assert [path.name for path in tmp_path.iterdir()] == ["out"]

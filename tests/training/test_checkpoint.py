"""A checkpoint comes back as it was written, is never half there, and is known for what it is."""

from __future__ import annotations

import json

import pytest
import torch

from triptych.backends import checkpoint
from triptych.backends.checkpoint import CheckpointError, Progress

WEIGHTS = {"vit.weight": torch.arange(6.0).view(2, 3), "lm.weight": torch.ones(2).bfloat16()}
STATE = {"lm.weight/exp_avg": torch.full((2,), 0.25), "lm.weight/step": torch.tensor(7.0)}
SETTINGS = {"lm": {"width": 64, "heads": [1, 2]}, "seed": 0}


def save(run, step=7, *, stage="sft", finished=False, weights=WEIGHTS):
    progress = Progress(stage=stage, step=step, position=70, tokens=900, finished=finished)
    return checkpoint.save(
        run,
        recipe="tiny",
        settings=SETTINGS,
        progress=progress,
        weights=weights,
        optimizer=STATE,
    )


def test_comes_back_as_it_was_written(tmp_path):
    written = save(tmp_path)
    (found,) = checkpoint.checkpoints(tmp_path)
    assert found.manifest == written.manifest
    assert found.progress.position == 70
    for tensors, expected in ((found.weights(), WEIGHTS), (found.optimizer(), STATE)):
        assert tensors.keys() == expected.keys()
        assert all(torch.equal(tensors[name], expected[name]) for name in expected)
    assert found.weights()["lm.weight"].dtype == torch.bfloat16


def test_restores_the_random_state(tmp_path):
    torch.manual_seed(3)
    written = save(tmp_path)
    expected = torch.rand(4)
    torch.manual_seed(4)
    written.restore_random()
    assert torch.equal(torch.rand(4), expected)


def test_equal_weights_give_equal_files(tmp_path):
    first, second = save(tmp_path / "a"), save(tmp_path / "b")
    assert first.manifest.files == second.manifest.files


def test_a_folder_without_a_manifest_is_no_checkpoint(tmp_path):
    save(tmp_path, 7)
    torn = save(tmp_path, 8)
    (torn.folder / "manifest.json").unlink()
    beside = tmp_path / "checkpoints" / ".sft-00000009.123"
    beside.mkdir()
    (beside / "manifest.json").write_text("{")
    assert [one.progress.step for one in checkpoint.checkpoints(tmp_path)] == [7]


def test_a_write_that_fails_leaves_the_old_checkpoint(tmp_path, monkeypatch):
    save(tmp_path, 7)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint, "save_file", full)
    with pytest.raises(OSError, match="No space"):
        save(tmp_path, 7)
    assert all(path.read_bytes() == content for path, content in before.items())
    assert len(checkpoint.checkpoints(tmp_path)) == 1


def test_altered_weights_are_refused(tmp_path):
    written = save(tmp_path)
    file = written.folder / "weights.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match="not the file that its manifest describes"):
        written.weights()


def test_an_unreadable_manifest_is_named(tmp_path):
    written = save(tmp_path)
    file = written.folder / "manifest.json"
    values = json.loads(file.read_text())
    file.write_text(json.dumps({**values, "format": 2}))
    with pytest.raises(CheckpointError, match=r"manifest\.json: format"):
        checkpoint.read(written.folder)


def test_keeps_the_last_ones_and_each_end_of_a_stage(tmp_path):
    save(tmp_path, 10, stage="vision")
    save(tmp_path, 20, stage="vision", finished=True)
    for step in (5, 10, 15):
        save(tmp_path, step)
    (tmp_path / "checkpoints" / ".sft-00000020.123").mkdir()
    checkpoint.prune(tmp_path, keep=2)
    left = [(one.progress.stage, one.progress.step) for one in checkpoint.checkpoints(tmp_path)]
    assert left == [("vision", 20), ("sft", 10), ("sft", 15)]
    assert len(list((tmp_path / "checkpoints").iterdir())) == 3


def test_says_what_changed():
    after = {"lm": {"width": 96, "heads": [1, 2]}, "seed": 0, "batch": 4}
    assert checkpoint.changes(SETTINGS, after) == ["lm.width: 64 -> 96", "batch: absent -> 4"]
    assert checkpoint.changes(SETTINGS, SETTINGS) == []
    assert checkpoint.digest(SETTINGS) == checkpoint.digest(dict(reversed(SETTINGS.items())))

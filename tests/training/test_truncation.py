"""A stage cuts long samples off as it says, never through a picture, and says which it refused."""

from __future__ import annotations

import json

import numpy as np
import pytest

from triptych.backends.data import open_source
from triptych.backends.samples import Samples
from triptych.backends.training import completed
from triptych.blocks.input.truncation import CutError
from triptych.compiler.pipeline import for_training
from triptych.dsl.load import load_recipe

from .eager import train

PICTURE = {"type": "image", "image": "0.png"}


def said(role, *content):
    parts = [part if isinstance(part, dict) else {"type": "text", "text": part} for part in content]
    return {"role": role, "content": parts}


def dialogue(*turns):
    roles = ("user", "assistant")
    messages = [said(roles[i % 2], *turn) for i, turn in enumerate(turns)]
    return {"messages": messages}


SHORT = dialogue([PICTURE, "Which colour?"], ["red"])
LONG = dialogue([PICTURE, "Which colour?"], ["a red disc " * 30])
LONG_QUESTION = dialogue([PICTURE, "Which colour? " * 30], ["red"])
LATE_PICTURE = dialogue(["Which colour? " * 4], ["a red disc " * 12], [PICTURE, "And?"], ["red"])


@pytest.fixture
def chats(folder, tmp_path):
    """A file with these dialogues, the pictures beside it."""

    def write(*records):
        (tmp_path / "0.png").write_bytes((folder / "0.png").read_bytes())
        file = tmp_path / "chat.jsonl"
        file.write_text("\n".join(map(json.dumps, records)) + "\n")
        return file

    return write


def cut_at(folder, most):
    amend = ["sft.batch = 2seq", "sft.stop = 2steps"]
    if most:
        amend.append(f"sft.truncate = {most}tok")
    recipe = load_recipe(str(folder / "tiny.vlm"), amend=amend)
    return recipe, Samples(for_training(recipe, "sft").spec, recipe.stages["sft"], folder)


def test_text_is_cut_on_the_right(folder, chats):
    file = open_source(chats(LONG, SHORT))
    _, whole = cut_at(folder, None)
    with pytest.raises(ValueError, match="more than the context of 128"):
        whole.prepare(file.read(0))
    _, samples = cut_at(folder, 64)
    cut = samples.prepare(file.read(0))
    assert cut.length == 64
    assert cut.supervised[-1]
    _, longer = cut_at(folder, 100)
    kept = longer.prepare(file.read(0))
    assert np.array_equal(kept.ids[:64], cut.ids)
    assert np.array_equal(kept.supervised[:64], cut.supervised)
    assert np.array_equal(samples.prepare(file.read(1)).ids, whole.prepare(file.read(1)).ids), (
        "a short sample stays as it is"
    )


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        (LATE_PICTURE, "the places of a picture or clip reach to"),
        (LONG_QUESTION, "all that is learnt stands behind that"),
    ],
)
def test_what_cannot_be_cut_is_refused(folder, chats, record, reason):
    file = open_source(chats(record))
    _, samples = cut_at(folder, 64)
    with pytest.raises(CutError, match=reason):
        samples.prepare(file.read(0))


def test_no_cut_leaves_part_of_a_picture(folder, chats):
    """Every length: the sample is refused, or all of its places are there."""
    file = open_source(chats(LATE_PICTURE))
    _, whole = cut_at(folder, 128)
    places = whole.prepare(file.read(0)).ids == 5
    last = int(np.flatnonzero(places)[-1])
    for most in range(8, 128):
        _, samples = cut_at(folder, most)
        try:
            sample = samples.prepare(file.read(0))
        except CutError:
            assert most <= last
        else:
            assert most > last
            assert (sample.ids == 5).sum() == places.sum()


def test_a_run_trains_on_what_was_cut_and_names_what_was_refused(folder, chats, tmp_path):
    file = chats(SHORT, LONG, LATE_PICTURE, SHORT, LONG)
    recipe = load_recipe(
        str(folder / "tiny.vlm"),
        amend=[
            "sft.batch = 2seq",
            "sft.stop = 2epochs",
            "sft.truncate = 64tok",
            "sft.pack = 64tok",
        ],
    )
    start = for_training(recipe, "sft")
    result = train(
        recipe,
        [f"chat={file}"],
        tmp_path / "out",
        stages=["sft"],
        weights=completed({}, start, seed=0),
    )
    assert [(one.index, one.file) for one in result.bad] == [(2, "chat.jsonl")]
    assert "reach to" in result.bad[0].reason

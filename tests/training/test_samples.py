"""A sample is what its stage makes of an example: by its kind, and by what is drawn for it."""

from __future__ import annotations

from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

from triptych.backends.data import Mixture, open_source
from triptych.backends.feed import Feed
from triptych.backends.samples import Samples
from triptych.compiler.pipeline import for_training
from triptych.dsl.load import load_recipe


def made(folder, stage, *amend):
    """The samples of a stage, and the first picture with its caption."""
    recipe = load_recipe(str(folder / "varied.vlm"), amend=amend)
    spec = for_training(recipe, stage).spec
    example = open_source(folder / "pictures.json").read(0)
    return Samples(spec, recipe.stages[stage], folder, seed=f"0/{stage}"), example


def test_a_kind_takes_its_own_layouts(folder):
    samples, example = made(folder, "joint")
    assert samples.window == 3
    caption, chat = (samples.prepare(replace(example, kind=kind)) for kind in ("pictures", "chat"))
    # The turns of a dialogue take more tokens than a picture with its caption.
    assert caption.length < chat.length
    assert caption.targets == chat.targets


def test_rows_hold_one_kind_where_the_stage_says_so(folder):
    shapes = []
    for by_kind in ("true", "false"):
        samples, example = made(
            folder,
            "joint",
            "joint.pack = 128tok",
            f"joint.pack_by_kind = {by_kind}",
            "joint.accumulate = 1",
        )
        kinds = ("pictures", "chat", "pictures", "chat")
        prepared = [samples.prepare(replace(example, kind=kind)) for kind in kinds]
        (shard,) = samples.collate(prepared)
        shapes.append(len(shard["text.tokens"]))
    assert shapes == [2, 1]


def test_an_augmentation_follows_the_position(folder):
    samples, example = made(folder, "vision")
    assert samples.varies

    def pixels(position):
        (seen,) = samples.prepare(replace(example, position=position)).media
        return seen.frames

    assert np.array_equal(pixels(3), pixels(3))
    others = [pixels(position) for position in range(4, 12)]
    assert any(one.shape != pixels(3).shape or (one != pixels(3)).any() for one in others)


def test_an_epoch_draws_anew(folder):
    """What is kept in memory for the next epoch is no picture that chance has changed."""
    samples, _ = made(folder, "vision")
    mixture = Mixture({"pictures": open_source(folder / "pictures.json")}, {"pictures": 1})
    seen = []

    def prepare(example):
        seen.append(example.position)
        return samples.prepare(example)

    feed = Feed(mixture, prepare, samples.collate, batch=8, window=samples.window)
    list(islice(feed.batches(0), 6))
    assert seen == list(range(48))


def test_a_random_crop_refuses_boxes(folder):
    samples, example = made(folder, "vision", "vision.loss = [lm, words]")
    with pytest.raises(ValueError, match="random crop"):
        samples.prepare(example)
    plain, example = made(folder, "vision", "vision.loss = [lm, words]", "vision.augment = []")
    assert not plain.varies
    assert len(plain.prepare(example).regions) == 1

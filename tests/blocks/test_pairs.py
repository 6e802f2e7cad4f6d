"""What objectives that compare pictures with texts are fed of a batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from triptych.blocks.input.pairs import Pairs
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Attachment
from triptych.compiler.pipeline import for_training
from triptych.dsl.load import load_recipe

TEXTS = ("a frog", "", "two boats", "a bowl of rice", "a red fox")
GROUPS = (0, 1, 2, 2, 3)
"""The third and the fourth show one picture."""


def fed(stage, *amended, seed=0):
    program = for_training(load_recipe("internvl_14b_tiny", amend=amended), stage)
    pairs = Pairs(Processor(program.spec), program.spec["pairs"])
    picture = Attachment("image", Image.new("RGB", (20, 30), (9, 9, 9)))
    made = [pairs.pair(picture, text, group) for text, group in zip(TEXTS, GROUPS, strict=True)]
    return pairs.batch(made, np.random.default_rng(seed)), made


def test_a_text_without_content_is_an_answer_and_is_not_scored():
    given, _ = fed("generative")
    assert given["itc.weight"].tolist() == pytest.approx([0.25, 0, 0.25, 0.25, 0.25])
    assert given["itc.group"].tolist() == [0, 1, 2, 3, 4]


def test_every_text_of_a_picture_may_be_right():
    given, _ = fed("retrieval")
    one, other = given["itc_both.group"][2:4]
    assert one == other
    assert len(given["itc_both.group"].unique()) == 4


@pytest.mark.parametrize("seed", range(5))
def test_half_of_the_pictures_stand_beside_a_text_of_another(seed):
    given, made = fed("generative", seed=seed)
    assert given["itm.target"].tolist() == [0, 0, 0, 1, 1]
    assert given["itm.picture"].tolist() == [0, 1, 2, 3, 4]
    for row, (target, last) in enumerate(zip(given["itm.target"], given["itm.last"], strict=True)):
        ids = given["itm.tokens"][row, : last + 1].tolist()
        owners = [pair.group for pair in made if pair.texts["plain"].ids.tolist() == ids]
        assert (GROUPS[row] in owners) == bool(target)


def test_all_pictures_stand_beside_both():
    given, _ = fed("retrieval")
    assert given["itm_both.target"].tolist() == [0] * 5 + [1] * 5
    assert given["itm_both.picture"].tolist() == [0, 1, 2, 3, 4] * 2
    weight = given["itm_both.weight"]
    assert weight[6] == 0
    assert weight.sum() == pytest.approx(1)


def test_the_model_draws_what_is_hard_itself():
    given, _ = fed("generative", "itm.negatives = hard(itc)")
    assert given["itm.target"].tolist() == [1] * 5 + [0] * 10
    assert len(given["itm.tokens"]) == 5


def test_a_caption_is_scored_from_the_last_token_of_its_prefix_on():
    given, made = fed("generative")
    ids = made[0].texts["english"]
    scored = [int(number) for number in ids.ids[ids.supervised]]
    assert given["itg.targets"][: len(scored)].tolist() == scored
    flat = given["itg.tokens"].flatten()
    assert torch.equal(flat[given["itg.index"] + 1], given["itg.targets"])


def test_the_same_seed_draws_the_same():
    one, other = (fed("retrieval", seed=7)[0]["itm_both.tokens"] for _ in range(2))
    assert torch.equal(one, other)

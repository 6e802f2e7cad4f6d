"""The demo's data set: what is drawn, what is said of it, and what is kept from training."""

import hashlib
import json
import random
from itertools import product

import pytest
from PIL import Image
from tokenizers import Tokenizer

from triptych.cli.scenes import (
    ABOVE,
    BESIDE,
    CELLS,
    DRAWN,
    EMPTY,
    HANDS,
    HELD_OUT,
    KNOWN,
    NEW,
    NOUNS,
    RELATIONS,
    SIDE,
    SPECIALS,
    STATEMENTS,
    UNSEEN,
    UNSEEN_HAND,
    Counts,
    Statement,
    draw,
    tell,
    tell_scenes,
    write_data_set,
    write_scenes,
)
from triptych.dsl.load import load_recipe

COUNTS = Counts(told=60, drawn=40, tests=12)


@pytest.fixture(scope="module")
def data_set(tmp_path_factory):
    out = tmp_path_factory.mktemp("scenes")
    assert write_data_set(out, COUNTS)
    return out


def records(folder, name):
    return json.loads((folder / f"{name}.json").read_text())


def said(record):
    return record["conversations"][-1]["value"]


def test_pixels_are_the_same_on_every_machine():
    scene, boxes = draw(Statement("frog", BESIDE, "guitar"), HANDS, random.Random("0"))
    assert boxes == ((1, 18, 44, 61), (51, 31, 89, 69))
    assert hashlib.sha256(scene.tobytes()).hexdigest() == (
        "aabb644e981217bd1b7fee3c26abc033a4d5c4e52e316d4834e54343e2856d7b"
    )


@pytest.mark.parametrize("statement", random.Random(1).sample(STATEMENTS, 60), ids=str)
def test_the_first_thing_stands_further_left_or_up(statement):
    _, (first, second) = draw(statement, HANDS, random.Random(str(statement)))
    axis = 0 if statement.relation == BESIDE else 1
    assert first[axis + 2] <= SIDE // 2 <= second[axis]
    other = 1 - axis
    assert abs(first[other] - second[other]) < second[axis] - first[axis], "the relation is clear"
    for box in (first, second):
        assert min(box) >= 0 and max(box) <= SIDE


@pytest.mark.parametrize("statement", random.Random(2).sample(STATEMENTS, 60), ids=str)
def test_a_told_scene_has_the_order_of_the_statement(statement):
    words = tell(statement, random.Random(str(statement))).split()
    cells = {word: divmod(place, CELLS) for place, word in enumerate(words) if word != EMPTY}
    assert len(words) == CELLS**2 and set(cells) == set(statement.nouns)
    axis = 1 if statement.relation == BESIDE else 0
    first, second = cells[statement.first], cells[statement.second]
    other = 1 - axis
    assert second[axis] - first[axis] > abs(second[other] - first[other]), "the relation is clear"


def test_training_never_meets_what_is_kept_for_testing(data_set):
    kept = {str(statement) for statement in NEW}
    trained = [said(one) for name in ("drawn", "told") for one in records(data_set, name)]
    assert not kept & set(trained)
    assert {said(one) for one in records(data_set, "held_out")} <= kept
    assert HELD_OUT.hands == DRAWN.hands and UNSEEN.hands == (UNSEEN_HAND,)
    assert UNSEEN_HAND not in HANDS


def test_a_tenth_is_kept_and_every_thing_is_trained_in_every_place():
    assert len(NEW) + len(KNOWN) == len(STATEMENTS) == len(NOUNS) * (len(NOUNS) - 1) * 2
    assert 0.07 < len(NEW) / len(STATEMENTS) < 0.13
    places = {
        (noun, statement.relation, place)
        for statement in KNOWN
        for place, noun in enumerate(statement.nouns)
    }
    assert places == set(product(NOUNS, RELATIONS, (0, 1)))
    assert RELATIONS == (BESIDE, ABOVE)


def test_records_name_pictures_questions_and_boxes(data_set):
    for name, count in (("drawn", COUNTS.drawn), ("held_out", COUNTS.tests)):
        found = records(data_set, name)
        assert len(found) == count
        for one in found:
            with Image.open(data_set / one["image"]) as picture:
                assert picture.size == (SIDE, SIDE) and picture.mode == "RGB"
            question, answer = one["conversations"]
            assert question == {"from": "human", "value": "<image>\nDescribe the picture."}
            labels = [region["label"] for region in one["regions"]]
            assert answer["value"].startswith(labels[0]) and answer["value"].endswith(
                f"{labels[1]}."
            )


def test_parts_drawn_apart_are_the_whole(tmp_path):
    whole = write_scenes(tmp_path / "whole", DRAWN, 3, range(6))
    parts = [
        one
        for numbers in (range(4), range(4, 6))
        for one in write_scenes(tmp_path / "parts", DRAWN, 3, numbers)
    ]
    assert whole == parts
    for one in whole:
        assert (tmp_path / "whole" / one["image"]).read_bytes() == (
            tmp_path / "parts" / one["image"]
        ).read_bytes()


def test_another_seed_draws_others():
    assert tell_scenes(8, 0) != tell_scenes(8, 1)


def test_what_is_there_is_left_alone_and_other_settings_draw_anew(tmp_path):
    few = Counts(told=3, drawn=3, tests=2)
    assert write_data_set(tmp_path, few)
    assert not write_data_set(tmp_path, few)
    assert write_data_set(tmp_path, Counts(told=3, drawn=2, tests=2))
    assert len(records(tmp_path, "drawn")) == 2
    assert len(list(tmp_path.glob("drawn/*/*.png"))) == 2


def test_each_thing_is_one_token_and_the_special_ones_are_the_recipes(data_set):
    tokenizer = Tokenizer.from_file(str(data_set / "tokenizer.json"))
    assert all(len(tokenizer.encode(f" {noun}").ids) == 1 for noun in NOUNS)
    recipe = load_recipe("scenes")
    assert recipe.tokens and recipe.lm
    specials = {special.text: special.id for special in recipe.tokens.specials.values()}
    assert specials == {text: id for id, text in enumerate(SPECIALS)}
    assert tokenizer.get_vocab_size() <= recipe.lm.vocab


def test_the_control_is_shown_as_many_pictures_as_all_stages():
    shown = {
        name: sum(
            stage.stop.value * stage.batch
            for stage in load_recipe(name).stages.values()
            if "drawn" in stage.data.shares
        )
        for name in ("scenes", "scenes_unstaged")
    }
    assert shown["scenes"] == shown["scenes_unstaged"]

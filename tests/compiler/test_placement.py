"""Which sharding fits: the formulas of docs/plan.md, and the largest micro-batch."""

from __future__ import annotations

import json

import pytest

from triptych.compiler.costs import module
from triptych.compiler.costs.kernels import linear
from triptych.compiler.costs.tape import Tape
from triptych.compiler.memory import held, training_step
from triptych.compiler.outlay import Asked, TooLongError, outlay, sample_of
from triptych.compiler.pipeline import for_training
from triptych.compiler.placement import KINDS, Placer, Sharding, layer_of
from triptych.compiler.plan import plan
from triptych.compiler.workload import shapes_of
from triptych.dsl.load import load_recipe

GIB = 2**30


@pytest.fixture(scope="module")
def placer():
    recipe = load_recipe("qwen2_vl_2b")
    stage = recipe.stages["joint"]
    sample, _ = sample_of(recipe, "joint", stage, Asked())
    program, planned = for_training(recipe, "joint"), plan(recipe)["joint"]
    return Placer(program, planned, lambda rows: shapes_of(recipe, stage, sample, rows), 64)


def test_data_parallel_holds_everything(placer):
    have = placer.held
    count = 2_208_985_600
    assert have.weights == 2 * count
    assert have.masters == have.sums == 4 * count
    assert 8 * count < have.moments < 8 * count + 4096
    step = placer.need(Sharding("data parallel", 8), 1) - have.total
    assert step > 2 * count, "at the end of a step, all gradients are there"


def test_sharding_divides_what_it_says(placer):
    have = placer.held
    whole, states, gradients, weights = (placer.need(Sharding(kind, 8), 1) for kind in KINDS)
    assert whole - states == pytest.approx((have.masters + have.moments) * 7 / 8, abs=1)
    # What is handed on at once is not there at the end of a step.
    assert states - gradients >= have.sums * 7 // 8
    assert gradients - weights <= have.weights * 7 / 8
    half = placer.need(Sharding("ZeRO-3", 4, 2), 1)
    assert half < placer.need(Sharding("ZeRO-3", 4), 1)


def test_the_largest_micro_batch_fits_and_one_more_does_not(placer):
    found = placer.place(1, 80 * GIB)
    assert found.sharding == Sharding("data parallel", 1)
    assert found.need == placer.need(found.sharding, found.rows) <= 80 * GIB
    assert placer.need(found.sharding, found.rows + 1) > 80 * GIB


def test_the_simplest_that_fits_is_taken(placer):
    kinds = [placer.place(8, memory * GIB).sharding.kind for memory in (80, 30, 20, 12)]
    assert kinds == sorted(kinds, key=KINDS.index)
    assert len(set(kinds)) > 2


def test_what_does_not_fit_says_how_much_it_needs(placer):
    found = placer.place(2, GIB)
    assert not found.fits
    assert found.need > GIB
    assert placer.place(2, found.need).fits


def test_pairs_are_not_cut():
    recipe = load_recipe("internvl_14b_tiny")
    found = outlay(recipe, plan(recipe), Asked(devices=2, memory=GIB)).stages[0]
    assert found.micro == found.rows
    assert found.placement and found.placement.rows == found.rows // 2


def test_a_sample_without_room_is_refused():
    recipe = load_recipe("minigpt4_tiny")
    with pytest.raises(TooLongError, match="has room for 512 tokens"):
        outlay(recipe, plan(recipe), Asked(text=4096))


def test_recomputed_blocks_keep_their_inputs():
    recipe = load_recipe("qwen2_vl_2b")
    stage, planned = recipe.stages["joint"], plan(recipe)["joint"]
    sample, _ = sample_of(recipe, "joint", stage, Asked())
    program, shapes = for_training(recipe, "joint"), shapes_of(recipe, stage, sample, 4)
    kept = training_step(program, planned, shapes, keep=False)
    again = training_step(program, planned, shapes, keep=False, again=frozenset(program.parameters))
    assert again.peak < kept.peak / 2
    forward, twice = kept.flops["lm", "forward"], again.flops["lm", "again"]
    assert again.flops["lm", "forward"] == forward
    # The last product of a block is not needed again, and what is outside of blocks runs once.
    assert 0.6 * forward < twice < forward


def test_memory_comes_back_when_nothing_holds_it():
    tape = Tape()
    x, weight = tape.new((8, 16), 4), tape.leaf("weight", tape.new((32, 16), 4))
    before = tape.live
    tape.recording = True
    made = linear(x, weight, None)
    assert tape.live - before == 8 * 32 * 4
    assert tape.flops["", "forward"] == 2 * 8 * 16 * 32
    del made
    assert tape.live == before


def test_layers_are_blocks_or_whole_modules():
    assert layer_of("lm.blocks.3.mlp.up.weight") == "lm.blocks.3"
    assert layer_of("lm.embed.weight") == "lm.embed"


def test_a_plan_on_eight_gpus_as_data(golden):
    recipe = load_recipe("qwen2_vl_7b")
    found = outlay(recipe, plan(recipe), Asked(devices=8, memory=80 * GIB))
    golden.check("plan/qwen2_vl_7b_costs.json", json.dumps(found.to_json(), indent=2))


def test_what_is_held_follows_the_precision():
    recipe = load_recipe("qwen2_vl_tiny", amend=["joint.precision = f32"])
    have = held(for_training(recipe, "joint"), plan(recipe)["joint"])
    assert have.masters == have.beside == 0
    assert have.sums == have.weights


@pytest.mark.parametrize("recompute", [False, True])
@pytest.mark.parametrize(
    ("name", "stage"),
    [("qwen2_vl_2b", "vision"), ("internvl_14b", "retrieval"), ("deepseek_vl_1_3b", "joint")],
)
def test_blocks_that_stand_for_equal_ones_change_nothing(name, stage, recompute, monkeypatch):
    recipe = load_recipe(name)
    settings, planned = recipe.stages[stage], plan(recipe)[stage]
    sample, _ = sample_of(recipe, stage, settings, Asked())
    program, shapes = for_training(recipe, stage), shapes_of(recipe, settings, sample, 2)
    again = frozenset(program.parameters) if recompute else None
    folded = training_step(program, planned, shapes, again=again)
    monkeypatch.setattr(module, "_repeated", lambda kinds: (1, 1))
    assert training_step(program, planned, shapes, again=again) == folded

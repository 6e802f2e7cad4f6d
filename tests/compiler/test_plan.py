"""Plans say exactly what each stage trains, at which rate, and what it hands on."""

from __future__ import annotations

import json

import pytest

from triptych.compiler.coverage import coverage
from triptych.compiler.plan import by_part, count, plan
from triptych.dsl.assumed import assumed
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe

TOWER_AND_MERGER, LM = 675_759_104, 7_615_616_512


def test_the_stages_of_the_7b():
    made = plan(load_recipe("qwen2_vl_7b"))
    trained = {stage.name: count(stage.trained) for stage in made.stages}
    assert trained == {"vision": TOWER_AND_MERGER, "joint": made.total, "sft": LM}
    assert made.total == 8_291_375_616
    handed = {
        stage.name: count({n: made.parameters[n] for n in stage.handed}) for stage in made.stages
    }
    assert handed == {"vision": 0, "joint": TOWER_AND_MERGER, "sft": LM}


def test_rates_fall_from_layer_to_layer():
    train = "joint.train = [decay(vit, 0.9, lr: 0.5), merger, lm]"
    factors = plan(load_recipe("qwen2_vl_7b", amend=[train]))["joint"].coverage.factors
    assert factors["vit.blocks.31.norm1.weight"] == pytest.approx(0.5 * 0.9)
    assert factors["vit.blocks.0.attn.qkv.weight"] == pytest.approx(0.5 * 0.9**32)
    assert factors["vit.patch_embed.weight"] == pytest.approx(0.5 * 0.9**33)
    assert factors["lm.norm.weight"] == 1.0
    assert len(set(factors.values())) == 34


def test_the_plan_of_the_7b_as_data(golden):
    data = plan(load_recipe("qwen2_vl_7b")).to_json()
    golden.check("plan/qwen2_vl_7b.json", json.dumps(data, indent=2))


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_stage_is_an_exact_partition(name):
    made = plan(load_recipe(name))
    for stage in made.stages:
        trained, frozen = set(stage.coverage.trained), set(stage.coverage.frozen)
        assert not trained & frozen
        assert trained | frozen == set(made.parameters)


def test_layers_learn_at_their_own_rates(variant):
    stage = plan(
        variant("""
          amend stage sft {
            train = [lr(vit.blocks[1..1], 0.1), lm, lr(merger, 2)]
            freeze = [vit.patch_embed, vit.blocks[0..0]]
          }
        """)
    )["sft"]
    assert set(stage.groups) == {0.1, 1.0, 2.0}
    assert all(name.startswith("vit.blocks.1.") for name in stage.groups[0.1])
    assert by_part(stage.coverage.frozen).keys() == {"vit"}


def test_adapted_matrices_stay_and_low_rank_ones_learn(variant):
    covered = coverage(
        variant("""
          amend stage sft {
            train = [lora(lm.blocks.mlp, rank: 2)]
            freeze = [lm, vit, merger]
          }
        """),
        "sft",
    )
    assert not covered.trained
    assert covered.adapted.keys() <= covered.frozen.keys()
    assert {name.rpartition(".")[2] for name in covered.learning} == {"lora_a", "lora_b"}
    assert count(covered.added) == 2 * 3 * 2 * (48 + 96)


def test_activations_are_computed_again_where_asked(variant):
    stage = plan(variant("amend stage sft { checkpoint = [lm.blocks] }"))["sft"]
    assert {name.split(".")[1] for name in stage.recomputed} == {"blocks"}


def test_what_is_assumed_is_named_once(tiny):
    assert assumed(tiny, "sft") == [
        "sft.pack",
        "sft.stop",
        "sft.batch",
        "sft.optim",
        "sft.schedule",
    ]
    assert "vit.start" in plan(tiny).assumed


def test_members_of_an_assumed_list_are_not_named_beside_it():
    found = assumed(load_recipe("deepseek_vl_7b"), "joint.schedule")
    assert found == ["joint.schedule.at", "joint.schedule.factors"]

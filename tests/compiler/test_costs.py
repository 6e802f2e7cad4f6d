"""What a plan says a step computes and needs is what torch counts and takes."""

from __future__ import annotations

import pytest

from triptych.benchmarks.measured import answer_flops, shapes_in, step_of
from triptych.compiler import ops
from triptych.compiler.costs.table import ROWS
from triptych.compiler.lower import LOWERING
from triptych.compiler.memory import answering, held, training_step
from triptych.compiler.outlay import Asked, one_call, sample_of
from triptych.compiler.pipeline import for_inference
from triptych.compiler.workload import Item, Sample, shapes_of
from triptych.dsl.load import load_recipe

# All others: `python benchmarks/plan.py`.
STEPS = [
    ("qwen2_vl_tiny", "vision"),  # a frozen part behind one that learns; packed patches
    ("internvl_14b_tiny", "retrieval"),  # routes, drop path, queries that look at pictures
    ("internvl_chat_tiny", "sft"),  # computed again
    ("deepseek_vl_tiny", "adaptor"),  # windows, convolutions, two towers
    ("qwen2_vl_tiny", "sft"),  # several samples in a row
]
MODES = [("qwen2_vl_tiny", "chat"), ("internvl_14b_tiny", "caption")]


def test_every_operation_has_its_costs():
    assert ROWS.keys() == LOWERING.keys()
    assert set(ops.OPERATIONS.values()) - ROWS.keys() == {ops.Input, ops.Cache}


@pytest.fixture(scope="module", params=STEPS, ids=" ".join)
def step(request):
    name, stage = request.param
    return step_of(name, stage, 2)


@pytest.fixture(scope="module")
def planned(step):
    return [training_step(step.program, step.planned, shapes) for shapes in step.shapes]


def test_a_step_computes_what_is_planned(step, planned):
    assert step.flops() == sum(one.total for one in planned)


def test_a_step_needs_what_is_planned(step, planned):
    have = held(step.program, step.planned)
    most = have.total + have.beside + max(one.peak for one in planned)
    assert most == pytest.approx(step.peak(), rel=0.05)


def test_low_rank_changes_cost_their_thin_products():
    changed = [
        "sft.train=[lora(lm.blocks.attn, rank: 4), merger]",
        "sft.freeze=[lm, vit]",
    ]
    step = step_of("qwen2_vl_tiny", "sft", 2, amend=changed)
    (shapes,) = step.shapes
    assert step.flops() == training_step(step.program, step.planned, shapes).total


def test_parts_of_two_precisions_need_what_is_planned():
    changed = ["vision.precision=[bf16(lm), f32(vit), f32(merger)]"]
    step = step_of("qwen2_vl_tiny", "vision", 2, None, amend=changed)
    have = held(step.program, step.planned)
    (shapes,) = step.shapes
    most = have.total + have.beside + training_step(step.program, step.planned, shapes).peak
    assert most == pytest.approx(step.peak(), rel=0.05)


@pytest.mark.parametrize(("name", "mode"), MODES)
def test_an_answer_computes_what_is_planned(name, mode):
    recipe = load_recipe(name)
    settings = recipe.modes[mode]
    sample, _ = sample_of(recipe, mode, settings, Asked())
    shapes = shapes_of(recipe, settings, sample, 2)
    program = for_inference(recipe, mode)
    calls = {method: one_call(method, shapes) for method in program.methods}
    said = settings.target.precision
    planned = {one: answering(program, one, sizes, said).total for one, sizes in calls.items()}
    assert answer_flops(name, mode, calls) == planned


@pytest.mark.parametrize(("name", "stage"), [STEPS[0], STEPS[2], STEPS[3]], ids=" ".join)
def test_what_is_fed_is_what_was_expected(name, stage):
    """Two samples of one size: the symbols that the plan computes are those of the real batch."""
    step = step_of(name, stage, 2, alike=True)
    (fed,) = step.shards
    found = shapes_in(step.program, fed)
    recipe = load_recipe(name)
    item = Item("image", (80, 50))
    empty = Sample((item,), 1, 1)
    settings = recipe.stages[stage].model_copy(update={"pack": None})
    features = shapes_of(recipe, settings, empty, 1).values["length"] - 1
    text = found.values["length"] - features
    sample = Sample((item,), text, found.values["targets"] // 2)
    expected = shapes_of(recipe, settings, sample, 2)
    rows = found.values["batch"]
    for name_, number in found.values.items():
        wanted = {"batch": rows, "length": 2 // rows * (features + text)}.get(
            name_, expected.values[name_]
        )
        assert number == wanted, name_
    for name_, lengths in found.segments.items():
        assert tuple(lengths) == tuple(expected.segments[name_])

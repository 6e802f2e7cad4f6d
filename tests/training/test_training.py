"""A run trains what its stages say and nothing else, and hands on what they hand on."""

from __future__ import annotations

import json
import shutil
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from triptych.backends import checkpoint, training
from triptych.backends.checkpoint import Progress
from triptych.backends.data import DataError, open_source
from triptych.backends.gradients import threads
from triptych.backends.options import Options
from triptych.backends.resources import ResourceError
from triptych.backends.samples import Samples
from triptych.backends.training import TrainingError, completed, share_done
from triptych.backends.training_stage import StageRun
from triptych.compiler.pipeline import for_training
from triptych.compiler.plan import plan
from triptych.dsl.kinds import Amount
from triptych.dsl.load import load_recipe

from .eager import train

STAGES = ("vision", "joint", "sft")


class Heard:
    """Remembers what a run tells."""

    def __init__(self):
        self.stages, self.metrics, self.notices = [], [], []

    def stage(self, name, stop, done):
        self.stages.append((name, done))

    def step(self, metrics, done):
        self.metrics.append((metrics, done))

    def notice(self, text):
        self.notices.append(text)


def data(folder):
    return [f"pictures={folder / 'pictures.json'}", f"chat={folder / 'chat.jsonl'}"]


def amended(folder, *lines):
    return load_recipe(str(folder / "tiny.vlm"), amend=lines)


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.fixture(scope="module")
def run(folder, recipe, tmp_path_factory):
    """The whole run, and what it told."""
    heard = Heard()
    out = tmp_path_factory.mktemp("run") / "out"
    result = train(recipe, data(folder), out, listener=heard)
    ends = {one.progress.stage: one for one in checkpoint.checkpoints(out)}
    return SimpleNamespace(out=out, result=result, heard=heard, ends=ends)


def start(recipe):
    return completed({}, for_training(recipe, "vision"), seed=0)


def test_each_stage_moves_exactly_what_it_trains(recipe, run):
    before = start(recipe)
    for stage in plan(recipe).stages:
        after = run.ends[stage.name].weights()
        assert after.keys() == before.keys()
        moved = {name for name in after if not torch.equal(after[name], before[name])}
        assert moved == set(stage.trained)
        before = after


def test_the_optimizer_keeps_state_for_the_trained_parameters_only(recipe, run):
    for stage in plan(recipe).stages:
        state = run.ends[stage.name].optimizer()
        assert {key.rpartition("/")[0] for key in state} == set(stage.trained)


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("precision", ["f32", "bf16"])
def test_gradients_exist_for_exactly_the_trained_parameters(
    recipe, folder, name, precision, monkeypatch
):
    """Seen from autograd: only these are leaves of the step, and the prefix records nothing."""
    asked = []
    grad = torch.autograd.grad

    def spy(loss, inputs, **options):
        asked.append(leaves(loss.grad_fn))
        return grad(loss, inputs, **options)

    monkeypatch.setattr(torch.autograd, "grad", spy)
    chosen = training.overridden(recipe, Options(precision=precision))
    program, planned = for_training(chosen, name), plan(chosen)[name]
    stage = StageRun(program, planned, start(chosen))
    samples = Samples(program.spec, chosen.stages[name], folder)
    source = open_source(folder / ("chat.jsonl" if name == "sft" else "pictures.json"))
    shards = samples.collate([samples.prepare(source.read(index)) for index in range(4)])
    stage.step(shards, rate=0.0)
    (replica,) = stage.replicas
    live = {id(parameter): key for key, parameter in replica.trained.items()}
    assert all({live[leaf] for leaf in found} == set(planned.trained) for found in asked)
    assert len(asked) == len(shards)


def leaves(function):
    """The identities of all tensors that a backward pass would reach."""
    found, waiting, seen = set(), [function], set()
    while waiting:
        one = waiting.pop()
        if one is None or one in seen:
            continue
        seen.add(one)
        if hasattr(one, "variable"):
            found.add(id(one.variable))
        waiting += [below for below, _ in one.next_functions]
    return found


def test_optimizer_state_goes_on_and_its_loss_is_told(run):
    assert [line for line in run.heard.notices if "optimizer's state" in line] == [
        "joint: the optimizer's state from vision goes on (vit 5,984, merger 5,752)",
        "sft: the optimizer's state from joint goes on (lm 23,640)",
        "sft: the optimizer's state from joint is given up: frozen from here on "
        "(vit 5,984, merger 5,752)",
    ]
    steps = run.ends["sft"].optimizer()["lm.norm.weight/step"]
    assert steps == 6 + 6
    assert run.ends["joint"].optimizer()["merger.fc1.weight/step"] == 6 + 6


def test_the_loss_falls_and_every_objective_is_told(run):
    metrics = [line for line, _ in run.heard.metrics]
    assert [line.step for line in metrics] == 3 * [1, 2, 3, 4, 5, 6]
    assert metrics[0].losses.keys() == {"lm", "words"}
    assert metrics[0].loss == pytest.approx(sum(metrics[0].losses.values()))
    assert metrics[-1].losses.keys() == {"lm"}
    assert metrics[-1].loss < metrics[6].loss - 0.5


def test_rates_follow_the_schedule_of_each_stage(run):
    rates: dict[str, list[float]] = {stage: [] for stage in STAGES}
    for line, _ in run.heard.metrics:
        rates[line.stage].append(line.rate)
    assert rates["vision"][:3] == pytest.approx([5e-3, 1e-2, 1e-2])
    assert rates["joint"] == pytest.approx([1e-2, 1e-2, 8.2e-3, 6.4e-3, 4.6e-3, 2.8e-3])
    assert rates["sft"] == [1e-2] * 6


def test_what_a_run_leaves(run):
    left = {path.name for path in run.out.iterdir()}
    assert left == {
        "checkpoints",
        "loss.png",
        "metrics.jsonl",
        "report.html",
        "tokenizer.json",
        "weights.safetensors",
    }
    assert same(load_file(run.result.weights), run.ends["sft"].weights())
    lines = (run.out / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line)["stage"] for line in lines] == [s for s in STAGES for _ in range(6)]
    report = run.result.report.read_text()
    assert "23,640 trained" in report
    assert "is given up" in report


def test_the_report_shows_what_the_model_says_to_held_out_samples(folder, recipe, tmp_path):
    options = Options(steps=1)
    held_out = folder / "pictures.json"
    result = train(
        recipe,
        data(folder),
        tmp_path / "out",
        stages=["vision"],
        held_out=held_out,
        options=options,
    )
    report = result.report.read_text()
    assert "Greedy, on pictures.json, held out." in report
    assert report.count('<div class="sample">') == 8
    assert "expected: a " in report


def test_a_tokenizer_beside_the_data_is_found_and_kept(folder, tmp_path):
    (tmp_path / "tiny.vlm").write_text((folder / "tiny.vlm").read_text())
    moved = load_recipe(str(tmp_path / "tiny.vlm"))
    first = train(moved, data(folder), tmp_path / "first", options=Options(steps=1))
    assert (first.folder / "tokenizer.json").read_bytes() == (
        folder / "tokenizer.json"
    ).read_bytes()
    shutil.copytree(folder, tmp_path / "data", ignore=shutil.ignore_patterns("tokenizer.json"))
    with pytest.raises(ResourceError, match=r"tokenizer\.json"):
        train(moved, data(tmp_path / "data"), tmp_path / "second")
    train(
        moved,
        data(tmp_path / "data"),
        tmp_path / "second",
        beside=[first.folder],
        options=Options(steps=1),
    )


def test_refuses_to_go_on_with_another_tokenizer(folder, recipe, run, tmp_path):
    shutil.copytree(folder, tmp_path / "data")
    shutil.copytree(run.out, tmp_path / "out")
    file = tmp_path / "data" / "tokenizer.json"
    file.write_text(file.read_text() + "\n")
    changed = load_recipe(str(tmp_path / "data" / "tiny.vlm"))
    with pytest.raises(TrainingError, match="vocabulary: "):
        train(changed, data(folder), tmp_path / "out", resume=True)


def test_two_runs_give_the_same_bits(folder, recipe, run, tmp_path):
    options = Options(loaders=3, memory=0)
    again = train(recipe, data(folder), tmp_path / "again", options=options)
    assert same(load_file(again.weights), load_file(run.result.weights))


def test_workers_agree_and_repeat_bit_equal(folder, recipe, run, tmp_path):
    one = load_file(run.result.weights)
    two, again = (
        load_file(train(recipe, data(folder), tmp_path / name, options=Options(workers=2)).weights)
        for name in ("two", "again")
    )
    assert same(two, again)
    for name, weight in one.items():
        torch.testing.assert_close(two[name], weight, atol=2e-4, rtol=1e-3)


def test_accumulation_does_not_change_the_step(folder, tmp_path):
    def after(parts):
        chosen = amended(folder, f"joint.accumulate = {parts}", "joint.stop = 2steps")
        start_ = start(chosen)
        out = tmp_path / str(parts)
        train(chosen, data(folder), out, stages=["joint"], weights=start_)
        return load_file(out / "weights.safetensors")

    whole, parts = after(1), after(4)
    for name, weight in whole.items():
        # Adam divides by the size of the gradient: where that is next to 0, rounding shows.
        torch.testing.assert_close(parts[name], weight, atol=2e-4, rtol=1e-3)


def test_recomputing_activations_gives_the_same_bits(folder, run, tmp_path):
    chosen = amended(folder, "joint.checkpoint = [vit.blocks[0..0], lm.blocks]")
    planned = plan(chosen)["joint"]
    stage = StageRun(for_training(chosen, "joint"), planned, start(chosen))
    step: Any = stage.replicas[0].step
    modules = dict(step.named_modules())
    assert modules["vit.blocks.0"].checkpoint
    assert not modules["vit.blocks.1"].checkpoint
    assert modules["lm.blocks.1"].checkpoint
    out = tmp_path / "out"
    train(chosen, data(folder), out, stages=["vision", "joint"])
    (end,) = [one for one in checkpoint.checkpoints(out) if one.progress.stage == "joint"]
    assert same(end.weights(), run.ends["joint"].weights())


def test_bf16_keeps_masters_and_frozen_weights_in_full_precision(folder, recipe, tmp_path):
    first = start(recipe)
    options = Options(precision="bf16", steps=2)
    train(recipe, data(folder), tmp_path / "out", stages=["vision"], options=options)
    after = load_file(tmp_path / "out" / "weights.safetensors")
    assert {weight.dtype for weight in after.values()} == {torch.float32}
    for name, weight in after.items():
        if name.startswith("lm."):
            assert torch.equal(weight, first[name])
        else:
            assert not torch.equal(weight, weight.bfloat16().float())


@pytest.mark.parametrize(
    ("stop", "steps", "progress"),
    [("12seq", 3, "sequences"), ("100tok", 2, "tokens"), ("1epochs", 6, "position")],
)
def test_a_stage_stops_where_it_says(folder, tmp_path, stop, steps, progress):
    chosen = amended(folder, f"vision.stop = {stop}")
    heard = Heard()
    train(chosen, data(folder), tmp_path / "out", stages=["vision"], listener=heard)
    assert len(heard.metrics) == steps
    assert heard.metrics[-1][1] == 1.0


def test_the_share_of_a_stage_that_is_done():
    progress = Progress(stage="sft", step=3, position=50, sequences=48, tokens=900)
    for value, unit, share in ((4, "steps", 0.75), (96, "seq", 0.5), (450, "tok", 1.0)):
        stop = Amount.model_validate({"value": value, "unit": unit})
        assert share_done(stop, progress, epoch=200) == share
    assert share_done(Amount(value=2, unit="epochs"), progress, epoch=100) == 0.25


def test_bad_samples_are_named_and_passed_over(folder, recipe, tmp_path):
    good = json.loads((folder / "pictures.json").read_text())
    for record in good:
        record["image"] = str(folder / record["image"])
    torn = tmp_path / "torn.png"
    torn.write_bytes((folder / "0.png").read_bytes()[:60])
    question = [{"from": "human", "value": "<image>"}]
    bad = [
        {**good[0], "image": "none.png"},
        {**good[0], "image": str(torn)},
        {**good[0], "conversations": question},
        {**good[0], "conversations": [*question, {"from": "gpt", "value": "a disc " * 90}]},
        {**good[0], "regions": [{"box": [900, 0, 990, 9], "label": "disc"}]},
    ]
    file = tmp_path / "mixed.json"
    file.write_text(json.dumps(good[:7] + bad))
    chosen = amended(folder, "vision.stop = 2epochs")
    result = train(chosen, [str(file)], tmp_path / "out", stages=["vision"])
    assert sorted(one.index for one in result.bad) == [7, 8, 9, 10, 11]
    lines = (tmp_path / "out" / "bad_samples.jsonl").read_text().splitlines()
    reasons = {json.loads(line)["index"]: json.loads(line)["reason"] for line in lines}
    assert len(lines) == 5
    assert "none.png" in reasons[7]
    assert "torn.png" in reasons[8]
    assert "rule" in reasons[9]
    assert "more than the context of 128" in reasons[10]
    assert "mixed.json</td><td>11" in result.report.read_text()


def test_a_run_fails_when_all_samples_are_bad(folder, recipe, tmp_path):
    record = json.loads((folder / "pictures.json").read_text())[0]
    file = tmp_path / "bad.json"
    file.write_text(json.dumps([{**record, "image": "none.png"}] * 3))
    with pytest.raises(DataError, match=r"3 samples in a row are bad, the last: bad\.json"):
        train(recipe, [str(file)], tmp_path / "out", stages=["vision"])


def test_a_loss_that_is_no_number_stops_the_run(folder, recipe, tmp_path):
    first = start(recipe)
    first["lm.norm.weight"] = torch.full_like(first["lm.norm.weight"], float("nan"))
    with pytest.raises(TrainingError, match=r"stage vision, step 1: the loss is nan.*json\["):
        train(recipe, data(folder), tmp_path / "out", weights=first)


def test_resume_skips_what_is_done(folder, recipe, run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(run.out, out)
    heard = Heard()
    again = train(recipe, data(folder), out, resume=True, listener=heard)
    assert heard.metrics == []
    assert "sft is done already, after 6 steps" in heard.notices
    assert same(load_file(again.weights), load_file(run.result.weights))


def test_a_stage_goes_on_from_the_end_of_the_one_before(folder, recipe, run, tmp_path):
    out = tmp_path / "out"
    train(recipe, data(folder), out, stages=["vision"])
    train(recipe, data(folder), out, stages=["joint"], resume=True)
    result = train(recipe, data(folder), out, stages=["sft"], resume=True)
    assert same(load_file(result.weights), load_file(run.result.weights))


def test_refuses_to_go_on_with_another_recipe(folder, recipe, run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(run.out, out)
    changed = amended(folder, "vision.optim.lr = 2e-2", "lm.ffn = 48")
    with pytest.raises(TrainingError) as error:
        train(changed, data(folder), out, resume=True)
    assert "lm.ffn: 32 -> 48" in str(error.value)
    assert "vision.optim.lr: 0.01 -> 0.02" in str(error.value)
    assert "--force" in str(error.value)


def test_force_goes_on_and_says_what_changed(folder, run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(run.out, out)
    heard = Heard()
    changed = amended(folder, "vision.optim.lr = 2e-2")
    train(changed, data(folder), out, resume=True, force=True, listener=heard)
    (line,) = [line for line in heard.notices if line.startswith("changed since")]
    assert line == "changed since vision-00000006: vision.optim.lr: 0.01 -> 0.02"


def test_refuses_to_go_on_with_other_data(folder, recipe, run, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(run.out, out)
    records = json.loads((folder / "pictures.json").read_text())
    other = tmp_path / "pictures.json"
    other.write_text(json.dumps(records[1:]))
    with pytest.raises(TrainingError, match=r"data\.pictures: \w+ -> \w+"):
        train(recipe, [data(folder)[1], f"pictures={other}"], out, resume=True)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"stages": ["vison"]}, "no stage 'vison'; there is vision"),
        ({"stages": ["joint"]}, "joint goes on after vision, and .* holds no end of vision"),
        ({"data": ["chat=x"]}, "no data for pictures"),
    ],
)
def test_says_what_it_lacks(folder, recipe, tmp_path, options, message):
    given = {"data": data(folder), **options}
    with pytest.raises((TrainingError, DataError), match=message):
        train(recipe, out=tmp_path / "out", **given)


def test_does_not_write_over_another_run(folder, recipe, run):
    with pytest.raises(TrainingError, match="holds a run: go on with --resume"):
        train(recipe, data(folder), run.out)


def test_a_recipe_with_published_weights_does_not_start_from_random_ones(folder, tmp_path):
    weights = 'add weights { from = hf("some/model") map "*" -> "*" }'
    text = (folder / "tiny.vlm").read_text().replace("drop weights", "drop weights " + weights)
    (folder / "published.vlm").write_text(text.replace("recipe tiny", "recipe published"))
    chosen = load_recipe(str(folder / "published.vlm"))
    with pytest.raises(TrainingError, match="starts from some/model: say where that lies"):
        train(chosen, data(folder), tmp_path / "out", stages=["vision"])
    options = Options(steps=1)
    train(chosen, data(folder), tmp_path / "out", stages=["vision"], weights={}, options=options)


def test_threads_never_wait_for_each_other(folder, recipe):
    """Two threads on one leaf could; a few hundred short steps showed it."""
    first = start(recipe)
    program, planned = for_training(recipe, "vision"), plan(recipe)["vision"]
    run = StageRun(program, planned, first, workers=2)
    one, two = (replica.trained for replica in run.replicas)
    for name in planned.trained:
        assert one[name] is not two[name]
        assert one[name].data_ptr() == two[name].data_ptr()
    samples = Samples(program.spec, recipe.stages["vision"], folder, workers=2)
    source = open_source(folder / "pictures.json")
    shards = samples.collate([samples.prepare(source.read(index)) for index in range(2)])
    with threads(2):
        for _ in range(200):
            run.step(shards, rate=0.0)
    run.close()
    assert same(first, start(recipe))


def test_a_low_rank_change_is_added_to_its_matrix_at_the_end(folder, tmp_path):
    chosen = amended(
        folder,
        "sft.train = [lora(lm.blocks.attn, rank: 2)]",
        "sft.freeze = [lm, vit, merger]",
    )
    first = start(chosen)
    result = train(chosen, data(folder), tmp_path / "out", stages=["sft"], weights=first)
    after = load_file(result.weights)
    assert after.keys() == first.keys()
    moved = {name for name in after if not torch.equal(after[name], first[name])}
    assert moved == set(plan(chosen)["sft"].coverage.adapted)
    change = after["lm.blocks.0.attn.q.weight"] - first["lm.blocks.0.attn.q.weight"]
    assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2

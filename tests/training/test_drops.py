"""Branches are left out as the seed and the position say, and nothing else is."""

from __future__ import annotations

import pytest
import torch

from triptych.backends.data import generator, open_source
from triptych.backends.drops import Drops, branches, tokens
from triptych.backends.gradients import Gradients
from triptych.backends.samples import Samples
from triptych.backends.training import completed
from triptych.backends.training_stage import StageRun
from triptych.blocks.vision.encoder import VisionBlocks
from triptych.compiler import ops
from triptych.compiler.coverage import drop_rates
from triptych.compiler.pipeline import for_training
from triptych.compiler.plan import plan
from triptych.compiler.text import read_methods, text_of_methods
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.load import load_recipe


@pytest.fixture(scope="module")
def varied(folder):
    """The recipe whose stages `vision` and `sft` drop paths."""
    return load_recipe(str(folder / "varied.vlm"))


def shards(folder, varied, workers):
    program = for_training(varied, "vision")
    samples = Samples(program.spec, varied.stages["vision"], folder, workers=workers)
    source = open_source(folder / "pictures.json")
    return program, samples.collate([samples.prepare(source.read(index)) for index in range(4)])


def test_a_ramp_and_a_plain_rate(varied):
    assert drop_rates(varied, "vision") == {"vit.blocks": (0.0, 0.3)}
    assert drop_rates(varied, "sft") == {"vit.blocks": (0.3, 0.3)}
    assert drop_rates(varied, "joint") == {}


def test_the_graph_says_so_and_reads_back(varied):
    methods = for_training(varied, "sft").methods
    # The tower is frozen in this stage, and drops its paths in the prefix.
    op = methods["prefix"]["vit.blocks"].op
    assert isinstance(op, ops.VisionBlocks) and op.drop_path == (0.3, 0.3)
    assert read_methods(text_of_methods(methods)) == methods


def test_what_is_left_out_depends_on_position_and_not_on_workers(folder, varied):
    program, one = shards(folder, varied, 1)
    _, two = shards(folder, varied, 2)
    drops = Drops(program.methods, "0/vision")
    (whole,) = drops.into(one, 7)
    kept = whole["image.drop_path"]
    halves = torch.cat([shard["image.drop_path"] for shard in drops.into(two, 7)], dim=-1)
    assert torch.equal(kept, halves)
    assert not torch.equal(kept, drops.into(one, 8)[0]["image.drop_path"])
    assert set(kept[0].unique().tolist()) == {1.0}
    assert kept[1].unique().tolist() == pytest.approx([0.0, 1 / 0.7])
    # All patches of a picture share their fate.
    ids = whole["image.segment_id"]
    assert all(len(kept[..., ids == one].unique(dim=-1)[0, 0]) == 1 for one in ids.unique())


def test_the_mean_is_kept():
    shard = {"image.patches": torch.zeros(20_000, 1, 1)}
    kept = branches(shard, "image", generator("0"), rates=[0.4, 0.4])
    assert kept.mean() == pytest.approx(1.0, abs=0.01)


def test_tokens_that_stay_are_drawn_for_each_picture():
    shard = {"image.patches": torch.zeros(500, 16, 1)}
    kept = tokens(shard, "image", generator("0"), take=ops.TakeTokens(17, 9, 1))
    assert kept.shape == (500, 9)
    assert (kept[:, 0] == 0).all()
    assert (kept.diff(dim=1) > 0).all()
    counts = kept[:, 1:].flatten().bincount(minlength=17)[1:]
    assert counts.min() > 200 and counts.max() < 300


def test_packed_pictures_keep_their_tokens(folder):
    path, amend = str(folder / "varied.vlm"), ["vision.drop_tokens=drop_tokens(vit, 0.5)"]
    with pytest.raises(RecipeError, match="F613"):
        for_training(load_recipe(path, amend=amend), "vision")


@pytest.mark.parametrize("dense", [True, False])
def test_a_branch_that_counts_nothing_is_left_out(dense):
    torch.manual_seed(0)
    blocks = VisionBlocks(2, 8, 2, 16, "gelu", "layernorm", 1e-6, True)
    x = torch.randn(3, 5, 8) if dense else torch.randn(5, 8)
    segments = () if dense else (torch.tensor([0, 0, 1, 1, 1]),)
    ones = torch.ones(2, 2, len(x))
    assert torch.equal(blocks(x, *segments, kept=ones), blocks(x, *segments))
    assert torch.equal(blocks(x, *segments, kept=0 * ones), x)
    kept = ones.clone()
    kept[:, :, :2] = 0
    mixed = blocks(x, *segments, kept=kept)
    assert torch.equal(mixed[:2], x[:2])
    assert not torch.equal(mixed[2:], x[2:])


def test_recomputed_blocks_leave_out_the_same(folder, varied):
    """`vision` recomputes its blocks in the backward pass; its gradients are those without."""
    program, batch = shards(folder, varied, 1)
    given = Drops(program.methods, "0/vision").into(batch, 0)
    found = []
    for recipe in (varied, load_recipe(str(folder / "varied.vlm"), amend=["vision.checkpoint=[]"])):
        run = StageRun(program, plan(recipe)["vision"], completed({}, program, 0))
        found.append(Gradients(run.replicas).of(given)[1])
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])

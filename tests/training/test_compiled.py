"""Every step compiles as one graph for all sizes, and computes what it computed before."""

from __future__ import annotations

import functools

import pytest
import torch
from torch._dynamo.backends.debugging import aot_eager

from triptych.backends.data import open_source
from triptych.backends.drops import Drops
from triptych.backends.samples import Samples
from triptych.backends.training import Options, completed, train
from triptych.backends.training_stage import StageRun
from triptych.compiler.pipeline import for_training
from triptych.compiler.plan import plan
from triptych.dsl.load import load_recipe


def batches(folder, recipe, name, program):
    """Inputs of several sizes; two samples at least, as torch takes a size of 1 for a constant."""
    samples = Samples(program.spec, recipe.stages[name], folder)
    source = open_source(folder / ("chat.jsonl" if name == "sft" else "pictures.json"))
    ready = [samples.prepare(source.read(index)) for index in range(20)]
    drops = Drops(program.methods, "0")
    return [
        drops.into(samples.collate(ready[start:end]), start)
        for start, end in ((0, 4), (4, 10), (10, 20))
    ]


@pytest.mark.parametrize(
    ("base", "name"),
    [("tiny", "vision"), ("tiny", "joint"), ("tiny", "sft"), ("varied", "vision")],
)
def test_each_method_is_one_graph_for_all_sizes(folder, base, name, monkeypatch):
    # Short packs, so that every batch has more than one row.
    recipe = load_recipe(str(folder / f"{base}.vlm"), amend=["sft.pack = 40tok"])
    program, planned = for_training(recipe, name), plan(recipe)[name]
    given = batches(folder, recipe, name, program)

    def losses(compiled):
        run = StageRun(program, planned, completed({}, program, 0), compiled=compiled)
        return [run.step(shards, 1e-3)[0]["loss"] for shards in given]

    expected = losses(compiled=False)
    graphs = []

    def counted(graph, example):
        graphs.append(graph)
        return aot_eager(graph, example)

    # Without generating code: what is asked here is what Dynamo and AOTAutograd make of the step.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=counted))
    assert losses(compiled=True) == pytest.approx(expected, rel=1e-4)
    assert len(graphs) == len(program.methods)


class Losses:
    def __init__(self):
        self.found = []

    def stage(self, name, stop, done):
        pass

    def step(self, metrics, done):
        self.found.append(metrics.loss)

    def notice(self, text):
        pass


def test_inductor_trains_as_eager_does(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path / "cache"))
    # The adapter and one block of the tower: a small step, as each kernel is a run of g++.
    recipe = load_recipe(
        str(folder / "tiny.vlm"),
        amend=[
            "vit.depth = 1",
            "vision.train = merger",
            "vision.freeze = [vit, lm]",
            "vision.loss = words",
        ],
    )
    found = {}
    for backend in ("eager", "inductor"):
        losses = Losses()
        train(
            recipe,
            [str(folder / "pictures.json")],
            tmp_path / backend,
            stages=["vision"],
            options=Options(steps=3, batch=8, backend=backend, workers=2),
            listener=losses,
        )
        found[backend] = losses.found
    assert found["inductor"] == pytest.approx(found["eager"], rel=1e-4)
    assert list((tmp_path / "cache").rglob("*.so"))

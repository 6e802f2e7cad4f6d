"""torch.compile gives what eager gives, with one graph a bucket whatever the sizes."""

from __future__ import annotations

import random
from collections import Counter

import pytest
import torch
from torch._dynamo.utils import counters

from triptych.backends.base import InputError
from triptych.backends.eager import Eager
from triptych.backends.generation import Session
from triptych.backends.inductor import Inductor
from triptych.backends.job import job
from triptych.backends.probe import difference, probe
from triptych.backends.sight import Sight
from triptych.dsl.load import load_recipe

from .conftest import DIALOGUES, TINY, asked, assert_same_methods, picture

TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def cache(tmp_path_factory):
    return tmp_path_factory.mktemp("inductor")


@pytest.fixture(scope="module")
def inductor(tiny_job, cache):
    return Inductor(cache).compile(tiny_job)


def test_every_method_is_eagers(tiny_job, inductor, eager):
    assert_same_methods(tiny_job, inductor, eager, TOLERANCE, batch=2, slots=128)


def test_random_sizes_inside_the_limits_compile_nothing_new(tiny_job, inductor, eager):
    """Patches, features and lengths at random, batches of two to four: one graph a method."""
    draw = random.Random(0)
    for seed in range(40):
        name = draw.choice(["vision_image", "vision_video", "project", "prefill"])
        sizes = {
            size: draw.randrange(limit.low, min(limit.high, 400), limit.multiple)
            for size, limit in tiny_job.limits.items()
            if size.endswith("patches") or size in {"length", "features"}
        }
        sizes |= {"batch": draw.randint(2, 4), "slots": 128, "length": draw.randint(2, 128)}
        method = tiny_job.methods[name]
        given = probe(method, tiny_job.limits, tiny_job.tokens, seed, **sizes)
        copy = {feed: tensor.clone() for feed, tensor in given.items()}
        theirs = eager.run(name, given)
        assert difference(inductor.run(name, copy), theirs) <= TOLERANCE, (name, sizes)
    assert inductor.recompiles == 0
    assert len(inductor.graphs) == 5, inductor.graphs


def test_pictures_of_200_random_sizes_compile_nothing_new(tiny_job, inductor, processor, eager):
    """Through the processor, as a user shows them: any width and height that an aspect allows."""
    draw = random.Random(1)
    looked = [Sight(one, processor, tiny_job.spec, keep=0) for one in (inductor, eager)]
    shapes = set()
    for _ in range(200):
        width = draw.randint(20, 400)
        height = max(20, int(width * draw.uniform(0.3, 3)))
        media = processor.prompt(asked(picture(width, height), "?")).media
        ours, theirs = (sight.features(media) for sight in looked)
        assert difference({"features": ours}, {"features": theirs}) <= TOLERANCE, (width, height)
        shapes.add(media[0].frames.shape)
    assert len(shapes) > 20
    assert inductor.recompiles == 0
    assert inductor.graphs[("vision_image", ())] == inductor.graphs[("project", ())] == 1


def test_blocks_that_repeat_are_compiled_once(monkeypatch, tmp_path):
    """Of six blocks, six calls of one graph; a cache is written between two of them."""
    deep = job(load_recipe(TINY, amend=["lm.depth=6", "vit.depth=6"]), "chat", weights=0)
    ours, theirs = Inductor(tmp_path).compile(deep), Eager().compile(deep)
    kinds: dict[str, Counter[object]] = {}

    def looked_at(graph, example, config_patches):
        calls = [node.args[0].target for node in graph.graph.nodes if "invoke" in node.name]
        kinds[method] = Counter(calls)
        return graph.forward

    monkeypatch.setattr("torch._inductor.compile_fx.compile_fx", looked_at)
    for method in ("vision_image", "decode"):
        given = probe(deep.methods[method], deep.limits, deep.tokens)
        copy = {name: tensor.clone() for name, tensor in given.items()}
        assert difference(ours.run(method, copy), theirs.run(method, given)) <= TOLERANCE
    assert list(kinds["vision_image"].values()) == [6]
    assert list(kinds["decode"].values()) == [6, 6]


def test_greedy_tokens_are_eagers(tiny_job, inductor, session):
    ours = Session(inductor, session.processor, tiny_job.spec)
    assert ours.batch(DIALOGUES, new=10) == session.batch(DIALOGUES, new=10)
    assert inductor.recompiles == 0


@pytest.mark.parametrize("method", ["vision_image", "vision_video", "project", "prefill", "decode"])
def test_a_size_outside_the_limits_is_an_error_and_no_graph(tiny_job, inductor, method):
    """Each size of each method, on either side; the error names both and the limits."""
    outside = tiny_job.methods[method]
    graphs = inductor.graphs.copy()
    named = {size for port in outside.inputs.values() for size in port.sizes}
    limits = {name: limit for name, limit in tiny_job.limits.items() if name in named}
    assert limits
    for name, limit in limits.items():
        for size in (limit.low - 1, limit.high + limit.multiple):
            given = probe(outside, tiny_job.limits, tiny_job.tokens, **{name: size})
            said = rf"{method}: {name} is {size}; the executable takes {limit}\."
            with pytest.raises(InputError, match=said):
                inductor.run(method, given)
    assert inductor.graphs == graphs


def test_code_is_kept_in_its_folder_and_taken_from_there(tiny_job, inductor, cache):
    """Another executable of the same program finds every graph that it needs."""
    given = probe(tiny_job.methods["project"], tiny_job.limits, tiny_job.tokens)
    inductor.run("project", given)
    assert any(cache.rglob("*.so"))
    counters["inductor"].clear()
    torch._dynamo.reset()
    Inductor(cache).compile(tiny_job).run("project", given)
    assert counters["inductor"]["fxgraph_cache_hit"] == 1
    assert counters["inductor"]["fxgraph_cache_miss"] == 0


def test_programs_do_not_share_a_folder(tiny_job, recipe):
    other = job(recipe.model_copy(update={"name": "other"}), "chat", weights=0)
    folders = {Inductor().compile(one).cache for one in (tiny_job, other)}
    assert len(folders) == 2

"""torch.compile gives what eager gives, with one graph a bucket whatever the sizes."""

from __future__ import annotations

import random

import pytest

from triptych.backends.base import InputError
from triptych.backends.generation import Session
from triptych.backends.inductor import Inductor
from triptych.backends.probe import difference, probe

from .conftest import DIALOGUES, assert_same_methods

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


def test_greedy_tokens_are_eagers(tiny_job, inductor, session):
    ours = Session(inductor, session.processor, tiny_job.spec)
    assert ours.chat(DIALOGUES, new=10) == session.chat(DIALOGUES, new=10)
    assert inductor.recompiles == 0


def test_a_size_outside_the_limits_is_an_error_and_no_graph(tiny_job, inductor):
    graphs = inductor.graphs.copy()
    method = tiny_job.methods["decode"]
    with pytest.raises(InputError, match="batch is 9; the executable takes 1 to 4"):
        inductor.run("decode", probe(method, tiny_job.limits, tiny_job.tokens, batch=9))
    assert inductor.graphs == graphs


def test_code_is_kept_in_its_folder(inductor, cache):
    assert inductor.recompiles == 0
    assert any(cache.rglob("*.so"))


def test_programs_do_not_share_a_folder(tiny_job, recipe):
    from triptych.backends.job import job

    other = job(recipe.model_copy(update={"name": "other"}), "chat", weights=0)
    folders = {Inductor().compile(one).cache for one in (tiny_job, other)}
    assert len(folders) == 2

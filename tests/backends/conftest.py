"""A Qwen2-VL small enough to compile in a test, and pictures to show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from triptych.backends.aot import Aot
from triptych.backends.artefact import PACKAGE, Artefact
from triptych.backends.eager import Eager
from triptych.backends.engine_build import request
from triptych.backends.engine_programs import binding_names
from triptych.backends.from_job import FromJob
from triptych.backends.generation import Session
from triptych.backends.job import job
from triptych.backends.manifest import Target
from triptych.backends.packing import finish, program_file
from triptych.backends.probe import difference, probe
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Attachment, Turn
from triptych.blocks.input.video import Clip
from triptych.dsl.load import load_recipe

TINY = str(Path(__file__).with_name("tiny.vlm"))


@pytest.fixture(scope="session")
def recipe():
    return load_recipe(TINY)


def made(recipe, mode="chat", **options):
    """A job whose random weights say something new with each token: blocks that outweigh the
    embedding, since the head is tied to it."""
    tiny = job(recipe, mode, weights=0, **options)
    for name, tensor in tiny.lowered.module.state_dict().items():
        if tensor.dim() > 1 and name != "lm.embed.weight":
            tensor.mul_(2)
    return tiny


@pytest.fixture(scope="session", autouse=True)
def _own_cache(tmp_path_factory):
    """Compiled code of the tests stays in the tests' own folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRIPTYCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session")
def tiny_job(recipe):
    return made(recipe)


@pytest.fixture(scope="session")
def eager(tiny_job):
    return Eager().compile(tiny_job)


@pytest.fixture(scope="session")
def processor(tiny_job):
    return Processor(tiny_job.spec)


@pytest.fixture(scope="session")
def session(tiny_job, eager, processor):
    return Session(eager, processor, tiny_job.spec)


@pytest.fixture(scope="session")
def artefact(tiny_job, tmp_path_factory):
    """Compiled once for all tests: it takes most of their time."""
    return Aot().build(tiny_job, tmp_path_factory.mktemp("aot") / "tiny")


@pytest.fixture(scope="session")
def portable(tiny_job, tmp_path_factory):
    """An artefact with programs, and without code."""
    origin = FromJob(tiny_job)
    folder = tmp_path_factory.mktemp("portable") / "tiny"
    for name in origin.methods:
        origin.program(name, folder)
    return packed(origin, folder)


def packed(origin, folder):
    """The artefact of an origin, with bytes that are none where code and programs should be: for
    tests of all the rest, which need not wait for a compiler."""
    for file in (PACKAGE, *map(program_file, origin.methods)):
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        if not (folder / file).exists():
            (folder / file).write_bytes(b"none")
    code = dict.fromkeys(origin.methods, PACKAGE)
    finish(origin.pack(folder, "aot", Target.here(), code, {"c++": "none"}), folder, {})
    return Artefact(folder)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def clip(frames: int, width: int, height: int, seed: int = 0) -> Clip:
    """A clip of noise."""
    return Clip(tuple(picture(width, height, seed + frame) for frame in range(frames)))


def asked(*parts: str | Image.Image | Clip, system: str | None = None) -> list[Turn]:
    """A dialogue with one question; pictures and clips go to their inputs."""
    inputs = {Image.Image: "image", Clip: "video"}
    said = tuple(
        part if isinstance(part, str) else Attachment(inputs[type(part)], part) for part in parts
    )
    turns = [Turn("user", said)]
    return [Turn("system", (system,)), *turns] if system else turns


DIALOGUES = (
    asked("hello there"),
    asked(picture(100, 60), "what is this?"),
    asked(clip(6, 60, 60), picture(200, 30, 7), "and these?"),
    asked(picture(90, 90, 3), picture(56, 120, 4), "compare", system="Be brief."),
)
"""Text alone, a picture, a clip with a picture, and two pictures."""


def operators_of_program(origin, state, eager, limits, name):
    """The operators of what becomes an engine, which is seen to yield what eager yields; `state`
    has its parameters."""
    method = origin.methods[name]
    made = request(origin, name, limits).program
    given = probe(method, limits, origin.tokens)
    before = {cache: given[cache].clone() for cache in method.caches}
    yielded = made.module()(*(state[one] for one in method.parameters), *given.values())
    for cache, tensor in before.items():
        assert torch.equal(given[cache], tensor), "the program itself writes nowhere"
    theirs = eager.run(name, given) | {f"updated.{cache}": given[cache] for cache in before}
    names = binding_names(method)[1]
    assert difference(dict(zip(names, yielded, strict=True)), theirs) < 1e-6
    return {str(node.target) for node in made.graph.nodes}


def assert_same_methods(job, ours, reference, tolerance: float, **sizes: int) -> None:
    """Every method yields what the reference yields, its caches included."""
    for name, method in job.methods.items():
        given = probe(method, job.limits, job.tokens, **sizes)
        copy = {feed: tensor.clone() for feed, tensor in given.items()}
        theirs = reference.run(name, given)
        found = ours.run(name, copy)
        assert difference(found, theirs) <= tolerance, name
        for cache in method.caches:
            assert difference({cache: copy[cache]}, {cache: given[cache]}) <= tolerance, name

"""A Qwen2-VL small enough to compile in a test, and pictures to show it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from triptych.backends.eager import Eager
from triptych.backends.generation import Session
from triptych.backends.job import job
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Attachment, Turn
from triptych.blocks.input.video import Clip
from triptych.dsl.load import load_recipe

TINY = str(Path(__file__).with_name("tiny.vlm"))


@pytest.fixture(scope="session")
def recipe():
    return load_recipe(TINY)


@pytest.fixture(scope="session")
def tiny_job(recipe):
    return job(recipe, "chat", weights=0)


@pytest.fixture(scope="session")
def eager(tiny_job):
    return Eager().compile(tiny_job)


@pytest.fixture(scope="session")
def processor(tiny_job):
    return Processor(tiny_job.spec)


@pytest.fixture(scope="session")
def session(tiny_job, eager, processor):
    return Session(eager, processor, tiny_job.spec)


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture of noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def clip(frames: int, width: int, height: int, seed: int = 0) -> Clip:
    """A clip of noise."""
    return Clip(tuple(picture(width, height, seed + frame) for frame in range(frames)))


def asked(*parts: object, system: str | None = None) -> list[Turn]:
    """A dialogue with one question; pictures and clips go to their inputs."""
    inputs = {Image.Image: "image", Clip: "video"}
    said = tuple(
        part if isinstance(part, str) else Attachment(inputs[type(part)], part) for part in parts
    )
    turns = [Turn("user", said)]
    return [Turn("system", (system,)), *turns] if system else turns


def tensors(method, limits, seed: int = 0, **sizes: int) -> dict[str, torch.Tensor]:
    """Inputs of a method with these sizes, filled with what it could be fed."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {name: limit.low for name, limit in limits.items()} | sizes
    made = {}
    for name, port in method.inputs.items():
        shape = port.shape(sizes)
        if port.dtype.is_floating_point:
            made[name] = torch.randn(shape, generator=generator).to(port.dtype)
        elif name == "text.tokens":
            made[name] = torch.randint(0, 1000, shape, generator=generator)
        else:
            made[name] = torch.zeros(shape, dtype=port.dtype)
    return made

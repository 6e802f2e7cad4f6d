"""Parts in precisions of their own hold them, and every backend computes the same with them."""

from __future__ import annotations

import pytest
import torch

from triptych.backends.eager import Eager
from triptych.backends.generation import Session
from triptych.backends.inductor import Inductor
from triptych.backends.probe import difference, probe
from triptych.backends.sight import Sight
from triptych.blocks.input.processor import Processor
from triptych.compiler.pipeline import for_inference
from triptych.compiler.text import read_methods, text_of_methods
from triptych.dsl.load import load_recipe

from .conftest import DIALOGUES, TINY, assert_same_methods, made

MIXED = "chat.target=eager(precision: [bf16(lm), f32(vit), bf16(merger)])"
WANTED = {"vit": torch.float32, "merger": torch.bfloat16, "lm": torch.bfloat16}


@pytest.fixture(scope="module")
def mixed():
    return load_recipe(TINY, amend=[MIXED])


@pytest.fixture(scope="module")
def mixed_job(mixed):
    return made(mixed)


def test_each_part_holds_its_precision(mixed_job):
    state = mixed_job.lowered.module.state_dict()
    assert {name: tensor.dtype for name, tensor in state.items()} == {
        name: WANTED[name.partition(".")[0]] for name in state
    }


def test_values_change_precision_between_parts_and_nowhere_else(mixed, mixed_job):
    methods = for_inference(mixed, "chat").methods
    casts = {node.name for graph in methods.values() for node in graph if node.op.name == "cast"}
    assert casts == {"vit.blocks.in_bf16"}
    shown = text_of_methods(methods)
    assert text_of_methods(read_methods(shown)) == shown
    eager = Eager().compile(mixed_job)
    given = probe(mixed_job.methods["vision_image"], mixed_job.limits, mixed_job.tokens)
    (seen,) = eager.run("vision_image", given).values()
    assert seen.dtype == torch.float32
    (rows,) = eager.run("project", {"vit.blocks": seen}).values()
    assert rows.dtype == torch.bfloat16
    assert {port.dtype for port in mixed_job.methods["decode"].caches.values()} == {torch.bfloat16}


def test_the_tower_is_as_exact_as_in_f32(mixed_job, tiny_job, eager):
    given = probe(tiny_job.methods["vision_image"], tiny_job.limits, tiny_job.tokens)
    theirs = eager.run("vision_image", given)
    ours = Eager().compile(mixed_job).run("vision_image", given)
    assert difference(ours, theirs) == 0


def test_answers_are_close_to_those_in_f32(mixed_job, tiny_job, session):
    sample = session.processor.prompt(DIALOGUES[1])
    ours = Session(Eager().compile(mixed_job), Processor(mixed_job.spec), mixed_job.spec)
    logits = [
        one.prefill(
            one.prompts([sample]),
            sample.media,
            one.executable.caches(1, 128),
            Sight(one.executable, one.processor, one.spec),
        ).float()
        for one in (ours, session)
    ]
    assert difference({"logits": logits[0]}, {"logits": logits[1]}) < 5e-2


def test_one_precision_from_the_command_line_is_for_all(mixed):
    job = made(mixed, dtype=torch.float32)
    assert {tensor.dtype for tensor in job.lowered.module.state_dict().values()} == {torch.float32}


def test_inductor_computes_the_same(mixed_job, tmp_path):
    """`test_quantized` has the same of an artefact."""
    ours = Inductor(tmp_path).compile(mixed_job)
    assert_same_methods(mixed_job, ours, Eager().compile(mixed_job), 2e-2, batch=2, slots=128)

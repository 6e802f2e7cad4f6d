"""What a run takes at its fullest moment is what `plan` says: weights, cache, activations."""

from __future__ import annotations

import gc

import pytest

from triptych.backends.artefact import opened
from triptych.backends.generation import Session
from triptych.backends.manifest import MANIFEST, Manifest
from triptych.benchmarks.answers import answered, endless, question, words
from triptych.benchmarks.measured import living, peak_of
from triptych.benchmarks.memory import ready
from triptych.blocks.input.calls import CHUNK
from triptych.blocks.input.processor import Processor
from triptych.compiler.outlay import Asked, mode_outlay
from triptych.dsl.load import load_recipe

# All backends, and published widths: `python benchmarks/memory.py`.
TINY = (
    "qwen2_vl_tiny",  # weights are nearly all
    "deepseek_vl_1_3b_tiny",  # half is pictures
    "internvl_14b_tiny",  # goes on behind queries
    "internvl_1_5_tiny",  # tiles
)


@pytest.mark.parametrize("name", TINY)
def test_an_answer_needs_what_is_planned(name, tmp_path):
    gc.collect()
    foreign = living()
    model = ready(name, "eager", "f32", tmp_path)
    model.ask()
    assert model.peak == pytest.approx(peak_of(model.ask, foreign), rel=0.1)


def test_an_artefact_holds_its_weights_once(recipe, artefact):
    gc.collect()
    foreign = living()
    made = opened(artefact.folder, Manifest.read(artefact.folder / MANIFEST))
    processor = endless(Processor(artefact.manifest.spec))
    session = Session(made, processor, artefact.manifest.spec)
    sample = question(processor, side=100)
    new = recipe.modes["chat"].new
    planned = mode_outlay(recipe, "chat", Asked(text=words(processor, sample)))
    answered(session, [sample], 2)
    peak = peak_of(lambda: answered(session, [sample], new), foreign)
    assert planned.peak == pytest.approx(peak, rel=0.1)


def test_a_prompt_of_eight_pieces_needs_the_mask_of_one():
    def activations(text: int) -> int:
        found = mode_outlay(long, "chat", Asked(items=(), text=text))
        return found.methods["prefill"].peak

    long = load_recipe(
        "qwen2_vl_tiny", amend=["lm.context=16384tok", "chat.prompt=..8192tok", "chat.new=1tok"]
    )
    # A piece attends to all slots of a cache that is eight times as large; fed at once, all tokens
    # would attend to all slots.
    assert activations(8 * CHUNK) < 8 * activations(CHUNK)

"""Whatever a recipe says, the compiler answers with diagnostics or a program, never a traceback."""

from __future__ import annotations

import random

import pytest

from triptych.compiler.diff import diff
from triptych.compiler.pipeline import for_inference, for_training, prove
from triptych.compiler.plan import plan
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.load import load_recipe

NUMBERS = (1, 2, 3, 4, 7, 14, 16, 28, 96, 1000)
SELECTORS = (
    *("vit", "merger", "lm", "lm.blocks", "lm.head", "lm.embed", "vit.blocks[0..3]"),
    *("vit.blocks[30..40]", "lm.blocks.attn", "vit.patch_embed", "lora(lm.blocks, rank: 2)"),
    "lr(merger, 0.1)",
)
SETTINGS = (
    "lm.width={n}",
    "lm.heads={n}",
    "lm.kv_heads={n}",
    "lm.depth={n}",
    "lm.tied=false",
    "lm.context={n}tok",
    "lm.pos=rope(theta: 1e4)",
    "vit.width={n}",
    "vit.patch={n}px",
    "vit.frames_per_patch={n}",
    "vit.in=[image]",
    "vit.in=[video, image]",
    "merger.window=1x1",
    "merger.window=3x2",
    "merger.out={n}",
    "image.aspect=..{n}",
    "image.resize=native(multiple: {n}px, budget: ..100000tok)",
    "image.resize=square({n}px)",
    "image.resize=tiles(28px, ..{n})",
    "image.resize=letterbox(28px, least: {n}px)",
    "video.resize=native(multiple: 28px, budget: 50tok..64tok, clip: {n}tok, slack: 3)",
    "video.frames={n}..100000 by {n}",
    "sft.train=[{s}]",
    "sft.freeze=[{s}, {t}]",
    "vision.train=[{s}, {t}]",
    "joint.checkpoint=[{s}]",
    "sft.pack={n}tok",
    "chat.prompt=..{n}tok",
    "chat.layout=caption",
)


def settings(seed):
    chance = random.Random(seed)
    for setting in chance.sample(SETTINGS, 3):
        yield setting.format(
            n=chance.choice(NUMBERS),
            s=chance.choice(SELECTORS[:-2] if "freeze" in setting else SELECTORS),
            t=chance.choice(SELECTORS[:-2]),
        )


@pytest.mark.parametrize("seed", range(40))
def test_diagnostics_or_a_program(seed):
    try:
        recipe = load_recipe("qwen2_vl_2b", amend=list(settings(seed)))
    except RecipeError:
        return
    try:
        prove(recipe)
    except RecipeError:
        return
    # What is proved compiles.
    plan(recipe).to_json()
    diff(load_recipe("qwen2_vl_2b"), recipe).to_json()
    for stage in recipe.stages:
        for_training(recipe, stage)
    for mode in recipe.modes:
        for_inference(recipe, mode)

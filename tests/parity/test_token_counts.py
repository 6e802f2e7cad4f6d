"""Tokens of pictures of any size: the shipped recipes count as the official rules do."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from triptych.blocks.input.media import MediaInput
from triptych.blocks.input.sample import Attachment
from triptych.compiler.pipeline import for_inference
from triptych.compiler.tokens import as_seen, counted, domain, item_tokens
from triptych.compiler.types import bounds, evaluate
from triptych.dsl.load import load_recipe

sides = st.integers(1, 4000)


def tiles(width: int, height: int, most: int) -> int:
    """`dynamic_preprocess` of InternVL 1.5 at 448 px, thumbnail included."""
    grids = {
        (i, j)
        for n in range(1, most + 1)
        for i in range(1, n + 1)
        for j in range(1, n + 1)
        if i * j <= most
    }
    nearest, best = float("inf"), (1, 1)
    for grid in sorted(grids, key=lambda grid: grid[0] * grid[1]):
        distance = abs(width / height - grid[0] / grid[1])
        if distance < nearest:
            nearest, best = distance, grid
        elif distance == nearest and width * height > 0.5 * 448 * 448 * grid[0] * grid[1]:
            best = grid
    number = best[0] * best[1]
    return number + (number > 1)


OFFICIAL = {
    "minigpt4_7b": lambda width, height: 32,
    "qwen_vl_7b": lambda width, height: 256,
    "internvl_chat_7b": lambda width, height: 576,
    "deepseek_vl_1_3b": lambda width, height: 576,
    "deepseek_vl_7b": lambda width, height: 576,
    "internvl_1_5_26b": lambda width, height: 256 * tiles(width, height, 12),
    "internvl_1_5_mini_2b": lambda width, height: 256 * tiles(width, height, 12),
    "internvl_1_5_mini_4b": lambda width, height: 256 * tiles(width, height, 12),
}


@pytest.mark.parametrize("name", OFFICIAL)
def test_the_closed_form_is_the_official_rule(name):
    recipe = load_recipe(name)
    form = item_tokens(recipe, "image")
    limits = bounds(form, domain(recipe))

    @given(sides, sides)
    @settings(max_examples=50)
    def agrees(width, height):
        found = evaluate(form, {"image.width": width, "image.height": height})
        assert found == OFFICIAL[name](width, height)
        assert limits.most and limits.least <= found <= limits.most

    agrees()


def test_a_picture_of_qwen_vl_takes_258_tokens_with_its_tags():
    recipe = load_recipe("qwen_vl_7b")
    for size in ((640, 480), (10, 3000), (448, 448)):
        tagged = counted(recipe, recipe.layouts["describe"], "image", size).tagged
        assert (tagged.least, tagged.most) == (258, 258)


@pytest.mark.parametrize("name", ["deepseek_vl_1_3b_tiny", "deepseek_vl_tiny", "internvl_1_5_tiny"])
def test_what_is_fed_has_as_many_tokens_as_the_closed_form_says(name):
    recipe = load_recipe(name)
    mode = next(iter(recipe.modes))
    image = MediaInput("image", for_inference(recipe, mode).spec["inputs"]["image"])
    form = item_tokens(as_seen(recipe, recipe.modes[mode]), "image")

    @given(st.integers(1, 200), st.integers(1, 200))
    @settings(max_examples=30, deadline=None)
    def agrees(width, height):
        seen = image.see(Attachment("image", Image.new("RGB", (width, height))))
        expected = evaluate(form, {"image.width": width, "image.height": height})
        assert sum(image.tokens(seen).values()) == expected

    agrees()

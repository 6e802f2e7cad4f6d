"""Counts of tokens: the fact sheet's tables, closed forms, and what layouts add."""

from __future__ import annotations

import pytest

from triptych.blocks.input.sizes import Native, SizeError, grid_of
from triptych.compiler.tokens import (
    counted,
    domain,
    frame_cost,
    item_cost,
    item_tokens,
    meaning_of,
    placed,
    size_rule,
    worst,
)
from triptych.compiler.types import bounds, evaluate
from triptych.dsl.load import load_recipe

# Size, resized, grid (t, h, w), patches, merged tokens: reference/qwen2_vl.md, section 2.
PICTURES = [
    ((224, 224), (224, 224), (1, 16, 16), 256, 64),
    ((28, 28), (56, 56), (1, 4, 4), 16, 4),
    ((100, 33), (112, 28), (1, 2, 8), 16, 4),
    ((448, 448), (448, 448), (1, 32, 32), 1024, 256),
    ((640, 480), (644, 476), (1, 34, 46), 1564, 391),
    ((1280, 720), (1288, 728), (1, 52, 92), 4784, 1196),
    ((1920, 1080), (1932, 1092), (1, 78, 138), 10764, 2691),
    ((4032, 3024), (4032, 3024), (1, 216, 288), 62208, 15552),
    ((8192, 8192), (3584, 3584), (1, 256, 256), 65536, 16384),
]
# Seconds, size, frames, resized, grid, tokens at the cap of 16384, and at 24576.
CLIPS = [
    (10, (1280, 720), 20, (1008, 560), (10, 40, 72), 7200, 7200),
    (60, (1920, 1080), 120, (616, 336), (60, 24, 44), 15840, 23400),
    (122, (1280, 720), 244, (420, 224), (122, 16, 30), 14640, 21960),
    (1200, (1920, 1080), 768, (420, 224), (384, 16, 30), 46080, 46080),
]


@pytest.fixture(scope="module")
def recipe():
    return load_recipe("qwen2_vl_7b")


@pytest.fixture(scope="module")
def chatml(recipe):
    return recipe.layouts["chatml"]


@pytest.mark.parametrize(("size", "resized", "grid", "patches", "tokens"), PICTURES)
def test_pictures_as_published(recipe, chatml, size, resized, grid, patches, tokens):
    found = counted(recipe, chatml, "image", size)
    assert (found.resized, found.grid) == (resized, grid)
    assert (found.patches, found.tokens) == (patches, tokens)
    assert found.tagged.least == found.tagged.most == tokens + 2


def test_the_smaller_limit_of_the_class_default():
    recipe = load_recipe(
        "qwen2_vl_7b",
        amend=["image.resize = native(multiple: 28px, budget: 4tok..1280tok)"],
    )
    found = counted(recipe, recipe.layouts["chatml"], "image", (1920, 1080))
    assert (found.resized, found.tokens) == ((1316, 728), 1222)


@pytest.mark.parametrize(("seconds", "size", "frames", "resized", "grid", "tokens", "_"), CLIPS)
def test_clips_as_published(recipe, chatml, seconds, size, frames, resized, grid, tokens, _):
    found = counted(recipe, chatml, "video", size, (seconds * 30, 30.0))
    assert (found.frames, found.resized, found.grid) == (frames, resized, grid)
    assert found.tokens == tokens
    assert found.tagged.most == tokens + 2


@pytest.mark.parametrize(("seconds", "size", "frames", "_r", "_g", "_t", "tokens"), CLIPS)
def test_clips_at_the_cap_of_the_released_helper(seconds, size, frames, _r, _g, _t, tokens):
    recipe = load_recipe("qwen2_vl_7b", amend=["video.resize.clip = 24576tok"])
    found = counted(recipe, recipe.layouts["chatml"], "video", size, (seconds * 30, 30.0))
    assert (found.frames, found.tokens) == (frames, tokens)


def test_closed_forms_count_what_the_processor_counts(recipe):
    rule, form = size_rule(recipe, "video"), item_tokens(recipe, "video")
    assert isinstance(rule, Native)
    for width, height in ((640, 480), (33, 100), (1920, 1080)):
        for frames in (4, 20, 244, 768):
            values = {"video.width": width, "video.height": height, "video.frames": frames}
            grid = grid_of(rule.resized_frame(width, height, frames), 14, frames // 2)
            assert evaluate(form, values) == grid.merged((2, 2)).patches


def test_closed_forms_as_text(recipe, chatml):
    assert str(item_cost(recipe, chatml, "image").places) == (
        "fit(image.width, image.height; multiple = 28, least = 4, most = 16384, aspect = 200) + 2"
    )


def test_bounds_over_the_declared_domain(recipe):
    assert str(bounds(item_tokens(recipe, "image"), domain(recipe))) == "4..16384"


def test_a_window_that_the_multiple_holds_several_times(variant):
    recipe = variant("""
      amend input image { resize = native(multiple: 56px, budget: 4tok..64tok) }
    """)
    found = counted(recipe, recipe.layouts["chatml"], "image", (224, 224))
    assert found.tokens == 64
    assert str(item_tokens(recipe, "image")).startswith("4 * fit(")


def test_each_tower_counts_by_its_own_patches(variant):
    """A tower of whole pictures stands before one that packs its patches."""
    recipe = variant("""
      drop input video
      drop encoder vit
      amend input image { resize = square(56px) }
      add encoder whole : ViT {
        in = image patch = 28px depth = 1 width = 48 heads = 4 ffn = 64 act = gelu
        norm = layernorm(eps: 1e-6) pos = learned(2x2)
      }
      add encoder vit : ViT {
        in = image patch = 14px depth = 1 width = 32 heads = 4 ffn = 64 act = gelu
        norm = layernorm(eps: 1e-6) pos = rope2d(theta: 100)
      }
      amend lm { in = [whole, merger] }
    """)
    assert [item_tokens(recipe, "image", part) for part in ("whole", "vit", "merger")] == [4, 16, 4]
    meaning = {name: str(size) for name, size in meaning_of(recipe).items()}
    assert meaning == {
        "image.pictures": "image.count",
        "image_vit.patches": "4 * total(image, image.merger)",
        "image.whole": "4",
        "image.merger": "4",
        "image.tokens": "8",
    }


def test_text_around_pictures_is_bounded_by_its_bytes(recipe):
    found = counted(recipe, recipe.layouts["chatml_numbered"], "image", (224, 224))
    # `Picture `, a number of at most four digits and `: `
    assert str(found.tagged) == f"{66 + 3}..{66 + 8 + 4 + 2}"


def test_a_frame_holds_one_turn_of_each_kind(recipe, chatml):
    cost = frame_cost(recipe, chatml)
    assert cost.places == 6
    text = ["system\n", "user\n", "assistant\n", "You are a helpful assistant."]
    assert cost.text.most == sum(map(len, text)) + 3
    assert frame_cost(recipe, recipe.layouts["caption"]).places == 1


def test_the_worst_sample(recipe, chatml):
    alone = frame_cost(recipe, chatml).most({}) or 0
    assert worst(recipe, chatml, {"image": 2}) == alone + 2 * 16386
    assert worst(recipe, chatml, {}) == alone


def test_layouts_say_which_inputs_they_take(recipe, variant):
    assert placed(recipe, recipe.layouts.values()) == ["image", "video"]
    plain = variant("add layout plain { text(t) -> loss(t im_end) }")
    assert placed(plain, [plain.layouts["plain"]]) == []


def test_a_refused_size_says_why(recipe, chatml):
    with pytest.raises(SizeError, match="too thin"):
        counted(recipe, chatml, "image", (28, 6000))

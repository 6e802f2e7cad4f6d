"""A pointer shows what a thing is worth, how large it is, and where it came from."""

from __future__ import annotations

import pytest


def test_a_part_has_its_shape_tokens_parameters_and_stages(base):
    shown = base.move("encoder v§it").hover()
    assert "encoder vit : ViT" in shown
    assert "f32[image.patches, 588] → float[image.patches, 256]" in shown
    assert "parameters: 3,309,824 of 46,668,032" in shown
    assert "tokens of a picture: 16 to 1,024: `4 * fit(" in shown
    assert "stage `align`: frozen" in shown
    assert "stage `all`: trained" in shown


def test_a_selector_has_its_parameters(base):
    base.swap("freeze = [vit, lm]", "freeze = [vit, lm.blocks[0..1].at§tn]")
    base.swap("freeze = [vit, lm.blocks", "freeze = [vit, lm, lm.blocks")
    # Two blocks: queries and output of 256 x 256, keys and values of 256 x 128, three biases.
    count = 2 * (2 * 256 * 256 + 2 * 256 * 128 + 256 + 2 * 128)
    assert f"{count:,} parameters" in base.move("lm.blocks[0..1].at§tn").hover()


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("    o§ut", ["merger.out = 256", "derived `lm.width`", "from `lm.width` = 256, given"]),
        ("hidden = 4 * vit.§", ["vit.width = 256"]),
        ("    vo§cab", ["lm.vocab = 151936", "required"]),
        ("bud§get: 4tok", ["image.resize.budget = 4tok..256tok", "tokens (`tok`)"]),
        ("4tok..25§6tok", ["256 tokens"]),
        ("stop   = 200§0steps", ["2,000 steps"]),
        ("special im_§end", ["id 151645", "`<|im_end|>`"]),
        ("lm : De§coder", ["grouped-query attention", "`kv_heads`"]),
        ("l§m : Decoder", ["parameters: 42,045,696", "`merger` float[image.patches // 4, 256]"]),
        ("mr§ope(", ["mrope(sections, theta)", "time, row and column"]),
        ("    tra§in  = [merger]", ["required"]),
        ("layout chat§ml {", ["`assistant`: ", "`image`: 6 to 258", "fit(image.width"]),
        ("    user§(b)", ["rule `user` of layout `chatml`", "of text tokens"]),
        ("stage a§ll {", ["trains 46,668,032 of 46,668,032"]),
        ("langu§age = 1", ["edition"]),
    ],
    ids=lambda value: value.replace("§", "").strip() if isinstance(value, str) else "",
)
def test_a_place_says(base, place, said):
    shown = base.move(place).hover()
    for piece in said:
        assert piece in shown


def test_a_variant_says_what_it_replaced_and_where(editor, base):
    text = 'recipe mine extends "base.vlm" { amend lm { ff§n = 3 * lm.width - 2 } }\n'
    shown = editor.open("mine.vlm", text).hover()
    assert "lm.ffn = 766" in shown
    assert "in place of `768` in `base`, [base.vlm:" in shown
    assert (editor.folder / "base.vlm").as_uri() in shown


def test_a_setting_has_its_bounds_and_its_meaning(editor):
    text = "recipe mine extends qwen2_vl_7b { amend stage sft { §group_by_length = 4steps } }"
    shown = editor.open("mine.vlm", text).hover()
    for piece in ("steps (`steps`)", "at least 0", "default: `0`", "share one"):
        assert piece in shown


def test_a_broken_text_shows_what_was_known(base):
    base.move("encoder v§it").hover()
    base.swap("    depth = 4\n", "    depth = 4 *\n")
    shown = base.move("encoder v§it").hover()
    assert "parameters: 3,309,824" in shown
    assert "last text without mistakes" in shown


def test_there_is_nothing_to_say_of_space(base):
    assert base.move("language = 1\n§\n").hover() == ""

"""What is offered at a cursor, while the line that it stands on is half written."""

from __future__ import annotations

import pytest

ACT = "    act   = quick_gelu\n"
ALL = "    train  = [vit, merger, lm]\n"


@pytest.mark.parametrize(
    ("old", "new", "first", "among", "absent"),
    [
        (ACT, "    §\n", ["act"], ["class_token", "final_norm"], ["width", "depth"]),
        (ACT, "    a§\n", ["act"], [], []),
        (ACT, "    act = §\n", ["gelu", "gelu_tanh"], ["silu"], ["vit", "lm.width"]),
        (ACT, ACT + "    final_norm = §\n", ["layernorm", "rmsnorm"], [], ["gelu"]),
        (ACT, ACT + "    final_norm = layernorm(§\n", ["eps"], [], []),
        (ACT, ACT + "    class_token = §\n", ["false", "true"], [], []),
        (ACT, ACT + "    layer_scale = 2 * lm.§\n", [], ["width", "depth", "heads"], ["lm"]),
        ("    context  = 2048tok\n", "    context = 32§\n", ["32tok"], ["32ktok"], ["32px"]),
        ("    patch = 14px\n", "    patch = 14p§\n", ["14px"], [], ["14tok"]),
        (ALL, "    train = [§]\n", ["lm", "merger", "vit"], ["lora", "lr"], ["image"]),
        (ALL, "    train = [lm.§]\n", ["blocks", "embed"], ["norm"], ["width"]),
        (ALL, "    train = [lm.blocks.§]\n", ["attn", "mlp"], ["norm1"], []),
        (ALL, "    train = [lm.§\n", ["blocks"], ["blocks[0..3]"], []),
        (ALL, "    train = [lora(lm, §)]\n", ["rank"], ["alpha"], ["target"]),
        ("    after  = align\n", "    after = §\n", ["align"], [], ["all", "chatml"]),
        ("    layout = caption\n", "    layout = §\n", ["caption", "chatml"], ["by"], ["vit"]),
        ("adamw(lr: 2e-4)", "adamw(lr: 2e-4, decay: §)", ["all", "matrices", "ndim"], [], []),
        ("  lm : Dec", "  §\n  lm : Dec", [], ["encoder : ViT", "stage", "layout"], ["lm"]),
        ("  lm : Dec", "  adapter x : §\n  lm : Dec", ["AttentionPool"], ["MLP"], ["ViT"]),
        ("  lm : Dec", "  asse§\n  lm : Dec", [], ["assert"], []),
        ("  assert ", "  assert chatml.§\n  assert ", ["worst"], [], []),
        ("image_pad * x.tokens vision_end\n    user", "image_pad * x.§ vision_end\n    user",
         ["tokens"], ["index", "merger"], []),
        ("loss(b im_end)", "loss(§ im_end)", ["b"], ["im_start", "user(...)", "choice(...)"], []),
        ("pad = endoftext", "pad = §", ["endoftext", "im_end"], [], ["vit"]),
    ],
    ids=lambda value: value.strip() if isinstance(value, str) else "",
)  # fmt: skip
def test_offers(base, old, new, first, among, absent):
    base.swap(old, new)
    offers = base.offers()
    assert list(offers)[: len(first)] == first
    assert set(among) <= set(offers)
    assert not set(absent) & set(offers)


def test_a_setting_comes_with_a_value_to_fill_in(base):
    base.swap(ACT, "    ac§\n")
    offer = base.offers()["act"]
    assert offer["textEdit"]["newText"] == "act = ${1|gelu,gelu_tanh,quick_gelu,relu,silu|}"
    assert offer["insertTextFormat"] == 2
    assert base.at(offer["textEdit"]["range"]) == "ac"
    assert "required" in offer["detail"]


def test_a_block_comes_with_all_that_it_needs(base):
    base.swap("  lm : Decoder", "  enc§\n  lm : Decoder")
    written = base.offers()["encoder : ViT"]["textEdit"]["newText"]
    needed = ["in", "patch", "depth", "width", "heads", "ffn", "act", "norm", "pos"]
    assert [line.split()[0] for line in written.splitlines()[1:-2]] == needed


def test_a_recipe_can_be_written_word_by_word(editor, base):
    """At each of its words something is offered, whatever stands behind or is still missing."""
    text = editor.open("mine.vlm", "§")
    piece = base.text[: base.text.index("  adapter merger")]
    for end in range(len("recipe b"), len(piece), 97):
        text.put(piece[:end] + "§")
        assert text.ask("completion") is not None


def test_variants_offer_what_there_is_to_change(editor):
    text = editor.open("mine.vlm", "recipe mine extends qwen2_vl_7b {\n  amend §\n}\n")
    there = {"encoder vit", "adapter merger", "lm", "layout chatml", "mode chat"}
    assert there <= set(text.offers())
    text.put("recipe mine extends qwen2_vl_7b {\n  drop stage §\n}\n")
    assert list(text.offers()) == ["joint", "sft", "vision"]
    text.put("recipe mine extends qwen2_vl_7b {\n  amend tokens { drop special §\n}\n")
    assert "im_end" in text.offers()
    text.put("recipe mine extends qwen2_vl_7b {\n  amend lm {\n    §\n  }\n}\n")
    assert {"width", "drop"} <= set(text.offers())


def test_recipes_are_offered_where_one_is_extended_or_imported_from(editor):
    text = editor.open("mine.vlm", "recipe mine extends §")
    offers = text.offers()
    assert "qwen2_vl_2b" in offers and "mine" not in offers
    assert "Qwen2-VL" in offers["qwen2_vl_2b"]["documentation"]["value"]
    text.put("recipe mine extends qwen2_vl_7b {\n  import sam from §\n}\n")
    assert "deepseek_vl_7b" in text.offers()
    text.put("recipe mine extends qwen2_vl_7b {\n  import s§ from deepseek_vl_7b\n}\n")
    assert {"sam", "siglip", "neck"} <= set(text.offers())


def test_a_new_file_can_be_begun(editor):
    offers = editor.open("new.vlm", "re§").offers()
    assert "language = 1" in offers["recipe"]["textEdit"]["newText"]


@pytest.mark.parametrize("text", ['recipe a { tokens { special x = "im_§', "recipe a { # lm.§"])
def test_nothing_is_offered_inside_strings_and_comments(editor, text):
    assert editor.open("a.vlm", text).offers() == {}


@pytest.mark.parametrize(
    "broken",
    ["", "}", "recipe", "recipe a {", "recipe a { lm : ", "§{}[](", 'recipe a { x = "', "→ ≤ 😀 §"],
)
def test_no_text_is_too_broken_to_ask_about(editor, broken):
    text = editor.open("a.vlm", broken if "§" in broken else broken + "§")
    text.offers()
    text.hover()
    assert text.ask("definition") is None
    assert text.ask("documentSymbol") is not None

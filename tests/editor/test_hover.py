"""A pointer shows what a thing is worth, how large it is, and where it came from."""

from __future__ import annotations

import pytest

from triptych.dsl.load import shipped_recipes

BASE = shipped_recipes()["qwen2_vl_7b"].read_text(encoding="utf-8")
VARIANT = """
recipe mine extends qwen2_vl_7b {
  amend lm { width = 1792 heads = 14 kv_heads = 2 ffn = 4 * lm.width }
}
"""


@pytest.fixture
def base(editor):
    return editor.open("base.vlm", BASE.replace("recipe qwen2_vl_7b", "recipe base"))


def test_a_part_has_its_shape_tokens_parameters_and_stages(base):
    shown = base.move("encoder v§it").hover()
    assert "encoder vit : ViT" in shown
    assert "float[image.patches, 1280]" in shown
    assert "parameters: 631,183,360 of 8,291,375,616" in shown
    assert "tokens of a picture: 16 to 65,536" in shown
    assert "stage `vision`: trained" in shown
    assert "stage `sft`: frozen" in shown

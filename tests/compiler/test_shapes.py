"""Parts that see pictures of one size: what does not fit is told, with both parties and a fix."""

from __future__ import annotations

import pytest

from triptych.compiler.pipeline import prove
from triptych.dsl.diagnostics import RecipeError, render
from triptych.dsl.load import load_text

TILED, JOINED = "internvl_1_5_tiny", "deepseek_vl_tiny"
ANY_SIZE = "amend input image { resize = native(multiple: 8px, budget: 1tok..64tok) }"
QUERIES = """replace adapter shuffle : Resampler {
  in = vit.patches queries = 4x4 width = 48 heads = 3 norm = layernorm(eps: 1e-6) out = 48
}"""
MISTAKES = {
    "S405_patches": (TILED, "amend encoder vit { patch = 5px }"),
    "S407_class_token": (TILED, "amend adapter shuffle { in = vit }"),
    "S407_no_grid": (
        TILED,
        """add adapter queries : QFormer {
          in = vit.patches queries = 16 depth = 2 width = 48 heads = 3 ffn = 96
          act = gelu norm = layernorm(eps: 1e-12)
        }
        amend adapter shuffle { in = queries }""",
    ),
    "S408_packed": (
        TILED,
        f"{ANY_SIZE} drop stage pretrain amend stage sft {{ drop after }} "
        "amend mode chat { drop resize } amend encoder vit { heads = 4 pos = rope2d(theta: 1e4) "
        "class_token = false } " + QUERIES,
    ),
    "S409_any_size": (TILED, f"{ANY_SIZE} amend mode chat {{ drop resize }}"),
    "S410_no_scale": (TILED, "amend input image { drop normalize }"),
    "S410_no_mean": (
        JOINED,
        "amend input image { drop normalize } amend encoder sam { normalize = clip() }",
    ),
    "S411_table": (JOINED, "amend encoder siglip { pos = learned(7x7) }"),
    "S412_no_output": (JOINED, "amend adapter aligner { in = [neck, siglip.pooled] }"),
    "S412_no_block": (JOINED, "amend adapter neck { in = [sam.blocks[3], sam.blocks[9]] }"),
    "S413_windows": (TILED, "amend adapter shuffle { factor = 3 }"),
    "S414_places": (JOINED, "amend adapter neck { strided = [12, 24, 24] }"),
    "S414_class_token": (JOINED, "amend encoder siglip { class_token = true }"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told(golden, name):
    base, body = MISTAKES[name]
    with pytest.raises(RecipeError) as caught:
        prove(load_text(f"recipe mine extends {base} {{ {body} }}", "mine.vlm"))
    errors = [found for found in caught.value.diagnostics if found.severity == "error"]
    shown = render(errors)
    assert f"error[{name.partition('_')[0]}]" in shown
    golden.check(f"proofs/{name}.txt", shown)

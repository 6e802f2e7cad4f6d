"""Differences between models: each edit in its group, and what can be taken over."""

from __future__ import annotations

import json

import pytest

from triptych.compiler.diff import diff
from triptych.dsl.load import load_recipe


def told(found):
    return [(edit.group, str(edit)) for edit in found.edits]


def test_the_7b_and_the_2b_differ_as_the_sheet_says(golden):
    found = diff(load_recipe("qwen2_vl_7b"), load_recipe("qwen2_vl_2b"))
    golden.check("diff/qwen2_vl_7b_2b.json", json.dumps(found.to_json(), indent=2))
    assert {edit.group for edit in found.edits} == {"WEIGHTS"}
    assert {edit.path for edit in found.edits} == {
        *(f"lm.{name}" for name in ["width", "heads", "kv_heads", "ffn", "vocab", "tied", "start"]),
        "merger.out",
        "weights.from",
    }
    kept = {part.name: part.reusable for part in found.parts}
    assert kept == {"vit": 631_183_360, "merger": 26_222_080, "lm": 0}


def test_nothing_differs_from_itself(tiny):
    found = diff(tiny, tiny)
    assert not found
    assert all(part.old == part.reusable for part in found.parts)


@pytest.mark.parametrize(
    ("body", "edits"),
    [
        (
            "amend lm { norm = rmsnorm(eps: 1e-5) }",
            [("NUMERICS", "lm.norm.eps  1e-06 -> 1e-05")],
        ),
        ("amend encoder vit { heads = 8 }", [("NUMERICS", "vit.heads  4 -> 8")]),
        ("amend encoder vit { act = gelu }", [("NUMERICS", "vit.act  quick_gelu -> gelu")]),
        (
            "amend encoder vit { qkv_bias = false }",
            [("WEIGHTS", "vit.qkv_bias  true -> false")],
        ),
        (
            "amend encoder vit { pos = rope2d(theta: 100) }",
            [("NUMERICS", "vit.pos.theta  10000 -> 100")],
        ),
        (
            "amend lm { pos = rope(theta: 1e6) }",
            [
                ("NUMERICS", "lm.pos  mrope -> rope"),
                ("NUMERICS", "- lm.pos.sections  [2, 2, 2]"),
            ],
        ),
        ("amend input image { alpha = white }", [("NUMERICS", "image.alpha  drop -> white")]),
        ("amend input image { aspect = ..9 }", [("TOKENS", "image.aspect  ..200 -> ..9")]),
        ("amend input video { rate = 1fps }", [("TOKENS", "video.rate  2 -> 1")]),
        (
            "amend layout chatml { replace user(b) -> im_start b im_end }",
            [
                (
                    "PROMPTS",
                    'chatml.user  (b) -> im_start "user\\n" b im_end "\\n"'
                    " -> (b) -> im_start b im_end",
                )
            ],
        ),
        ("drop layout chatml_numbered", [("PROMPTS", "- chatml_numbered")]),
        (
            "amend tokens { drop special quad_end }",
            [
                ("PROMPTS", "- tokens.specials.quad_end.text  <|quad_end|>"),
                ("PROMPTS", "- tokens.specials.quad_end.id  151651"),
            ],
        ),
        (
            "amend stage sft { train = [lm, merger] freeze = [vit] }",
            [
                ("STAGES", "sft.train  [lm] -> [lm, merger]"),
                ("STAGES", "sft.freeze  [vit, merger] -> [vit]"),
            ],
        ),
        (
            "amend stage sft { train = [lm, lr(merger, 0.5)] freeze = [vit] }",
            [
                ("STAGES", "sft.train  [lm] -> [lm, lr(merger, 0.5)]"),
                ("STAGES", "sft.freeze  [vit, merger] -> [vit]"),
            ],
        ),
        ("drop stage sft", [("STAGES", "- sft  stage")]),
        ("amend mode chat { new = 9tok }", [("STAGES", "chat.new  1024 -> 9")]),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_edit_has_its_group(tiny, variant, body, edits):
    assert told(diff(tiny, variant(body))) == edits


def test_a_wider_adapter_follows_the_model(tiny, variant):
    found = diff(tiny, variant("amend lm { width = 96 heads = 8 kv_heads = 4 }"))
    derived = {edit.path for edit in found.edits if edit.derived}
    assert derived == {"merger.out"}


def test_an_input_that_is_gone(tiny, variant):
    found = diff(tiny, variant("drop input video amend encoder vit { in = image }"))
    assert told(found) == [("TOKENS", "- video")]
    assert all(part.old == part.new == part.reusable for part in found.parts)


def test_what_stays_the_same_is_said(tiny, variant):
    found = diff(tiny, variant("amend lm { ffn = 48 }"))
    assert found.same == (
        "vit (54,720 reusable)",
        "merger (22,768 reusable)",
        "tokens",
        "prompts",
        "numerics",
        "stages",
    )


def test_the_way_back_has_the_same_edits():
    small, large = load_recipe("qwen2_vl_2b"), load_recipe("qwen2_vl_7b")
    there = {(e.group, e.path, e.old, e.new) for e in diff(large, small).edits}
    back = {(e.group, e.path, e.new, e.old) for e in diff(small, large).edits}
    assert there == back

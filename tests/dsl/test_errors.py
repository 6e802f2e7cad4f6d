"""Every mistake that the front end can find is said in words that an author can act on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

import triptych.dsl
from triptych.dsl.codes import CODES, FAMILIES
from triptych.dsl.diagnostics import RecipeError, ansi, render
from triptych.dsl.load import load_recipe, load_text

GOLDEN = Path(__file__).parent.parent / "golden"

# name -> (code, the body of a variant of small.vlm)
VARIANTS: dict[str, tuple[str, str]] = {
    "unknown_setting": ("N209", "amend lm { widht = 96 }"),
    "unknown_setting_far_off": ("N209", "amend merger_ { }\n amend adapter merger { bananas = 3 }"),
    "amend_lacking": ("N209", "amend encoder vti { depth = 3 }"),
    "amend_lacking_stage": ("N209", "amend stage third { seed = 1 }"),
    "amend_dropped": ("N209", "drop stage second\n amend stage second { seed = 1 }"),
    "amend_wrong_kind": ("N215", "amend adapter vit { depth = 3 }"),
    "amend_other_type": ("N215", "amend encoder vit : SamViT { depth = 3 }"),
    "amend_special_lacking": ("N209", 'amend tokens { special pace = "<p>" @ 502 }'),
    "add_present": ("N210", "add stage first { }"),
    "add_special_present": ("N210", 'amend tokens { add special end = "<e>" @ 502 }'),
    "declared_again": ("N210", "stage first { }"),
    "no_verb": ("N211", "stage third { }"),
    "tokens_dropped": ("N213", "drop tokens"),
    "drop_lacking": ("N209", "drop stage sceond"),
    "drop_setting_lacking": ("N209", "amend lm { drop kv_head }"),
    "drop_assert_lacking": ("N209", "drop assert caption.worst(images: 2) <= lm.context"),
    "range_from_nothing": ("V305", "amend mode tell { batch = 0..4 }"),
    "range_to_nothing": ("V305", "amend mode tell { prompt = ..0tok }"),
    "aspect_of_strips": ("V305", "amend input image { aspect = 5..9 }"),
    "small_group": ("V305", "amend mode tell { quantize = int4(lm.blocks, group: 8) }"),
    "odd_group": ("V305", "amend mode tell { quantize = [int4(lm.blocks, group: 33)] }"),
    "verb_before_a_setting": ("V315", "amend stage first { add seed = 1 }"),
    "amended_setting_elsewhere": ("V315", "amend mode tell { amend batch = 1..2 }"),
    "unknown_new_token": ("N204", "amend tokens { new = [end, pace] }"),
    "verb_in_new_block": ("N211", "add layout other { add text(t) -> loss(t end) }"),
    "setting_twice": ("N206", "amend lm { depth = 3 depth = 4 }"),
    "two_blocks_of_one_name": (
        "N205",
        "add layout extra { text(t) -> loss(t end) }\n add mode extra { }",
    ),
    "unknown_block": ("N203", "add adpater fine : MergeMLP { }"),
    "unknown_type": ("N203", "add encoder sam : Vit { }"),
    "type_missing": ("N203", "add encoder sam { }"),
    "type_superfluous": ("N203", "add stage third : Fast { }"),
    "name_superfluous": ("N203", "replace lm big : Decoder { }"),
    "name_missing": ("N203", "add encoder : ViT { }"),
    "unknown_input": ("N203", "add input sound { }"),
    "statement_not_at_home": ("N203", 'amend lm { special end = "<e>" @ 5 }'),
    "unknown_recipe_setting": ("N202", "languge = 1"),
    "reserved_name": ("N216", "add adapter half : Linear { in = vit out = lm.width }"),
    "reserved_letter": ("N216", "add adapter _apply : Linear { in = vit out = lm.width }"),
    "missing_settings": ("N212", "add mode quick { layout = caption }"),
    "unknown_part_in_value": ("N204", "amend adapter merger { out = lmm.width }"),
    "unknown_setting_in_value": ("N204", "amend adapter merger { out = lm.widht }"),
    "reference_without_value": ("N204", "amend lm { context = first.pack }"),
    "unknown_feed": ("N204", "amend adapter merger { in = vitt }"),
    "dropped_feed": ("N204", "drop input image"),
    "wrong_feed": ("N215", "amend encoder vit { in = lm }"),
    "call_of_a_truth": ("N214", "amend lm { norm = true(1) }"),
    "assert_of_a_grid": ("V303", "assert vit.width == 20x20"),
    "too_deep": ("V305", "amend lm { depth = 8192 }"),
    "floor_too_high": (
        "V305",
        "amend input image { resize = native(multiple: 28px, budget: 1000000000000000000tok) }",
    ),
    "too_many_tiles": ("V305", "amend input image { resize = tiles(56px, 1..1000000000) }"),
    "no_writer": ("N215", "amend mode tell { from = vit.blocks[0..1] }"),
    "unknown_loss": ("N204", "amend stage first { loss = [lm, itc] }"),
    "unknown_pad": ("N204", "amend tokens { pad = ned }"),
    "unknown_objective_part": (
        "N204",
        "add objective o : RegionWords { regions = mergre words = lm.embed temperature = 0.07 }",
    ),
    "assert_unknown": ("N204", "assert lm.widht == 64"),
    "assert_no_value": ("N204", "assert lm == 64"),
    "assert_unknown_call": ("N214", "assert caption.wrost(images: 1) <= lm.context"),
    "assert_unknown_layout": ("L704", "assert captoin.worst(images: 1) <= lm.context"),
    "circular_value": (
        "N208",
        "amend lm { width = vit.width }\n amend encoder vit { width = 2 * lm.width }",
    ),
    "circular_self": ("N208", "amend lm { width = lm.width + 1 }"),
    "circular_parts": ("N208", "amend encoder vit { in = merger }"),
    "unknown_call": ("N214", "amend lm { pos = rop(theta: 1e4) }"),
    "call_that_does_not_fit": ("N214", "amend lm { pos = rope2d(theta: 1e4) }"),
    "call_without_brackets": ("V303", "amend input image { normalize = clip }"),
    "value_is_no_call": ("V303", "amend lm { norm = 3 }"),
    "argument_missing": ("V310", "amend lm { norm = rmsnorm() }"),
    "argument_unknown": ("V311", "amend lm { norm = rmsnorm(epz: 1e-6) }"),
    "argument_unnamed": ("V311", "amend lm { norm = rmsnorm(1e-6) }"),
    "argument_twice": (
        "V311",
        "amend lm { pos = mrope([2, 3, 3], sections: [1, 1, 6], theta: 1e4) }",
    ),
    "assumed_without_value": ("V310", "amend lm { depth = assumed() }"),
    "bare_number": ("V302", "amend lm { context = 2048 }"),
    "wrong_unit": ("V301", "amend lm { context = 2048px }"),
    "unit_superfluous": ("V301", "amend lm { depth = 12tok }"),
    "wrong_unit_in_range": (
        "V301",
        "amend input image { resize = native(multiple: 28px, budget: 4px..64px) }",
    ),
    "bare_stop": ("V302", "amend stage first { stop = 100 }"),
    "wrong_stop": ("V301", "amend stage first { stop = 100px }"),
    "unknown_unit": ("V313", "amend lm { context = 2048tokens }"),
    "units_mixed": ("V306", "amend lm { context = 28px + 4tok }"),
    "units_multiplied": ("V306", "amend encoder vit { patch = 2px * 7px }"),
    "arithmetic_on_words": ("V303", "amend lm { width = 2 * vit.act }"),
    "fraction": ("V308", "amend lm { depth = 5 / 2 }"),
    "division_by_zero": ("V312", "amend lm { depth = 5 / (vit.depth - 2) }"),
    "huge_number": ("V307", "amend lm { depth = 9999999999999999999999 }"),
    "huge_product": ("V307", "amend lm { depth = 1e12 * 1e12 }"),
    "negative": ("V305", "amend lm { depth = -2 }"),
    "zero": ("V305", "amend stage first { batch = 0seq }"),
    "empty_list": ("V305", "amend stage first { train = [] }"),
    "short_list": ("V303", "amend lm { pos = mrope([2, 3], theta: 1e6) }"),
    "empty_range": ("V309", "amend mode tell { batch = 4..1 }"),
    "no_tiles": ("V305", "amend input image { resize = tiles(28px, 0..0) }"),
    "shorter_side_is_longer": (
        "V305",
        "amend input image { resize = letterbox(28px, least: 56px) }",
    ),
    "colour_too_bright": (
        "V305",
        "amend input image { resize = padded(28px, pad: [0, 0, 256]) }",
    ),
    "word_for_a_colour": ("V303", "amend input image { resize = padded(28px, pad: black) }"),
    "unknown_choice": ("V304", "amend lm { act = silo }"),
    "number_for_a_word": ("V303", "amend lm { act = 3 }"),
    "word_for_a_number": ("V303", "amend lm { depth = many }"),
    "word_for_a_flag": ("V303", "amend lm { tied = yes }"),
    "string_for_a_name": ("V303", 'amend mode tell { layout = "caption" }'),
    "number_for_a_grid": ("V303", "amend adapter merger { window = 2 }"),
    "heads": ("S401", "amend lm { heads = 5 }"),
    "heads_of_the_tower": ("S401", "amend encoder vit { heads = 3 }"),
    "kv_heads": ("S402", "amend lm { kv_heads = 3 }"),
    "rotary_sections": ("S403", "amend lm { pos = mrope([2, 3, 4], theta: 1e6) }"),
    "rotary_of_the_tower": ("S403", "amend encoder vit { width = 36 }"),
    "special_outside": ("T501", 'amend tokens { special place = "<place>" @ 512 }'),
    "special_id_twice": ("T502", 'amend tokens { special place = "<place>" @ 500 }'),
    "special_text_twice": ("T503", 'amend tokens { special place = "<end>" @ 501 }'),
    "selector_unknown": ("F604", "amend stage first { freeze = [vti.blocks[0..1], lm] }"),
    "after_unknown": ("F605", "amend stage second { after = frist }"),
    "after_circle": ("F606", "amend stage first { after = second }"),
    "warmed_up_twice": (
        "F610",
        "amend stage first { schedule = cosine(warmup: 2steps, warmup_ratio: 0.1) }",
    ),
    "stairs_apart": ("F610", "amend stage first { schedule = step(at: [0.9, 0.8], factors: [1]) }"),
    "nothing_at_first": (
        "V305",
        "amend stage first { data = mix(chat: ramp(0, 1, over: 2steps)) }",
    ),
    "apart_unknown": ("F611", "amend stage first { apart = nothing }"),
    "kind_without_layout": (
        "F611",
        "amend stage first { data = mix(a: 1, b: 1) layout = by(a: caption) }",
    ),
    "layout_of_kind_unknown": (
        "L704",
        "amend stage first { data = mix(a: 1) layout = by(a: captions) }",
    ),
    "layout_unknown": ("L704", "amend mode tell { layout = captions }"),
    "layout_word": ("L701", "amend layout caption { pair(x, t) -> image(x) loss(t ned) }"),
    "layout_rule_as_word": ("L701", "amend layout caption { pair(x, t) -> image loss(t end) }"),
    "layout_parameter": ("L701", "amend layout caption { image(x) -> place * y.tokens }"),
    "layout_field": ("L701", "amend layout caption { image(x) -> place * x.token }"),
    "layout_rule": ("L702", "amend layout caption { pair(x, t) -> picture(x) loss(t end) }"),
    "layout_idle_rule": ("L702", "amend layout caption { add asistant(b) -> loss(b end) }"),
    "layout_arguments": ("L703", "amend layout caption { pair(x, t) -> image(x, t) loss(t end) }"),
    "layout_parameters": ("L703", "amend layout caption { image(x, y) -> place * x.tokens }"),
    "layout_parameter_twice": (
        "L703",
        "amend layout caption { pair(x, x) -> image(x) loss(x end) }",
    ),
    "layout_loss_apart": (
        "L710",
        "amend layout caption { pair(x, t) -> image(x) apart(loss(t end)) }",
    ),
    "layout_part": ("L701", "amend layout caption { image(x) -> place * x.mreger }"),
    "layout_stop": ("L701", 'amend layout caption { stop = ["###", ned] }'),
    "layout_stop_kind": ("V303", "amend layout caption { stop = 5 }"),
    "layout_recursion": ("L708", "amend layout caption { image(x) -> image(x) }"),
    "layout_loss_twice": (
        "L709",
        "amend layout caption { pair(x, t) -> image(x) loss(loss(t) end) }",
    ),
    "ignored_without_reason": ("V305", 'add weights { from = hf("a/b") ignore "x.*" : "" }'),
    "map_call": ("N214", 'add weights { from = hf("a/b") map "x" -> transpose("lm.norm") }'),
    "map_groups": (
        "V305",
        'add weights { from = hf("a/b") '
        'map "x" -> joined(["lm.a", "lm.b"], groups: lm.depth - 2) }',
    ),
    "map_alone": ("V305", 'add weights { from = hf("a/b") map "x" -> joined(["lm.norm"]) }'),
    "map_word": ("E101", 'add weights { from = hf("a/b") map "x" -> lm.norm }'),
}

# name -> (code, a whole text)
TEXTS: dict[str, tuple[str, str]] = {
    "no_recipe": ("E108", "# only a comment\n"),
    "outside": ("E101", "width = 3\n"),
    "equals_missing": ("E101", "recipe r {\n  lm : Decoder {\n    depth 28\n  }\n}\n"),
    "colon_for_equals": ("E101", "recipe r {\n  lm : Decoder {\n    depth: 28\n  }\n}\n"),
    "colon_at_the_top": ("E101", "recipe r {\n  language: 1\n}\n"),
    "value_missing": ("E101", "recipe r {\n  lm : Decoder {\n    depth =\n    width = 3\n  }\n}\n"),
    "keyword_misspelt": ("E101", 'recipe r {\n  tokens {\n    mpa "a" -> "b"\n  }\n}\n'),
    "block_in_block": ("E101", "recipe r {\n  lm : Decoder {\n    stage x {\n    }\n  }\n}\n"),
    "comma_missing": ("E101", "recipe r {\n  lm : Decoder {\n    in = [a b]\n  }\n}\n"),
    "index_with_unit": ("E101", "recipe r {\n  stage s {\n    train = vit.blocks[2px]\n  }\n}\n"),
    "two_syntax_errors": (
        "E101",
        "recipe r {\n  lm : Decoder {\n    depth 28\n    width = 3\n    heads: 4\n  }\n}\n",
    ),
    "string_open": ("E102", 'recipe r {\n  tokens {\n    tokenizer = tiktoken("qwen)\n  }\n}\n'),
    "string_escape": ("E102", 'recipe r {\n  layout l {\n    user(b) -> "a\\q" b\n  }\n}\n'),
    "brace_open": ("E103", "recipe r {\n  lm : Decoder {\n    depth = 2\n}\n"),
    "bracket_crossed": ("E103", "recipe r {\n  lm : Decoder {\n    in = [a, (b]\n  }\n}\n"),
    "brace_superfluous": ("E103", "recipe r {\n}\n}\n"),
    "quotes": ("E104", "recipe r {\n  tokens {\n    tokenizer = tiktoken('qwen')\n  }\n}\n"),
    "letters": ("E104", "recipe r {\n  lm : Décodeur {\n  }\n}\n"),
    "control_character": ("E104", "recipe r {\n  lm : Decoder {\n    depth = \x07\n  }\n}\n"),
    "nested_deeply": ("E110", "recipe r {\n  x = " + "[" * 500 + "]" * 500 + "\n}\n"),
    "chained_deeply": ("E110", "recipe r {\n  x = 1" + " + 1" * 500 + "\n}\n"),
    "too_long": ("E105", "recipe r {\n" + "# what is there to say\n" * 3_000 + "}\n"),
    "too_many_blocks": (
        "E112",
        "recipe r {\n  language = 1\n"
        + "".join(f"  layout l{i} {{\n  }}\n" for i in range(300))
        + "}\n",
    ),
    "recipes_in_a_chain": (
        "E111",
        "".join(f"recipe r{i} extends r{i + 1} {{\n}}\n" for i in range(70)) + "recipe r70 {\n}\n"
        "recipe last {\n  import lm from r0\n}\n",
    ),
    "edition_missing": ("E106", "recipe r {\n}\n"),
    "edition_unknown": ("E106", "recipe r {\n  language = 7\n}\n"),
    "base_unknown": ("N201", "recipe r extends qwen2_vl_7 {\n}\n"),
    "base_unreadable": ("E107", 'recipe r extends "nowhere.vlm" {\n}\n'),
    "extends_circle": (
        "N207",
        "recipe a extends b {\n}\nrecipe b extends c {\n}\nrecipe c extends a {\n}\n",
    ),
    "import_circle": (
        "N217",
        "recipe a {\n  import lm from b\n}\nrecipe b {\n  import lm from c\n}\n"
        "recipe c {\n  import lm from a\n}\n",
    ),
    "import_circle_of_one": ("N217", "recipe a {\n  import lm from a\n}\n"),
    "import_and_extends_circle": (
        "N217",
        "recipe a extends b {\n}\nrecipe b {\n  import lm from c\n}\nrecipe c extends a {\n}\n",
    ),
    "import_lacking": (
        "N218",
        "recipe r {\n  language = 1\n  import merger, vti from qwen2_vl_7b\n}\n",
    ),
    "import_dropped": (
        "N218",
        "recipe a extends qwen2_vl_7b {\n  drop weights\n}\n"
        "recipe r {\n  language = 1\n  import weights from a\n}\n",
    ),
    "import_recipe_unknown": ("N201", "recipe r {\n  import lm from qwen2_vl_8b\n}\n"),
    "import_file_unreadable": ("E107", 'recipe r {\n  import lm from "nowhere.vlm"\n}\n'),
    "import_lm_renamed": ("N203", "recipe r {\n  import lm as llm from qwen2_vl_7b\n}\n"),
    "import_input_renamed": ("N203", "recipe r {\n  import image as pic from qwen2_vl_7b\n}\n"),
    "import_as_lm": ("N215", "recipe r {\n  import vit as lm from qwen2_vl_7b\n}\n"),
    "import_reserved_name": ("N216", "recipe r {\n  import vit as half from qwen2_vl_7b\n}\n"),
    "import_twice": (
        "N205",
        "recipe r {\n  import vit from qwen2_vl_7b\n"
        "  import siglip as vit from deepseek_vl_7b\n}\n",
    ),
    "import_and_block": (
        "N205",
        "recipe r {\n  import lm from qwen2_vl_7b\n  lm : Decoder {\n  }\n}\n",
    ),
    "import_of_what_the_base_has": (
        "N210",
        "recipe r extends qwen2_vl_2b {\n  import lm, siglip as vit from deepseek_vl_7b\n}\n",
    ),
    "import_below_its_amend": (
        "N209",
        "recipe r {\n  language = 1\n  amend lm {\n    depth = 2\n  }\n"
        "  import lm from qwen2_vl_7b\n}\n",
    ),
    "amend_of_no_import": (
        "N209",
        "recipe r {\n  language = 1\n  import lm, merger from qwen2_vl_7b\n"
        "  amend adapter merge {\n    out = 3\n  }\n}\n",
    ),
    "import_unfinished": ("E101", "recipe r {\n  import encoder vit from qwen2_vl_7b\n}\n"),
    "amend_without_base": ("N211", "recipe r {\n  language = 1\n  amend lm {\n  }\n}\n"),
    "drop_without_base": ("N211", "recipe r {\n  language = 1\n  drop lm\n}\n"),
    "loss_without_model": (
        "N213",
        'recipe r {\n  language = 1\n  tokens {\n    tokenizer = tiktoken("qwen")\n'
        '    special end = "<end>" @ 1\n    pad = end\n  }\n'
        "  layout l {\n    text(t) -> loss(t end)\n  }\n"
        "  stage s {\n    train = [lm]\n    layout = l\n    data = mix(text: 1)\n"
        "    stop = 1steps\n    batch = 1seq\n    optim = adamw(lr: 1)\n  }\n}\n",
    ),
}


@pytest.mark.parametrize("name", VARIANTS)
def test_variant(name, load_variant, golden):
    code, body = VARIANTS[name]
    with pytest.raises(RecipeError) as caught:
        load_variant(body)
    assert code in {diagnostic.code for diagnostic in caught.value.diagnostics}
    golden.check(f"errors/{name}.txt", caught.value.render())


@pytest.mark.parametrize("name", TEXTS)
def test_text(name, golden):
    code, text = TEXTS[name]
    with pytest.raises(RecipeError) as caught:
        load_text(text, "case.vlm")
    assert code in {diagnostic.code for diagnostic in caught.value.diagnostics}
    golden.check(f"errors/{name}.txt", caught.value.render())


def test_every_code_of_the_front_end_has_a_message(golden):
    """A code that dsl/ can raise is shown by one of the cases; the compiler shows its own."""
    folder = Path(triptych.dsl.__file__).parent
    raised = {
        code
        for path in folder.glob("*.py")
        if path.name != "codes.py"
        for code in re.findall(r'"([ENVSTFLW]\d{3})"', path.read_text(encoding="utf-8"))
    }
    shown = {code for code, _ in (*VARIANTS.values(), *TEXTS.values())} | ELSEWHERE
    assert raised - shown == set()
    assert raised <= set(CODES)


ELSEWHERE = {"E109"}
"""Raised by what writes files; see tests/cli/test_fmt.py."""


def test_codes_are_lasting(golden):
    """--update-golden only adds rows: to say better what a code is about, edit the row by hand."""
    rows = [f"{code} {title}" for code, title in CODES.items()]
    kept = (GOLDEN / "errors/codes.txt").read_text(encoding="utf-8").splitlines()
    assert set(kept) - set(rows) == set(), "a code was taken away, or stands for something else"
    assert [row[0] for row in rows] == sorted((row[0] for row in rows), key=list(FAMILIES).index)
    golden.check("errors/codes.txt", "\n".join(rows))


def test_independent_mistakes_are_reported_together(load_variant, golden):
    with pytest.raises(RecipeError) as caught:
        load_variant(
            """
            amend lm { act = silo depth = 2px context = 900 }
            amend adapter merger { out = lm.widht in = vitt }
            amend stage first { after = secnd freeze = [vit, ml] }
            drop mode tel
            """
        )
    assert len(caught.value.diagnostics) == 8
    golden.check("errors/several.txt", caught.value.render())


@pytest.mark.parametrize(
    ("value", "code"), [("28px + 4tok", "V306"), ("28px", "V301"), ("-4", "V305"), ("wide", "V303")]
)
def test_a_bad_value_is_reported_once_however_often_it_is_used(load_variant, value, code):
    with pytest.raises(RecipeError) as caught:
        load_variant(f"amend encoder vit {{ width = {value} }}")  # the merger refers to it
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == [code]


def test_a_part_of_unknown_type_causes_nothing_further(load_variant):
    with pytest.raises(RecipeError) as caught:
        load_variant("replace encoder vit : Vit { in = image }")
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == ["N203"]


def test_a_mistake_of_a_variant_points_at_its_base_in_the_other_file(golden):
    with pytest.raises(RecipeError) as caught:
        load_text("recipe mine extends qwen2_vl_7b {\n  amend lm { heads = 24 }\n}\n", "mine.vlm")
    golden.check("errors/across_files.txt", caught.value.render())


def test_a_mistake_in_a_base_is_shown_there(tmp_path):
    (tmp_path / "base.vlm").write_text("recipe base {\n  language = 2\n}\n")
    (tmp_path / "top.vlm").write_text('recipe top extends "base.vlm" {\n}\n')
    with pytest.raises(RecipeError) as caught:
        load_recipe(str(tmp_path / "top.vlm"))
    (diagnostic,) = caught.value.diagnostics
    assert diagnostic.primary
    assert str(diagnostic.primary.span) == f"{tmp_path / 'base.vlm'}:2:14"


def test_fixes_that_a_machine_can_make_lead_to_a_good_recipe(small):
    """Each edit is applied as it stands, and the recipe loads."""
    for wrong, right in (
        ("context = 1024tok", "context = 1024"),
        ("act     = silu", "act     = silo"),
        ("out    = lm.width", "out    = lm.widht"),
        ("layout = caption\n    batch", "layout = capton\n    batch"),
        ("depth   = 2", "depht   = 2"),
        ("normalize = half()", "normalize = half"),
    ):
        text = small.replace(wrong, right)
        assert text != small
        with pytest.raises(RecipeError) as caught:
            load_text(text)
        edits = [
            edit
            for diagnostic in caught.value.diagnostics
            if diagnostic.fix
            for edit in diagnostic.fix.edits
        ]
        assert edits, right
        for edit in sorted(edits, key=lambda edit: -edit.span.start):
            text = text[: edit.span.start] + edit.text + text[edit.span.end :]
        load_text(text)


def test_wide_letters_and_tabs_keep_the_carets_in_place():
    with pytest.raises(RecipeError) as caught:
        load_text('recipe r {\n\tlayout l { user(b) -> "一二" many }\n}\n', "case.vlm")
    lines = caught.value.render().splitlines()
    shown = next(line for line in lines if "一二" in line)
    carets = next(line for line in lines if re.search(r" \^{4} ", line))
    assert shown.index("many") + 2 == carets.index("^^^^")  # two letters are two columns wide


def test_colours_are_only_around_the_words():
    with pytest.raises(RecipeError) as caught:
        load_text("recipe r {\n  language = 7\n}\n", "case.vlm")
    coloured = render(caught.value.diagnostics, ansi)
    assert "\x1b[1;31merror[E106]" in coloured
    assert re.sub(r"\x1b\[[0-9;]*m", "", coloured) + "\n" == caught.value.render()

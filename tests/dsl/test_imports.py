"""What `import` brings in, under which name, and where each value says it came from."""

from __future__ import annotations

import pytest

from triptych.dsl import load
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.files import shipped_recipes
from triptych.dsl.format import format_text


def load_recipe(name):
    return load.load_recipe(name)


def load_text(text, name="<text>"):
    return load.load_text(text, name)


OTHER = """
recipe other {
  language = 1
  encoder vit : ViT {
    in = image patch = 14px depth = 2 width = 48 heads = 4 ffn = 4 * vit.width act = gelu
    norm = layernorm(eps: 1e-6) pos = rope2d(theta: 1e4)
  }
  adapter gelu : MergeMLP {
    in = vit window = 2x2 norm = layernorm(eps: 1e-6) hidden = 2 * vit.width out = lm.width
    act = gelu
  }
  weights {
    from = hf("a/b")
    map "visual.*" -> "vit.*"
    map "proj.*"   -> transposed("gelu.*")
    ignore "vit.*" : "a buffer"
  }
}
"""
DROPPED = (
    "drop encoder vit drop adapter merger drop stage second amend mode tell { layout = caption }"
)


def whole(small, body):
    """A variant of `small` that takes its tower and adapter from `other`."""
    return load_text(f"{small}{OTHER}recipe case extends small {{ {DROPPED} {body} }}", "case.vlm")


STAGE = "amend stage first { train = [fold] freeze = [tower, lm] }"
BODY = f"import vit as tower, gelu as fold from other amend lm {{ in = fold }} {STAGE}"
IMAGE = "amend input image { resize = native(multiple: 2 * tower.patch, budget: 1tok..16tok) }"


def test_a_renamed_block_keeps_its_ties_to_what_comes_with_it(small):
    recipe = whole(small, BODY + IMAGE)
    assert list(recipe.encoders) == ["tower"]
    assert recipe.encoders["tower"].ffn == 4 * 48
    assert [taken.text for taken in recipe.adapters["fold"].in_] == ["tower"]
    assert recipe.adapters["fold"].hidden == 2 * 48


def test_a_choice_is_no_name_of_a_block(small):
    assert whole(small, BODY + IMAGE).adapters["fold"].act == "gelu"


def test_what_an_import_refers_to_is_found_where_it_comes_to(small):
    recipe = whole(small, BODY + IMAGE)
    assert recipe.adapters["fold"].out == recipe.lm.width


def test_an_imported_block_may_be_amended(small):
    recipe = whole(small, BODY + IMAGE + "amend encoder tower { depth = 3 width = 64 }")
    tower = recipe.encoders["tower"]
    assert (tower.depth, tower.ffn, recipe.adapters["fold"].hidden) == (3, 4 * 64, 2 * 64)
    origin = recipe.origin("tower.depth")
    assert (origin.kind, origin.replaced.kind, origin.replaced.recipe) == (
        "given",
        "imported",
        "other",
    )


def test_the_map_of_weights_follows_new_names(small):
    text = f"{small}{OTHER}recipe case extends small {{ import weights, vit as tower from other }}"
    weights = load_text(text).weights
    assert [rule.target.targets for rule in weights.rules] == [("tower.*",), ("gelu.*",)]
    assert [rule.source for rule in weights.rules] == ["visual.*", "proj.*"]
    assert [rule.pattern for rule in weights.ignored] == ["vit.*"]


def test_a_layout_follows_the_new_names_of_parts():
    text = "recipe case { language = 1 import tokens, image, vit, qllama, lm, query_mlp, weights,"
    text += " vicuna, question, patch_mlp as wide from internvl_chat_qllama_7b }"
    rule = load_text(text).layouts["vicuna"].rules["image"]
    assert [item.part for item in rule.items if item.item == "repeat"] == ["wide", "query_mlp"]


def test_single_blocks_come_without_a_base():
    text = "recipe case { language = 1 import tokens, lm from qwen2_vl_2b amend lm { in = [] } }"
    recipe, there = load_text(text), load_recipe("qwen2_vl_2b")
    assert recipe.tokens == there.tokens
    assert recipe.lm == there.lm.model_copy(update={"in_": ()})
    assert recipe.origin("lm.width").recipe == "qwen2_vl_2b"
    assert recipe.origin("lm.depth").kind == "imported"
    assert recipe.origin("lm.depth").span.source.name == "recipes/qwen2_vl_7b.vlm"


def test_an_import_does_not_change_the_other_recipe(small):
    text = f"{small}{OTHER}recipe first extends small {{ {DROPPED} {BODY} {IMAGE} }}"
    text += (
        "recipe second { language = 1"
        " import tokens, image, tower, fold, lm, caption from first"
        " amend encoder tower { depth = 7 } import vit from other amend encoder vit { depth = 5 } }"
    )
    recipe = load_text(text)
    assert (recipe.encoders["tower"].depth, recipe.encoders["vit"].depth) == (7, 5)
    assert recipe.origin("tower.depth").replaced.span.source.name == "<text>"


def test_a_recipe_of_another_file(tmp_path, small):
    (tmp_path / "parts.vlm").write_text(OTHER + "recipe more extends other { }")
    case = 'recipe case extends "small.vlm" { import vit as tower from "parts.vlm:more" }'
    (tmp_path / "small.vlm").write_text(small)
    (tmp_path / "case.vlm").write_text(case)
    recipe = load_recipe(str(tmp_path / "case.vlm"))
    assert recipe.span("tower.depth").source.name == str(tmp_path / "parts.vlm")


@pytest.mark.parametrize("asked", ["a.vlm", "../x/a.vlm", "./a.vlm"])
def test_a_circle_of_files_is_one_however_they_are_named(asked, tmp_path, monkeypatch):
    folder = tmp_path / "x"
    folder.mkdir()
    (folder / "a.vlm").write_text('recipe a { import vit from "../x/b.vlm" }')
    (folder / "b.vlm").write_text('recipe b extends "./../x/c.vlm" {}')
    (folder / "c.vlm").write_text('recipe c { import vit from "../x/a.vlm" }')
    monkeypatch.chdir(folder)
    for path in (asked, str(folder / "a.vlm")):
        with pytest.raises(RecipeError) as caught:
            load_recipe(path)
        (diagnostic,) = caught.value.diagnostics
        assert (diagnostic.code, len(diagnostic.labels)) == ("N217", 3)


def test_a_recipe_may_import_from_its_own_base(small):
    recipe = load_text(small + "recipe case extends small { import vit as tower from small }")
    assert recipe.encoders["tower"] == recipe.encoders["vit"]


def test_a_diamond_is_no_circle_and_takes_no_time(small):
    recipes = [small, OTHER]
    for number in range(30):
        below = f"r{number - 1}" if number else "other"
        recipes.append(
            f"recipe r{number} {{ import vit as tower from {below} import vit from {below} }}"
        )
    recipes.append(
        "recipe case extends small { import tower from r29 import vit as more from r29 }"
    )
    recipe = load_text("\n".join(recipes))
    assert recipe.encoders["more"].ffn == recipe.encoders["tower"].ffn == 4 * 48


def test_a_mistake_in_what_was_imported_points_at_both_places(small, golden):
    with pytest.raises(RecipeError) as caught:
        load_text(
            "recipe case {\n  language = 1\n  import merger from qwen2_vl_2b\n}\n", "case.vlm"
        )
    golden.check("errors/import_without_its_parts.txt", caught.value.render())


def test_format_aligns_imports_and_opens_long_ones(golden):
    names = ", ".join(f"part_{number} as of_mine_{number}" for number in range(5))
    text = (
        "recipe case{language=1 import vit # a tower\n from a\n# two\nimport lm,tokens\nfrom"
        f' "b.vlm:b" # b\nimport {names} from qwen2_vl_7b import x as x from a lm : Decoder{{}}}}'
    )
    formatted = format_text(text)
    golden.check("format/imports.txt", formatted)
    assert format_text(formatted) == formatted


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_block_of_a_shipped_recipe_can_be_imported(name):
    there = load_recipe(name)
    blocks = [path for path in there.facts.spans if path.isidentifier() and there.block(path)]
    text = f"recipe case {{ language = {there.language} import {', '.join(blocks)} from {name} }}"
    recipe = load_text(text)
    assert recipe.model_copy(update={"name": name, "asserts": there.asserts}) == there

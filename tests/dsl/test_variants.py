"""What `extends` brings in, what a variant may change, and where each value says it came from."""

from __future__ import annotations

import pytest

from triptych.dsl import load
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.kinds import Range, Selector
from triptych.dsl.parts import Adapter, Decoder, Encoder
from triptych.dsl.stages import Lora, Lr


def load_named(name, **options):
    return load.load_recipe(name, **options)


def load_from(text):
    return load.load_text(text)


def test_a_derived_value_follows_the_override(load_variant):
    recipe = load_variant(
        "amend lm { width = 128 pos = mrope([4, 6, 6], theta: 1e6) }"
        " amend encoder vit { width = 64 patch = 16px }"
    )
    assert recipe.adapters["merger"].out == 128
    assert recipe.adapters["merger"].hidden == 256
    assert recipe.inputs["image"].resize.multiple == 32
    assert recipe.lm.head_dim == 32  # though no recipe writes it


def test_a_default_may_be_an_expression(load_variant):
    assert load_variant("").lm.kv_heads == 4
    wider = load_variant("amend lm { heads = 8 pos = mrope([1, 1, 2], theta: 1e6) }")
    assert wider.lm.kv_heads == 8
    referring = load_variant("amend adapter merger { hidden = lm.head_dim }")
    assert referring.adapters["merger"].hidden == 16


def test_amend_keeps_what_it_does_not_name(load_variant):
    before, after = load_variant("").lm, load_variant("amend lm { depth = 3 }").lm
    assert after == before.model_copy(update={"depth": 3})


def test_amend_may_set_what_the_base_left_to_its_default(load_variant):
    assert load_variant("amend stage first { seed = 7 }").stages["first"].seed == 7


def test_replace_starts_afresh(load_variant):
    recipe = load_variant(
        "replace stage first { train = [lm] freeze = [vit, merger] layout = caption"
        " data = mix(text: 1) stop = 1epochs batch = 2seq optim = adamw(lr: 1) }"
    )
    stage = recipe.stages["first"]
    assert (stage.stop.value, stage.stop.unit) == (1, "epochs")
    assert stage.optim.lr == 1
    assert recipe.origin("first.stop").kind == "given"


def test_add_and_drop(load_variant):
    recipe = load_variant(
        "drop stage second drop mode tell drop assert caption.worst(images: 1) <= lm.context"
        " add objective o : RegionWords { regions = merger words = lm.embed temperature = 0.07 }"
        ' amend tokens { add special more = "<more>" @ 502 drop special place }'
        " amend layout caption { image(x) -> more * x.tokens }"
    )
    assert list(recipe.stages) == ["first"]
    assert not recipe.modes
    assert not recipe.asserts
    assert recipe.objectives["o"].words == "lm.embed"
    assert list(recipe.tokens.specials) == ["end", "more"]


def test_dropping_a_setting_brings_back_its_default(small):
    text = (
        small
        + "recipe a extends small { amend stage first { seed = 3 accumulate = 2 } }\n"
        + "recipe b extends a { amend stage first { drop seed } }\n"
    )
    stage = load_from(text).stages["first"]
    assert (stage.seed, stage.accumulate) == (0, 2)


def test_stages_come_in_an_order_that_can_be_walked(load_variant):
    recipe = load_variant(
        "amend stage first { after = zeroth }"
        " add stage zeroth { train = [lm] freeze = [vit, merger] layout = caption"
        " data = mix(text: 1) stop = 1steps batch = 1seq optim = adamw(lr: 1) }"
    )
    assert list(recipe.stages) == ["zeroth", "first", "second"]


def test_selectors_and_wrappers(load_variant):
    recipe = load_variant(
        "amend stage first {"
        " train = [lora(lm.blocks.attn, rank: 16), lr(vit.blocks[1], 0.1), lm.norm]"
        " freeze = vit.patch_embed checkpoint = [vit.blocks[0..1]] }"
    )
    lora, lr, plain = recipe.stages["first"].train
    assert isinstance(lora, Lora) and (lora.rank, lora.scale) == (16, 1.0)
    assert isinstance(lr, Lr) and (str(lr.target), lr.factor) == ("vit.blocks[1]", 0.1)
    assert isinstance(plain, Selector) and plain.matches("lm.norm.weight")  # not the setting `norm`
    assert str(recipe.stages["first"].checkpoint[0]) == "vit.blocks[0..1]"


def test_what_every_value_says_of_itself(load_variant):
    recipe = load_variant("amend lm { ffn = 96 } amend stage second { optim = adamw(lr: 1e-5) }")
    kinds = {
        "lm.ffn": "given",
        "lm.depth": "inherited",
        "merger.out": "derived",
        "image.resize": "inherited",
        "image.resize.multiple": "derived",
        "image.resize.budget": "inherited",
        "first.batch": "assumed",
        "second.optim": "given",
        "second.optim.lr": "given",
        "lm.tied": "default",
        "lm.head_dim": "default",
        "tokens.end": "inherited",
        "caption.pair": "inherited",
        "language": "inherited",
    }
    assert {path: recipe.origin(path).kind for path in kinds} == kinds


def test_an_assumption_covers_what_is_inside_it(small):
    recipe = load_from(small)
    assert recipe.origin("second.optim.lr").kind == "assumed"
    assert recipe.origin("first.optim.lr").kind == "given"


def test_an_inherited_value_names_its_file_and_line():
    recipe = load_named("qwen2_vl_2b")
    origin = recipe.origin("lm.depth")
    assert (origin.kind, origin.recipe) == ("inherited", "qwen2_vl_7b")
    assert origin.span.source.name == "recipes/qwen2_vl_7b.vlm"
    assert origin.span.source.line(origin.span.place.line).split() == ["depth", "=", "28"]


def test_a_changed_value_remembers_what_it_replaced():
    recipe = load_named("qwen2_vl_2b", amend=["lm.ffn = 64"])
    chain = []
    origin = recipe.origin("lm.ffn")
    while origin:
        chain.append((origin.recipe, origin.span.text))
        origin = origin.replaced
    assert chain == [("--set", "64"), ("qwen2_vl_2b", "8960"), ("qwen2_vl_7b", "18944")]


def test_places(load_variant):
    recipe = load_variant("amend stage first { train = [merger, vit] freeze = lm }")
    assert recipe.span("first.train[1]").text == "vit"
    assert recipe.span("first.optim.lr").text == "1e-3"
    assert recipe.span("chatml") is recipe.span("")  # no such thing: the recipe's name
    assert recipe.span("lm.width.anything").text == "64"
    assert recipe.span("lm").text == "lm : Decoder"
    assert recipe.span("caption.image").text == "image(x)   -> place * x.tokens"
    assert recipe.span("asserts[0]").text == "caption.worst(images: 1) <= lm.context"
    assert recipe.origin("chatml") is None


def test_amendments_reach_into_calls():
    recipe = load_named(
        "qwen2_vl_2b",
        amend=["video.resize.clip = 24576tok", "lm.pos.sections=[1, 2, 61]", "sft.optim.lr = 3e-6"],
    )
    assert recipe.inputs["video"].resize.clip == 24576
    assert recipe.inputs["video"].resize.budget == Range(low=128, high=768)
    assert recipe.lm.pos.sections == (1, 2, 61)
    assert recipe.stages["sft"].optim.lr == 3e-6
    assert recipe.origin("video.resize.clip").kind == "given"
    assert recipe.origin("video.resize.budget").kind == "inherited"


def test_quantities_carry_the_unit_of_their_setting(small):
    recipe = load_from(small)
    assert str(recipe.quantity("lm.context")) == "1024tok"
    assert str(recipe.quantity("image.resize.multiple")) == "28px"
    assert str(recipe.quantity("lm.width")) == "64"
    assert recipe.quantity("lm.act") is None
    assert recipe.quantity("lm.nothing") is None
    assert recipe.quantity("nothing.at.all") is None


def test_models_can_be_made_without_text(small):
    recipe = load_from(small)
    copy = type(recipe).model_validate(recipe.model_dump(exclude={"asserts"}))
    assert copy == recipe.model_copy(update={"asserts": ()})
    assert isinstance(copy.lm, Decoder)
    assert isinstance(copy.encoders["vit"], Encoder)
    assert isinstance(copy.adapters["merger"], Adapter)


def test_recipes_are_frozen_and_closed(small):
    recipe = load_from(small)
    with pytest.raises(ValueError, match="frozen"):
        recipe.lm.width = 3
    with pytest.raises(ValueError, match="Extra inputs"):
        Decoder.model_validate({**recipe.lm.model_dump(), "widht": 3})


# Files -------------------------------------------------------------------------------------------


def test_bases_in_other_files_and_folders(tmp_path, small):
    (tmp_path / "models").mkdir()
    (tmp_path / "small.vlm").write_text(small, encoding="utf-8")
    (tmp_path / "models" / "two.vlm").write_text(
        'recipe one extends "../small.vlm" { amend lm { depth = 3 } }\n'
        "recipe two extends one { amend lm { ffn = 96 } }\n"
        'recipe three extends "two.vlm:one" { }\n',
        encoding="utf-8",
    )
    path = str(tmp_path / "models" / "two.vlm")
    recipe = load_named(path)  # the recipe that is named as the file is
    assert (recipe.name, recipe.lm.depth, recipe.lm.ffn) == ("two", 3, 96)
    assert load_named(f"{path}:one").lm.ffn == 128
    assert load_named(f"{path}:three").lm.depth == 3


@pytest.mark.parametrize(
    ("name", "code"),
    [
        ("qwen2_vl_8b", "N201"),
        ("nowhere.vlm", "E107"),
        ("several.vlm", "E108"),
        ("several.vlm:c", "E108"),
        ("empty.vlm", "E108"),
        ("bytes.vlm", "E107"),
        (".vlm/", "E107"),
    ],
)
def test_what_cannot_be_found(tmp_path, monkeypatch, name, code):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "several.vlm").write_text("recipe a {\n}\nrecipe b {\n}\n")
    (tmp_path / "empty.vlm").write_text("# nothing yet\n")
    (tmp_path / "bytes.vlm").write_bytes(b"recipe \xff {}")
    with pytest.raises(RecipeError) as caught:
        load_named(name)
    assert [diagnostic.code for diagnostic in caught.value.diagnostics] == [code]


def test_a_byte_order_mark_is_no_letter(tmp_path, small):
    path = tmp_path / "small.vlm"
    path.write_bytes(b"\xef\xbb\xbf" + small.encode())
    assert load_named(str(path)) == load_from(small)

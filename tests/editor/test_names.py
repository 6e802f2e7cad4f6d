"""Where a name is declared, who speaks of it, and what another name for it changes."""

from __future__ import annotations

import pytest

from triptych.dsl.files import shipped_recipes

VARIANT = """recipe mine extends "base.vlm" {
  import sam as tower, neck from deepseek_vl_7b
  amend encoder vit { depth = 2 * vit.heads }
  drop layout caption
  amend tokens { add special more = "<more>" @ 151649 }
  amend layout chatml { user(b) -> im_start "you\\n" b more "\\n" }
  amend stage align { layout = chatml train = [merger, vit.blocks[0..3]] freeze = [lm, tower] }
  assert chatml.worst(images: 2) <= lm.context
}
"""


def line_of(text, piece):
    return text[: text.index(piece)].count("\n") + 1


@pytest.fixture
def variant(editor, base):
    return editor.open("mine.vlm", VARIANT)


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ("hidden = 4 * v§it.width", "  encoder vit"),
        ("hidden = 4 * vit.wid§th", "    width = 256\n    heads = 4\n    ffn   = 4"),
        ("in     = v§it", "  encoder vit"),
        ("    in       = mer§ger", "  adapter merger"),
        ("pad = endof§text", "    special endoftext"),
        ("\\n\" b im_§end \"\\n\"\n    ass", "    special im_end"),
        ("layout = cap§tion", "  layout caption"),
        ("after  = ali§gn", "  stage align"),
        ("-> ima§ge(x)", "    image(x)   ->"),
        ("assert chat§ml", "  layout chatml"),
        ("<= lm.con§text", "    context  = 2048tok"),
        ("tokens vision_end\n    pair(x, t) -> image(x) loss(§t", "    pair(x, t)"),
    ],
)  # fmt: skip
def test_a_name_leads_to_its_declaration(base, place, target):
    assert base.move(place).definition() == (base.path, line_of(base.text, target))


@pytest.mark.parametrize(
    ("place", "target"),
    [
        ('extends "ba§se.vlm"', "recipe base"),
        ("amend encoder v§it", "  encoder vit"),
        ("{ dep§th =", "    depth = 4\n    width = 256\n    heads = 4\n    ffn   = 4 *"),
        ("2 * vit.hea§ds", "    heads = 4\n    ffn   = 4 *"),
        ("drop layout cap§tion", "  layout caption"),
        ("amend layout cha§tml", "  layout chatml"),
        ("{ us§er(b)", "    user(b)"),
        ("-> im_st§art", "    special im_start"),
        ("train = [mer§ger", "  adapter merger"),
        ("v§it.blocks[0..3]", "  encoder vit"),
        ("assert chat§ml", "  layout chatml"),
    ],
)
def test_names_of_a_base_lead_there(base, variant, place, target):
    assert variant.move(place).definition() == (base.path, line_of(base.text, target))


def test_names_of_an_import_lead_to_the_recipe_on_disk(variant):
    shipped = shipped_recipes()["deepseek_vl_7b"]
    text = shipped.read_text(encoding="utf-8")
    sam = (type(variant.path)(str(shipped)).resolve(), line_of(text, "encoder sam"))
    assert variant.move("import s§am").definition() == sam
    assert variant.move("as tow§er").definition() == sam
    assert variant.move("lm, tow§er]").definition() == sam
    assert variant.move("from deep§seek").definition() == (sam[0], line_of(text, "recipe deep"))


def test_a_shipped_base_opens_as_a_file(editor):
    text = editor.open("mine.vlm", "recipe mine extends qwen2§_vl_7b { }")
    path, line = text.definition()
    assert path.read_text(encoding="utf-8").splitlines()[line - 1].startswith("recipe qwen2_vl_7b")


def test_uses_are_found_in_all_files(base, variant):
    found = base.move("encoder v§it").ask("references", context={"includeDeclaration": True})
    here = [base.at(one["range"]) for one in found if one["uri"] == base.uri]
    there = [variant.at(one["range"]) for one in found if one["uri"] == variant.uri]
    assert set(here + there) == {"vit"}
    assert (len(here), len(there)) == (base.text.count("vit"), 3)
    less = base.ask("references", context={"includeDeclaration": False})
    assert len(less) == len(found) - 1


def test_words_that_look_like_a_name_are_none(base):
    """`gelu` is a choice, `chat` a kind of data and a mode."""
    base.swap("mode chat", "mode gelu")
    base.swap("data   = mix(chat: 1)\n", "data   = mix(chat: 1)\n    apart = chat\n")
    found = base.move("mode ge§lu").ask("references", context={"includeDeclaration": True})
    assert len(found) == 1
    assert base.move("apart = ch§at").definition() is None


# another name ------------------------------------------------------------------------------------


def renamed(text, name, *others):
    """The texts after a rename, that of the cursor first."""
    changes = text.ask("rename", newName=name)["changes"]
    return [one.edited(changes.get(one.uri, ())) for one in (text, *others)]


def test_a_part_is_renamed_in_every_file(base, variant):
    after, there = renamed(base.move("encoder v§it"), "tower_of_mine", variant)
    assert after == base.text.replace("vit", "tower_of_mine")
    assert there == variant.text.replace("vit", "tower_of_mine")


def test_a_rename_may_start_in_the_variant(base, variant):
    there, after = renamed(variant.move("2 * v§it.heads"), "seer", base)
    assert after == base.text.replace("vit", "seer")
    assert there == variant.text.replace("vit", "seer")


@pytest.mark.parametrize(
    ("place", "old", "new"),
    [
        ("layout chat§ml {", "chatml", "dialogue"),
        ("stage al§ign", "align", "first"),
    ],
)
def test_layouts_and_stages_are_renamed(base, place, old, new):
    (after,) = renamed(base.move(place), new)
    assert after == base.text.replace(old, new)


def test_a_special_token_is_renamed_but_not_its_text(base):
    (after,) = renamed(base.move("special im_§end"), "stop")
    assert after == base.text.replace("im_end", "stop").replace("<|stop|>", "<|im_end|>")


def test_a_rule_and_its_parameter_are_renamed(base):
    rules = "pair(x, t) -> shown(x) loss(t im_end)\n    shown(y) -> image_pad * y.tokens"
    base.swap("pair(x, t) -> image(x) loss(t im_end)", rules)
    (after,) = renamed(base.move("sho§wn(y)"), "seen")
    assert after == base.text.replace("shown", "seen")
    (after,) = renamed(base.move("* §y.tokens"), "it")
    assert after == base.text.replace("shown(y) -> image_pad * y", "shown(it) -> image_pad * it")


def test_maps_of_weights_speak_of_parts(base):
    weights = '  weights {\n    from = hf("a/b")\n    map "v.*" -> "vit.blocks.*"\n  }\n\n'
    base.put(base.text.replace("  layout chatml {", weights + "  layout chatml {"))
    (after,) = renamed(base.move("encoder v§it"), "seer")
    assert '-> "seer.blocks.*"' in after


@pytest.mark.parametrize(
    ("place", "name", "why"),
    [
        ("encoder v§it", "merger", "taken"),
        ("encoder v§it", "chatml", "taken"),
        ("encoder v§it", "2x", "no name"),
        ("encoder v§it", "true", "means something else"),
        ("encoder v§it", "lm", "name of a block"),
        ("encoder v§it", "forward", "cannot have the name"),
        ("special im_§end", "b", "taken"),
        ("    wid§th    = 256", "breadth", "named by the language"),
        ("l§m : Decoder", "model", "named by its kind"),
        ("input ima§ge", "picture", "named by its kind"),
        ("    us§er(b)", "human", "ask for the rule"),
        ("recipe ba§se", "other", "by hand"),
        ("language =§ 1", "x", "no name here"),
    ],
)
def test_a_rename_that_would_change_a_meaning_is_refused(base, failed, place, name, why):
    with pytest.raises(failed, match=why):
        base.move(place).ask("rename", newName=name)


def test_what_ships_keeps_its_names(editor, failed):
    text = editor.open(
        "mine.vlm", "recipe mine extends qwen2_vl_7b { amend encoder v§it { depth = 2 } }"
    )
    with pytest.raises(failed, match="ships with triptych"):
        text.ask("prepareRename")


def test_a_broken_text_is_not_renamed(base, failed):
    base.swap("    depth = 4\n", "    depth = \n")
    with pytest.raises(failed, match="mend it first"):
        base.move("encoder v§it").ask("rename", newName="seer")


def test_a_rename_says_first_what_it_will_change(base):
    found = base.move("hidden = 4 * v§it").ask("prepareRename")
    assert found["placeholder"] == "vit" and base.at(found["range"]) == "vit"

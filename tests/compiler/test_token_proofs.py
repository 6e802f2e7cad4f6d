"""What is proved of tokens: cuts, modes, packs, new tokens, the tokenizer's file, the search."""

from __future__ import annotations

import json

import pytest

from triptych.compiler.pipeline import prove
from triptych.compiler.tokens import domain, item_cost
from triptych.compiler.types import evaluate
from triptych.compiler.vocabulary import pieces_of
from triptych.dsl.diagnostics import RecipeError, render
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe, load_text

WIDE = """replace mode chat {
  layout = chat_template batch = 1..8 prompt = ..12288tok new = 512tok
  resize = tiles(448px, 1..40)
}"""
# name -> the recipe that is varied, and how
MISTAKES = {
    "S416_dynamic": (
        "internvl_1_5_26b",
        """
        amend lm { pos = rope(theta: 1e6, scaling: dynamic(factor: 3.0, from: 2048tok)) }
        amend stage sft { pack = 4096tok }
        """,
    ),
    "S416_su": ("internvl_1_5_mini_4b", "amend stage sft { pack = 8192tok }"),
    "T506_truncate": ("qwen2_vl_tiny", "amend stage joint { truncate = 513tok }"),
    "T507_picture": ("scenes", "amend stage tell { truncate = 8tok }"),
    "T507_clip": ("qwen2_vl_7b", "amend stage sft { truncate = 17000tok }"),
    "T507_tiles": ("internvl_1_5_26b", "amend stage sft { truncate = 2048tok }"),
    "T508_other_id": (
        "qwen_vl_tiny",
        'amend tokens { special im_end = "Ġhello" @ 9 special im_start = " hello" @ 151644 }',
    ),
    "T508_other_piece": (
        "minigpt4_tiny",
        'amend tokens { special eos = "</end>" @ 2 special image = "▁the" @ 0 }',
    ),
    "V305_least_of_an_answer": (
        "qwen2_vl_tiny",
        "amend mode chat { new = 16tok sampling = greedy(min_new: 17tok) }",
    ),
    "T509_pictures_and_texts": ("internvl_1_5_26b", WIDE),
    "T509_of_the_input": (
        "qwen_vl_7b",
        """
        amend stage multitask { resize = square(224px) }
        amend stage sft { resize = square(224px) }
        """,
    ),
    "T510_ranks": ("qwen2_vl_tiny", 'amend tokens { special video_pad = "!" @ 0 }'),
    "T511_pack": ("scenes", "amend stage tell { pack = 48tok truncate = 64tok }"),
    "F620_frozen": (
        "qwen2_vl_tiny",
        """
        amend tokens { new = [im_start, image_pad] }
        amend stage joint { train = [vit, merger] freeze = lm }
        amend stage sft {
          train = [lora(lm.blocks.attn, rank: 2), lora(lm.blocks.mlp, rank: 2)]
          freeze = [vit, merger, lm]
        }
        """,
    ),
    "F620_untied_head": (
        "qwen2_vl_7b",
        """
        amend tokens { new = [im_end, im_start] }
        amend stage vision {
          freeze = [lm.blocks, lm.norm, lm.head] train = [vit, merger, lm.embed]
        }
        amend stage joint { freeze = lm.head train = [vit, merger, lm.embed, lm.blocks, lm.norm] }
        amend stage sft { freeze = [vit, merger, lm.head] train = [lm.embed, lm.blocks, lm.norm] }
        """,
    ),
}
HOLDS = {
    "a cut behind all pictures": ("scenes", "amend stage tell { truncate = 60tok }"),
    "a mode that says so": (
        "internvl_1_5_26b",
        WIDE.replace("prompt", "amend prompt").replace("resize", "amend resize"),
    ),
    "a mode that is amended": (
        "internvl_1_5_26b",
        WIDE.replace("..12288tok", "..3584tok").replace("1..40", "1..12")
        + "} recipe last extends changed { amend mode chat { prompt = ..12288tok }",
    ),
    "packs no longer than what the rule is for": (
        "internvl_1_5_26b",
        """
        amend lm { pos = rope(theta: 1e6, scaling: dynamic(factor: 3.0, from: 4096tok)) }
        amend stage sft { pack = 4096tok }
        """,
    ),
    "a rule that training leaves out": ("qwen_vl_7b", "amend stage sft { pack = 8192tok }"),
    "new tokens that are trained": (
        "qwen2_vl_tiny",
        "amend tokens { new = [im_start] } amend stage sft { freeze = [vit, merger, lm.embed] "
        "train = [lm.blocks, lm.norm] }",
    ),
}


def changed(base: str, body: str):
    return load_text(f"recipe changed extends {base} {{ {body} }}", "changed.vlm")


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told(golden, name):
    with pytest.raises(RecipeError) as caught:
        prove(changed(*MISTAKES[name]))
    errors = [found for found in caught.value.diagnostics if found.severity == "error"]
    assert {found.code for found in errors} == {name.partition("_")[0]}
    assert all(len(found.labels) > 1 for found in errors)
    golden.check(f"proofs/{name}.txt", render(errors))


@pytest.mark.parametrize("name", HOLDS)
def test_what_holds(name):
    assert not prove(changed(*HOLDS[name]))


def test_new_tokens_that_a_later_stage_trains_are_a_warning():
    """InternVL 1.5 so trained its first stage: rows of `<img>` as chance left them."""
    found = prove(changed("internvl_1_5_26b", "amend tokens { new = [img_start, img_end] }"))
    (warning,) = found
    assert (warning.code, warning.severity) == ("F620", "warning")
    assert "until a later stage" in warning.reason


@pytest.mark.parametrize(
    ("least", "most", "room"), [(1, 9, 12), (4, 30, 18), (2, 12, 9), (4, 9, 10), (7, 9, 13)]
)
def test_the_smallest_picture_that_fails_is_the_smallest(least, most, room):
    recipe = changed(
        "scenes",
        f"""
        amend input image {{
          aspect = ..6
          resize = native(multiple: 32px, budget: {least}tok..{most}tok)
        }}
        amend stage tell {{ truncate = {room}tok }}
        """,
    )
    cost = item_cost(recipe, recipe.layouts["chat"], "image")

    def failing(aspect: int) -> list[str]:
        sizes = [(aspect * side, side) for side in range(1, 400)]
        return [
            f"{width}x{height}"
            for width, height in sizes
            if evaluate(cost.places, {"image.width": width, "image.height": height}) > room
        ]

    squares, strips = failing(1), failing(6)
    try:
        prove(recipe)
    except RecipeError as error:
        (found,) = (one for one in error.diagnostics if one.code == "T507")
        if squares:
            assert f"the smallest square that fails, {squares[0]}," in found.reason
        elif strips:
            assert f"the smallest strip that fails, {strips[0]}," in found.reason
        else:
            assert "around it" in found.reason or "at most" in found.reason
    else:
        assert not squares and not strips


def test_the_shortest_clip_that_fails_is_the_shortest():
    recipe = changed("qwen2_vl_7b", "amend input video { drop overlong }")
    cost, limits = item_cost(recipe, recipe.layouts["chatml"], "video"), domain(recipe)
    frames = limits["video.frames"]
    assert frames.most is not None
    every = range(frames.least, frames.most + 1, frames.step)
    size = {"video.width": 1280, "video.height": 720}
    failing = [n for n in every if evaluate(cost.places, size | {"video.frames": n}) > 32768]
    with pytest.raises(RecipeError) as caught:
        prove(recipe)
    assert f"has {failing[0]} frames" in caught.value.diagnostics[0].reason


@pytest.mark.parametrize("name", shipped_recipes())
def test_a_vocabulary_knows_the_special_tokens(name):
    recipe = load_recipe(name)
    pieces = pieces_of(recipe)
    if pieces is None:
        pytest.skip("its vocabulary does not ship")
    assert recipe.tokens
    for token in recipe.tokens.specials.values():
        assert pieces.id_of(token.text) in (None, token.id)
        assert not pieces.is_text(token.id)


def test_a_tokenizer_beside_the_recipe_is_read(tmp_path):
    vocabulary = {
        "added_tokens": [{"content": "<|im_end|>", "id": 7, "special": True}],
        "model": {"vocab": {"a": 0, "###": 1, 'é"': 2}},
    }
    (tmp_path / "tokenizer.json").write_text(json.dumps(vocabulary))
    file = tmp_path / "mine.vlm"
    file.write_text("""recipe mine extends scenes { amend tokens {
      tokenizer = hf_json("tokenizer.json")
      special im_end = "<|im_end|>" @ 6
      special im_start = "###" @ 1
      special vision_end = "<pad>" @ 2
    } }""")
    with pytest.raises(RecipeError) as caught:
        prove(load_recipe(str(file)))
    told = {(found.code, found.labels[0].text) for found in caught.value.diagnostics}
    assert ("T508", "the tokenizer knows '<|im_end|>' as 7") in told
    assert ("T510", "'###' is a piece of plain text") in told
    assert ("T508", "2 is 'é\"'") in told


def test_a_tokenizer_in_the_cache_of_the_hub_is_read(tmp_path, monkeypatch):
    snapshot = tmp_path / "hub/models--deepseek-ai--deepseek-vl-1.3b-chat/snapshots/0"
    snapshot.mkdir(parents=True)
    tokens = load_recipe("deepseek_vl_1_3b").tokens
    assert tokens
    special = next(iter(tokens.specials.values()))
    vocabulary = {"added_tokens": [{"content": special.text, "id": special.id + 1}], "model": {}}
    (snapshot / "tokenizer.json").write_text(json.dumps(vocabulary))
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(RecipeError) as caught:
        prove(load_recipe("deepseek_vl_1_3b"))
    assert "T508" in {found.code for found in caught.value.diagnostics}

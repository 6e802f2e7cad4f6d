"""Pixels of the golden processor cases, through the shipped recipes: squares, pads and tiles."""

from __future__ import annotations

import json
from functools import cache

import torch

from triptych.blocks.input.media import MediaInput
from triptych.blocks.input.sample import Attachment
from triptych.blocks.input.sizes import Letterbox, Tiles
from triptych.compiler.pipeline import for_inference, for_training
from triptych.dsl.load import load_recipe, load_text
from triptych.tests.parity.golden import cases

BOUND = 1e-6


@cache
def shipped(name, purpose):
    """What a shipped recipe says of the pictures of a mode or a stage."""
    recipe = load_recipe(name)
    program = for_inference if purpose in recipe.modes else for_training
    return program(recipe, purpose).spec["inputs"]["image"]


def in_size(spec, side, resize=None, **size):
    """An input in the size of a case, each of its towers with one patch for the whole picture.

    `resize` is the side of the view that the recipe resizes once more.
    """
    views = {}
    for name, view in spec["views"].items():
        again = view["resize"] and resize
        views[name] = view | {"patch": again or side, "resize": again}
    return MediaInput(
        "image", {**spec, "size": spec["size"] | {"side": side} | size, "views": views}
    )


def see(case, given, file):
    return given.see(Attachment("image", case.folder / f"{file}.png"))


def pixels(given, seen):
    """[M, C, H, W] what each tower is shown, those that see the picture resized first."""
    rows = [x.squeeze(1) for x in given.feed([seen]).values()]
    sides = [round((x.shape[1] / 3) ** 0.5) for x in rows]
    shown = [x.view(-1, 3, side, side) for x, side in zip(rows, sides, strict=True)]
    return sorted(shown, key=lambda x: x.shape[-1])


def check(found, expected, name):
    assert found.shape == expected.shape, name
    worst = (found - expected).abs().max().item()
    assert worst <= BOUND, f"{name} is off by {worst}"


def check_scale(spec, mean, std):
    """Every tower takes pixels on this scale."""
    for view in spec["views"].values():
        assert (view["mean"], view["std"]) == (mean, std)


@cases("minigpt4_processor")
def test_squares_whatever_the_shape(case):
    spec = shipped("minigpt4_7b", "chat")
    check_scale(spec, case.config["mean"], case.config["std"])
    assert case.expected
    for name, expected in case.expected.items():
        file, _, side = name.rpartition("_")
        given = in_size(spec, int(side))
        (found,) = pixels(given, see(case, given, file))
        check(found[0], expected, name)


INTERNVL = {
    "retrieval": ("internvl_14b", "retrieval_g"),
    "chat_square": ("internvl_14b", "retrieval_c"),
    "classification": ("internvl_14b", "features"),
    "clip_image_processor": ("internvl_chat_7b", "pretrain"),
    "chat_pad2square": ("internvl_chat_7b", "sft"),
    "llava_pad": ("internvl_chat_7b", "chat"),
}
"""Where each transform of InternVL stands in the recipes: the mode or the stage that uses it."""


@cases("internvl_processor")
def test_squares_crops_and_pads(case):
    config, checked = case.config, set()
    for name, expected in case.expected.items():
        file, _, what = name.partition("/")
        what, _, side = what.rpartition("_")
        spec = shipped(*INTERNVL[what])
        check_scale(spec, config["mean"], config["std"])
        assert spec["size"].get("pad", config["pad_colour"]) == config["pad_colour"]
        given = in_size(spec, int(side))
        (found,) = pixels(given, see(case, given, file))
        check(found[0], expected, name)
        checked.add(what)
    assert checked


DEEPSEEK = {"low": "deepseek_vl_1_3b", "hybrid": "deepseek_vl_7b"}


def letterbox(case, kind):
    """The recipe's input in the sizes of a case."""
    facts, spec = case.config[kind], shipped(DEEPSEEK[kind], "chat")
    assert (spec["size"]["pad"], spec["size"]["least"]) == (facts["background"], facts["min_size"])
    return in_size(spec, facts["image_size"], facts.get("low_resize"))


@cases("deepseek_vl_processor")
def test_letterboxes_and_a_second_view_of_them(case):
    checked = set()
    for name, expected in case.expected.items():
        kind, file, what = name.split(".") if name.count(".") == 2 else ("", "", "")
        if kind not in DEEPSEEK:
            continue
        given = letterbox(case, kind)
        seen = see(case, given, file)
        assert seen.size == tuple(case.config["png_sizes"][file])
        if what == "pixel_values" and not case.config[kind]["do_normalize"]:
            found = torch.from_numpy(seen.frames).permute(0, 3, 1, 2) * (1 / 255)
        else:
            found = pixels(given, seen)[-1 if what == "high_tower_input" else 0]
        check(found[0], expected, name)
        checked.add(f"{kind}.{what}")
    assert {"low.pixel_values", "hybrid.high_tower_input", "hybrid.low_tower_input"} <= checked


@cases("deepseek_vl_processor")
def test_the_pictures_of_a_batch_follow_one_another(case):
    expected, masks = case.expected["batch.pixel_values"], case.expected["batch.images_emb_mask"]
    given, prompts = letterbox(case, "low"), case.prompts
    shown = [
        file
        for name in prompts["batch_order"]
        for message in prompts["prompts"][name]["conversation"]
        for file in message.get("images", ())
    ]
    (found,) = pixels(given, see(case, given, shown[0]))
    rows = given.feed([see(case, given, file) for file in shown])["image.patches"]
    check(rows.view(-1, *found.shape[1:]), expected[masks.any(dim=2)], "batch.pixel_values")


@cases("deepseek_vl_processor")
def test_letterboxes_of_many_sizes(case):
    low = case.config["low"]

    def rule(side):
        return Letterbox(side, tuple(low["background"]), low["min_size"])

    table = json.loads((case.folder / "resize_table.json").read_text(encoding="utf-8"))
    assert table
    for row in table:
        size = row["width"], row["height"]
        for key, facts in row.items():
            if not key.startswith("at_"):
                continue
            found = rule(int(key.removeprefix("at_")))
            assert [*reversed(found.inner(*size))] == facts["resized_hw"], size
            assert found.offset(*size) == (facts["pad_left"], facts["pad_top"]), size
            assert found.size(*size) == (facts["square"], facts["square"])
    for key, expected in case.config["resized_hw"].items():
        file, _, side = key.partition("@")
        found = rule(int(side)).inner(*case.config["png_sizes"][file])
        assert [*reversed(found)] == expected, key


@cases("internvl_tiling")
def test_tiles_and_their_thumbnail(case):
    config, spec = case.config, shipped("internvl_1_5_26b", "sft")
    check_scale(spec, config["mean"], config["std"])
    assert config["pngs"]
    for file, facts in config["pngs"].items():
        given = in_size(spec, config["png_image_size"], high=facts["max_num"])
        seen = see(case, given, file)
        assert given.rule.tiling(*facts["size"]) == tuple(facts["grid"])
        assert len(seen.frames) == facts["tiles"] == given.rule.pictures(*facts["size"])
        assert torch.equal(torch.from_numpy(seen.frames), case.expected[f"{file}.tiles_uint8"])
        (found,) = pixels(given, seen)
        check(found, case.expected[f"{file}.pixel_values"], file)


@cases("internvl_tiling")
def test_grids_of_many_sizes_ties_among_them(case):
    table = json.loads((case.folder / "tiling.json").read_text(encoding="utf-8"))
    side, tokens_of_a_tile = table["image_size"], set()
    for row in table["rows"]:
        facts = dict(zip(table["columns"], row, strict=True))
        size = facts["width"], facts["height"]
        rule = Tiles(side, facts["min_num"], facts["max_num"], table["use_thumbnail"])
        columns, rows = rule.tiling(*size)
        assert (columns, rows) == (facts["grid_cols"], facts["grid_rows"]), facts
        assert (columns * side, rows * side) == (facts["resized_width"], facts["resized_height"])
        assert columns * rows == facts["tiles"]
        assert rule.pictures(*size) == facts["tiles_with_thumbnail"]
        tokens_of_a_tile.add(facts["image_tokens"] / rule.pictures(*size))
    resize = f"amend input image {{ resize = tiles({side}px, 1..12, thumbnail: true) }}"
    recipe = load_text(f"recipe tiny extends internvl_1_5_26b {{ {resize} }}", "tiny.vlm")
    tokens = for_training(recipe, "sft").spec["inputs"]["image"]["ends"]["mlp1"]["tokens"]
    assert tokens_of_a_tile == {tokens}

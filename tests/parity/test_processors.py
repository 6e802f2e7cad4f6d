"""Pixels of the golden processor cases: squares, letterboxes, crops, pads and tiles."""

from __future__ import annotations

import json

import torch

from triptych.blocks.input.media import MediaInput
from triptych.blocks.input.sample import Attachment
from triptych.blocks.input.sizes import Crop, Letterbox, Padded, Square, Tiles
from triptych.tests.parity.golden import cases

BOUND = 1e-6


def media_input(rule, mean, std, resize=None):
    """An input of one tower whose patches are whole pictures."""
    view = {
        "patch": resize or rule.side,
        "frames_per_patch": 1,
        "folded": False,
        "mean": mean,
        "std": std,
        "dense": True,
        "window": [1, 1],
        "rotary": None,
        "resize": resize,
    }
    spec = {
        "kind": "image",
        "size": rule.to_json(),
        "alpha": "drop",
        "channels": 3,
        "views": {"image": view},
        "ends": {"tower": {"tokens": 1, "grid": [1, 1], "window": [1, 1]}},
    }
    return MediaInput("image", spec)


def pixels(case, file, rule, mean, std, resize=None):
    """[M, C, H, W] what a tower is shown of a file."""
    given = media_input(rule, mean, std, resize)
    seen = given.see(Attachment("image", case.folder / f"{file}.png"))
    rows_M1P = given.feed([seen])["image.patches"]
    side = resize or rule.side
    return rows_M1P.view(-1, 3, side, side), seen


def check(found, expected, name):
    assert found.shape == expected.shape, name
    worst = (found - expected).abs().max().item()
    assert worst <= BOUND, f"{name} is off by {worst}"


def trimmed(mean):
    """The colour of a mean."""
    return tuple(int(share * 255) for share in mean)


@cases("minigpt4_processor")
def test_squares_whatever_the_shape(case):
    config, checked = case.config, 0
    for name, expected in case.expected.items():
        file, _, side = name.rpartition("_")
        found, _ = pixels(case, file, Square(int(side)), config["mean"], config["std"])
        check(found[0], expected, name)
        checked += 1
    assert checked


@cases("internvl_processor")
def test_squares_crops_and_pads(case):
    config = case.config
    mean, std, pad = config["mean"], config["std"], tuple(config["pad_colour"])
    assert pad == trimmed(mean)
    rules = {
        "retrieval": Square,
        "chat_square": Square,
        "classification": Crop,
        "clip_image_processor": Crop,
        "chat_pad2square": lambda side: Padded(side, pad),
        "llava_pad": lambda side: Padded(side, pad),
    }
    seen = set()
    for name, expected in case.expected.items():
        file, _, what = name.partition("/")
        what, _, side = what.rpartition("_")
        found, _ = pixels(case, file, rules[what](int(side)), mean, std)
        check(found[0], expected, name)
        seen.add(what)
    assert seen == rules.keys()


def letterbox(facts):
    pad = tuple(facts["background"])
    assert pad == trimmed(facts["image_mean"])
    return Letterbox(facts["image_size"], pad, facts["min_size"])


@cases("deepseek_vl_processor")
def test_letterboxes_and_a_second_view_of_them(case):
    config = case.config
    low, hybrid = config["low"], config["hybrid"]
    none = ([0.0] * 3, [1.0] * 3)
    views = {
        "low.pixel_values": (low, low["image_mean"], low["image_std"], None),
        "hybrid.pixel_values": (hybrid, *none, None),
        "hybrid.high_tower_input": (hybrid, hybrid["image_mean"], hybrid["image_std"], None),
        "hybrid.low_tower_input": (
            hybrid,
            low["image_mean"],
            low["image_std"],
            hybrid["low_resize"],
        ),
    }
    checked = set()
    for name, expected in case.expected.items():
        if name.startswith("batch."):
            continue
        kind, file, what = name.split(".")
        facts, mean, std, resize = views[f"{kind}.{what}"]
        found, seen = pixels(case, file, letterbox(facts), mean, std, resize)
        assert seen.size == tuple(config["png_sizes"][file])
        check(found[0], expected, name)
        checked.add(f"{kind}.{what}")
    assert checked == views.keys()


@cases("deepseek_vl_processor")
def test_letterboxes_of_many_sizes(case):
    low = case.config["low"]
    table = json.loads((case.folder / "resize_table.json").read_text(encoding="utf-8"))
    assert table
    for row in table:
        size = row["width"], row["height"]
        for key, facts in row.items():
            if not key.startswith("at_"):
                continue
            rule = Letterbox(
                int(key.removeprefix("at_")), trimmed(low["image_mean"]), low["min_size"]
            )
            assert [*reversed(rule.inner(*size))] == facts["resized_hw"], size
            assert rule.offset(*size) == (facts["pad_left"], facts["pad_top"]), size
            assert rule.size(*size) == (facts["square"], facts["square"])
    for key, expected in case.config["resized_hw"].items():
        file, _, side = key.partition("@")
        rule = Letterbox(int(side), trimmed(low["image_mean"]), low["min_size"])
        assert [*reversed(rule.inner(*case.config["png_sizes"][file]))] == expected, key


@cases("internvl_tiling")
def test_tiles_and_their_thumbnail(case):
    config = case.config
    assert config["pngs"]
    for file, facts in config["pngs"].items():
        rule = Tiles(config["png_image_size"], 1, facts["max_num"])
        assert rule.tiling(*facts["size"]) == tuple(facts["grid"])
        found, seen = pixels(case, file, rule, config["mean"], config["std"])
        assert len(seen.frames) == facts["tiles"] == rule.pictures(*facts["size"])
        assert torch.equal(torch.from_numpy(seen.frames), case.expected[f"{file}.tiles_uint8"])
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
    assert len(tokens_of_a_tile) == 1

"""Pixels, token ids and prompts of the golden processor cases, through the shipped recipe."""

from __future__ import annotations

import math
import re
from itertools import groupby

import numpy as np
import pytest
import torch
from PIL import Image

from triptych.blocks.input.media import MediaInput
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Attachment, Turn
from triptych.blocks.input.video import Clip
from triptych.compiler.pipeline import for_inference
from triptych.dsl.load import load_recipe
from triptych.tests.parity.golden import unfolded
from triptych.tests.parity.qwen2_vl import processor_cases, prompts_cases

BASE = "qwen2_vl_7b"


def media_input(config, name, limits, alpha="drop"):
    """An input of the shipped recipe under the limits of a case, with every frame in its rows."""
    patch, side = config["patch_size"], config["merge_size"]
    token = (patch * side) ** 2
    least, most = limits["min_pixels"] // token, limits["max_pixels"] // token
    mean, std = config["image_mean"], config["image_std"]
    amend = [
        f"vit.patch = {patch}px",
        f"vit.frames_per_patch = {config['temporal_patch_size']}",
        f"merger.window = {side}x{side}",
        f"merger.hidden = {side * side} * vit.width",
        f"{name}.resize = native(multiple: {side} * vit.patch, budget: {least}tok..{most}tok)",
        f"{name}.normalize = mean_std({mean}, {std})",
        f"image.alpha = {alpha}",
    ]
    spec = for_inference(load_recipe(BASE, amend=amend), "chat").spec
    return MediaInput(name, unfolded(spec["inputs"][name]))


def check_pixels(case, key, given, media):
    """Rows of pixels are those expected, bit for bit, all of them or every K-th."""
    kind = "pixel_values_videos" if given.name == "video" else "pixel_values"
    rows = given.feed(media)[f"{given.name}.patches"]
    grids = torch.tensor([given.grid(seen) for seen in media])
    checked = 0
    for name, expected in case.expected.items():
        if not name.startswith(f"{key}."):
            continue
        what = name.removeprefix(f"{key}.")
        if what.startswith(kind):
            step = int(what.partition("_every")[2] or 1)
            assert torch.equal(rows[::step], expected), name
        elif what.endswith("_grid_thw"):
            assert torch.equal(grids, expected), name
        elif what == "sum":
            assert torch.isclose(rows.double().sum(), expected, rtol=1e-12, atol=0), name
        elif what == "abs_sum":
            assert torch.isclose(rows.double().abs().sum(), expected, rtol=1e-12, atol=0), name
        elif what == "resized_u8":
            assert torch.equal(torch.from_numpy(media[0].frames[0]), expected), name
        else:
            continue
        checked += 1
    assert checked, f"nothing is expected of {key}"


def picture(case, file):
    return Attachment("image", case.folder / file)


@processor_cases
def test_pixels_are_those_of_the_official_processor_bit_for_bit(case):
    config = case.config
    for file, facts in config["images"].items():
        given = media_input(config, "image", facts)
        seen = given.see(picture(case, file))
        assert list(seen.frames.shape[1:3]) == facts["resized_hw"]
        assert list(given.grid(seen)) == facts["grid_thw"]
        assert given.tokens(seen) == {"merger": facts["merged_tokens"]}
        check_pixels(case, file.partition("_")[0], given, [seen])


@processor_cases
def test_transparency_is_blended_onto_white_where_the_recipe_says_so(case):
    config = case.config
    keys = {name.partition(".")[0] for name in case.expected if ".v523." in name}
    for file, facts in config["images"].items():
        if (key := file.partition("_")[0]) in keys:
            given = media_input(config, "image", facts, alpha="white")
            seen = given.see(picture(case, file))
            check_pixels(case, f"{key}.v523", given, [seen])


@processor_cases
def test_several_pictures_are_packed_one_after_another(case):
    config = case.config
    for name, expected in case.expected.items():
        keys, _, what = name.partition(".")
        if len(keys) < 2 or what != "image_grid_thw":
            continue
        files = [next(file for file in config["images"] if file[0] == key) for key in keys]
        given = media_input(config, "image", config["images"][files[0]])
        media = [given.see(picture(case, file)) for file in files]
        assert torch.equal(torch.tensor([given.grid(seen) for seen in media]), expected)
        single = [given.feed([seen])["image.patches"] for seen in media]
        assert torch.equal(given.feed(media)["image.patches"], torch.cat(single))


@processor_cases
def test_clips_are_those_of_the_official_processor_bit_for_bit(case):
    facts = case.config.get("video")
    if facts is None:
        pytest.skip("the case has no clip")
    (name,) = case.inputs
    frames = case.inputs[name].numpy()
    given = media_input(case.config, "video", facts)
    clip = Clip(tuple(Image.fromarray(frame) for frame in frames))
    check_pixels(case, name.partition(".")[0], given, [given.see(Attachment("video", clip))])


TURN = re.compile(r"<\|im_start\|>(\w+)\n(.*?)(?:<\|im_end\|>\n|\Z)", re.DOTALL)
PART = re.compile(
    r"(?:Picture \d+: |Video \d+: )?<\|vision_start\|><\|(image|video)_pad\|>"
    r"<\|vision_end\|>"
)


def dialogue(text, counts):
    """The turns that a written template says, with media that take the given numbers of tokens."""
    turns = []
    for role, content in TURN.findall(text):
        parts, begin = [], 0
        for marker in PART.finditer(content):
            parts += [content[begin : marker.start()], medium(marker[1], next(counts[marker[1]]))]
            begin = marker.end()
        parts.append(content[begin:])
        turns.append(Turn(role, tuple(part for part in parts if part != "")))
    return turns


def medium(kind, tokens):
    """A picture, or a clip of two frames, that takes this many tokens."""
    rows = max(side for side in range(1, math.isqrt(tokens) + 1) if tokens % side == 0)
    blank = Image.new("RGB", (28 * tokens // rows, 28 * rows))
    return Attachment(kind, blank if kind == "image" else Clip((blank, blank)))


def coded(ids):
    return [[int(id), len(list(group))] for id, group in groupby(ids)]


@prompts_cases
def test_prompts_are_those_of_the_official_template_token_for_token(case):
    budget = "native(multiple: 2 * vit.patch, budget: 1tok..16384tok)"
    amend = [f"image.resize = {budget}", f"video.resize = {budget}"]
    spec = for_inference(load_recipe(BASE, amend=amend), "chat").spec
    assert case.prompts
    for name, facts in case.prompts.items():
        text = facts["template_text"]
        numbered = re.search(r"(Picture|Video) 1: <\|vision_start", text) is not None
        layout = "chatml_numbered" if numbered else "chatml"
        processor = Processor({**spec, "layout": [layout]})
        counts = {kind: iter(facts[f"{kind}_tokens"]) for kind in ("image", "video")}
        turns = dialogue(text, counts)
        if turns[0] == Turn("system", (spec["layouts"][layout]["system"],)):
            del turns[0]
        if text.endswith("<|im_end|>\n"):
            sample = processor.sample(turns)
            answer = turns[-1].parts[0]
            scored = sample.ids[sample.supervised]
            assert processor.tokenizer.decode(scored, specials=True) == f"{answer}<|im_end|>"
        else:
            assert turns.pop() == Turn("assistant", ())
            sample = processor.prompt(turns)
            assert not sample.supervised[-1]
        assert coded(sample.ids) == facts["ids_rle"], name
        assert sample.length == facts["length"], name


def test_a_prompt_is_a_prefix_of_the_training_tokens():
    processor = Processor(for_inference(load_recipe(BASE), "chat").spec)
    question = Turn("user", (Attachment("image", Image.new("RGB", (56, 56))), " what?\n\n"))
    prompt = processor.prompt([question])
    sample = processor.sample([question, Turn("assistant", ("\n\n 1 frog",))])
    assert np.array_equal(sample.ids[: prompt.length], prompt.ids)
    assert not sample.supervised[: prompt.length].any() and sample.supervised[prompt.length]

"""The golden cases of Qwen-VL, through the shipped recipe, its passes and the lowering."""

from __future__ import annotations

import pytest
import torch
from torch.nn.functional import cross_entropy

from triptych.blocks.adapter.resampler import sines
from triptych.blocks.input.media import MediaInput
from triptych.blocks.input.sample import Attachment
from triptych.blocks.vision.positions import resized
from triptych.compiler.pipeline import for_inference
from triptych.compiler.plan import plan
from triptych.dsl.load import load_recipe
from triptych.tests.parity.golden import Taps, everywhere, part_totals, patches
from triptych.tests.parity.qwen_vl import model_cases, visual_cases


def seen(case, pixels):
    """What the tower and the resampler make of pictures, by the golden names."""
    recipe = case.seeing(pixels.shape[-1])
    program = for_inference(recipe, "chat")
    lowered = case.lower(program, recipe, parts=["vit", "resampler"])
    taps, tower = Taps(lowered), lowered.methods["vision_image"]
    with torch.no_grad():
        values = tower.values({"image.patches": patches(pixels, case.visual["patch_size"])})
        rows = {name: values[node] for name, node in tower.outputs.items()}
        (out,) = lowered.methods["project"](rows).values()
        positions = lowered.module.get_submodule("vit.positions")
        resampler = lowered.module.get_submodule("resampler")
        tables = {
            "vit_pos": resized(positions.table, positions.sizes, positions.grid)[0],
            "key_pos": resized(resampler.table, resampler.queries, resampler.grid)[0],
        }
    return tables | {
        "ln_pre": values["vit.pre_norm"],
        "tower": values["vit.blocks"],
        "attn_pool": taps.seen["resampler.attn"][0],
        "ln_post": taps.seen["resampler.norm"][0],
        "out": out.unflatten(0, (len(pixels), -1)),
    }


@visual_cases
def test_tower_and_resampler_are_the_official_ones(case, kernels):
    for name, pixels in case.inputs.items():
        prefix = name.removesuffix("pixels")
        found = seen(case, pixels)
        for expected in (key for key in case.expected if key.startswith(prefix)):
            key, _, every = expected.removeprefix(prefix).partition("_every")
            tensor = found[key]
            if every:
                tensor = tensor[..., :: int(every), :]
            kernels.check(tensor, case.expected[expected], expected)


@visual_cases
def test_the_fixed_table_starts_as_the_official_one(case):
    stored = case.published["transformer.visual.attn_pool.pos_embed"]
    side = round(len(stored) ** 0.5)
    torch.testing.assert_close(sines(side, side, stored.shape[1])[0], stored, atol=1e-6, rtol=0)
    given = case.config["full_sincos"]
    rows = sines(given["grid"], given["grid"], given["dim"])[0, given["rows"]]
    expected = case.expected["full_sincos.rows"]
    torch.testing.assert_close(rows[:, :: given["column_stride"]], expected, atol=1e-6, rtol=0)


class Run:
    """A prompt of a case on its way through the modes of the model."""

    def __init__(self, case, tokens):
        self.case, self.tokens = case, tokens
        program = for_inference(case.recipe, "chat")
        self.lowered, self.batches = case.lower(program, case.recipe), case.batches(program)
        self.taps = Taps(self.lowered)
        self.prompts = self.batches.prompt_batch([case.sample(tokens)])
        self.features = self._features(case.shown(tokens))

    def _features(self, pictures):
        if not pictures:
            return torch.zeros(1, self.case.recipe.lm.width)  # no place asks for it
        pixels = self.case.expected["pixel_values"][pictures]
        shown = patches(pixels, self.case.visual["patch_size"])
        with torch.no_grad():
            rows = self.lowered.methods["vision_image"]({"image.patches": shown})
            (made,) = self.lowered.methods["project"](rows).values()
        return made

    def everywhere(self):
        """What every node yields, and the logits of all places."""
        caches = self.case.caches(self.lowered, 1, len(self.tokens))
        inputs = dict(self.prompts.inputs) | {"features": self.features}
        with torch.no_grad():
            values = self.lowered.methods["prefill"].values(inputs | caches)
            return values, everywhere(self.lowered, values)

    def decoded(self, steps):
        """Greedy tokens and the logits that chose them, over a cache: [1, steps], [1, steps, V]."""
        caches = self.case.caches(self.lowered, 1, len(self.tokens) + steps)
        inputs = dict(self.prompts.inputs) | {"features": self.features}
        said, scores = [], []
        with torch.no_grad():
            logits = self.lowered.methods["prefill"](inputs | caches)["logits"]
            for step in range(steps):
                scores.append(logits)
                said.append(logits.argmax(-1))
                slot = len(self.tokens) + step
                inputs = self.batches.next_inputs(self.prompts, said[-1], slot)
                logits = self.lowered.methods["decode"](inputs | caches)["logits"]
        return torch.stack(said, dim=1), torch.stack(scores, dim=1)


def prompts(case):
    """The prompts of a case, by name."""
    suffix = ".input_ids"
    return {
        name.removesuffix(suffix): ids[0]
        for name, ids in case.inputs.items()
        if name.endswith(suffix)
    }


@model_cases
def test_every_activation_is_that_of_the_official_model(case, kernels):
    for name, tokens in prompts(case).items():
        run = Run(case, tokens)
        values, logits = run.everywhere()
        found = {
            "inputs_embeds": values["lm.splice"],
            "layer0_out": run.taps.seen["lm.blocks.0"][0],
            "logits": logits,
        }
        labels = case.inputs.get(f"{name}.labels")
        if labels is not None:
            found["loss"] = cross_entropy(logits[0, :-1], labels[0, 1:], ignore_index=-100)
        for key, tensor in found.items():
            if f"{name}.{key}" in case.expected:
                kernels.check(tensor, case.expected[f"{name}.{key}"], f"{name}.{key}")
        pictures = case.shown(tokens)
        if pictures and "image_features" in case.expected:
            rows = case.expected["image_features"][pictures]
            kernels.check(run.features.unflatten(0, rows.shape[:2]), rows, f"{name}.features")


@model_cases
def test_decoding_keeps_the_positions_that_the_prompt_was_read_with(case, kernels):
    for name, tokens in prompts(case).items():
        if f"{name}.decode_tokens" not in case.expected:
            continue
        expected = case.expected[f"{name}.decode_tokens"]
        said, scores = Run(case, tokens).decoded(expected.shape[1])
        assert torch.equal(said, expected)
        whole = torch.cat((tokens, expected[0, :-1]))
        _, logits = Run(case, whole).everywhere()
        found = {"decode_logits": scores, "rerun_last_logits": logits[:, -1]}
        for key, tensor in found.items():
            if f"{name}.{key}" in case.expected:
                kernels.check(tensor, case.expected[f"{name}.{key}"], f"{name}.{key}")


@pytest.mark.parametrize(
    ("name", "pool"),
    [
        ("qwen_vl_7b_q64", 74_481_664),
        ("qwen_vl_7b_q144", 75_137_024),
        ("qwen_vl_7b", 76_054_528),
        ("qwen_vl_7b_q400", 77_234_176),
    ],
)
def test_parts_have_the_parameters_of_the_sheet(name, pool):
    assert part_totals(name) == {
        "vit": 1_842_770_688,
        "resampler": pool + 16_785_408,
        "lm": 7_721_324_544,
    }


def test_the_fixed_table_is_trained_by_no_stage():
    for stage in plan(load_recipe("qwen_vl_7b")).stages:
        assert "resampler.table" not in stage.trained
        assert "resampler.query" in stage.trained


@model_cases
def test_pictures_become_the_official_pixels(case):
    spec = for_inference(case.recipe, "chat").spec
    given = MediaInput("image", spec["inputs"]["image"])
    files = sorted(case.folder.glob("*.png"))
    media = [given.see(Attachment("image", file)) for file in files]
    expected = patches(case.expected["pixel_values"], case.visual["patch_size"])
    torch.testing.assert_close(given.feed(media)["image.patches"], expected, atol=1e-6, rtol=0)

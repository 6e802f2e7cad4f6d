"""Golden cases of Qwen2-VL: the shipped recipe in the sizes of a case, and the inputs of one."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triptych.blocks.input.sample import Sample, Seen
from triptych.blocks.input.sizes import Grid
from triptych.compiler.lower import Lowered
from triptych.dsl.load import load_recipe, load_text
from triptych.dsl.recipe import Recipe
from triptych.tests.parity.golden import Case, cases

BASE = "qwen2_vl_7b"

# Names of the recipe's special tokens in the published configuration.
TOKEN_IDS = {
    "endoftext": "bos_token_id",
    "im_end": "eos_token_id",
    "vision_start": "vision_start_token_id",
    "vision_end": "vision_end_token_id",
    "vision_pad": "vision_token_id",
    "image_pad": "image_token_id",
    "video_pad": "video_token_id",
}


@dataclass(frozen=True)
class Qwen2VLCase(Case):
    """A case whose model is the shipped recipe in other sizes."""

    @cached_property
    def recipe(self) -> Recipe:
        """The shipped recipe in the sizes of the case."""
        return load_text(_variant(self.config), f"{self.folder.name}.vlm")

    @property
    def feeds(self) -> list[Feed]:
        """The sets of inputs of the case; the names of a second one begin with `tall.`, say."""
        prefixes = [name.removesuffix("input_ids") for name in self.inputs]
        return [Feed(self, prefix) for prefix in prefixes if f"{prefix}input_ids" in self.inputs]

    def prefill(
        self, lowered: Lowered, inputs: dict[str, Tensor], caches: dict[str, Tensor] | None = None
    ) -> Tensor:
        """The logits of the last tokens: tower, adapter and language model one after another."""
        features = []
        for name in lowered.program.spec["inputs"]:
            if f"{name}.patches" in inputs:
                rows = lowered.methods[f"vision_{name}"](inputs)
                features += lowered.methods["project"](rows).values()
        nothing = torch.zeros(1, self.config["hidden_size"])  # no place asks for it
        inputs = inputs | {"features": torch.cat(features or [nothing])}
        if caches is None:
            rows, length = inputs["text.tokens"].shape
            caches = self.caches(lowered, rows, length)
        logits: Tensor = lowered.methods["prefill"](inputs | caches)["logits"]
        return logits


@dataclass(frozen=True)
class Feed:
    """One set of inputs of a case, and what is expected of it."""

    case: Qwen2VLCase
    prefix: str

    def input(self, name: str) -> Tensor | None:
        return self.case.inputs.get(self.prefix + name)

    @property
    def expected(self) -> dict[str, Tensor]:
        """Expected tensors by their plain names; without those of a rule that is not ours."""
        others = [feed.prefix for feed in self.case.feeds if len(feed.prefix) > len(self.prefix)]
        return {
            name.removeprefix(self.prefix): tensor
            for name, tensor in self.case.expected.items()
            if name.startswith(self.prefix)
            and not any(name.startswith(other) for other in others)
            and not name.endswith("_v523_rule")
        }

    @property
    def mask(self) -> Tensor:
        """True where a token is, [B, T]."""
        return self._given("attention_mask").bool()

    @property
    def media(self) -> list[str]:
        """The inputs that something is shown to."""
        return [name for name in ("image", "video") if self.input(f"{name}_grid_thw") is not None]

    def samples(self) -> list[Sample]:
        """The rows without their padding; the pixels are not real, see `patches`."""
        ids, labels = self._given("input_ids"), self.input("labels")
        grids = {name: self._grids(name) for name in self.media}
        samples = []
        for row, mask in enumerate(self.mask):
            tokens = ids[row][mask]
            scored = torch.ones_like(tokens) if labels is None else labels[row][mask] != -100
            media = tuple(self._seen(tokens.tolist(), grids))
            samples.append(Sample(tokens.numpy(), scored.bool().numpy(), media))
        return samples

    def patches(self) -> dict[str, Tensor]:
        """The given rows of pixels, by the names of ours."""
        published = {"image": "pixel_values", "video": "pixel_values_videos"}
        return {f"{name}.patches": self._given(published[name]) for name in self.media}

    def _grids(self, name: str) -> Iterator[Grid]:
        return iter([Grid(*row) for row in self._given(f"{name}_grid_thw").tolist()])

    def _given(self, name: str) -> Tensor:
        return self.case.inputs[self.prefix + name]

    def _seen(self, tokens: list[int], grids: Mapping[str, Iterator[Grid]]) -> Iterator[Seen]:
        vision = self.case.config["vision_config"]
        side = vision["spatial_merge_size"]
        place = 0
        while place < len(tokens):
            kinds = (
                name for name in grids if tokens[place] == self.case.config[f"{name}_token_id"]
            )
            name = next(kinds, None)
            if name is None:
                place += 1
                continue
            grid = next(grids[name])
            size = (grid.columns * vision["patch_size"], grid.rows * vision["patch_size"])
            frames = grid.slots * (vision["temporal_patch_size"] if name == "video" else 1)
            pixels = np.zeros((frames, size[1], size[0], vision["in_channels"]), np.uint8)
            yield Seen(name, pixels, size, {"merger": (place,)})
            place += grid.merged((side, side)).patches


def _variant(config: Mapping[str, Any]) -> str:
    """The text of a recipe: the shipped one, with the sizes of a published configuration."""
    vision, rope = config["vision_config"], config["rope_scaling"]
    side = vision["spatial_merge_size"]
    shipped = load_recipe(BASE).tokens
    assert shipped
    given = {name: config[key] for name, key in TOKEN_IDS.items()}
    spare = (id for id in range(config["vocab_size"]) if id not in given.values())
    specials = "\n".join(
        f'amend special {name} = "{special.text}" @ {given[name] if name in given else next(spare)}'
        for name, special in shipped.specials.items()
    )
    native = f"native(multiple: {side} * vit.patch, budget: 1tok..64tok)"
    resize = "\n".join(f"amend input {name} {{ resize = {native} }}" for name in ("image", "video"))
    return f"""
    recipe tiny extends {BASE} {{
      amend tokens {{ {specials} }}
      {resize}
      amend encoder vit {{
        patch = {vision["patch_size"]}px
        frames_per_patch = {vision["temporal_patch_size"]}
        depth = {vision["depth"]}
        width = {vision["embed_dim"]}
        heads = {vision["num_heads"]}
        ffn = {int(vision["mlp_ratio"] * vision["embed_dim"])}
        act = {vision["hidden_act"]}
      }}
      amend adapter merger {{
        window = {side}x{side}
        hidden = {side * side} * vit.width
      }}
      amend lm {{
        depth = {config["num_hidden_layers"]}
        width = {config["hidden_size"]}
        heads = {config["num_attention_heads"]}
        kv_heads = {config["num_key_value_heads"]}
        ffn = {config["intermediate_size"]}
        vocab = {config["vocab_size"]}
        act = {config["hidden_act"]}
        norm = rmsnorm(eps: {config["rms_norm_eps"]})
        pos = mrope({rope["mrope_section"]}, theta: {config["rope_theta"]})
        tied = {str(config["tie_word_embeddings"]).lower()}
      }}
      {'amend weights { drop map "lm_head.weight" }' if config["tie_word_embeddings"] else ""}
    }}
    """


model_cases = cases("qwen2_vl", Qwen2VLCase, where=lambda case: case.is_model)
train_cases = cases(
    "qwen2_vl", Qwen2VLCase, where=lambda case: case.is_model and "loss" in case.expected
)
generate_cases = cases(
    "qwen2_vl", Qwen2VLCase, where=lambda case: case.is_model and "generated" in case.expected
)
processor_cases = cases("qwen2_vl", Qwen2VLCase, where=lambda case: not case.is_model)
prompts_cases = cases(
    "qwen2_vl", Qwen2VLCase, where=lambda case: (case.folder / "prompts.json").exists()
)

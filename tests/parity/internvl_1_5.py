"""Golden cases of InternVL 1.5: the shipped recipe in the sizes of a case, and its inputs."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby
from typing import Any

import numpy as np
import torch

from triptych.blocks.input.sample import Sample, Seen
from triptych.dsl.load import load_recipe, load_text
from triptych.dsl.recipe import Recipe
from triptych.tests.parity.golden import Case, cases

BASE = "internvl_1_5_26b"

# Names of the recipe's special tokens in the cases.
TOKEN_IDS = {
    "bos": "bos",
    "eos": "pad",
    "im_end": "im_end",
    "im_start": "im_start",
    "img_start": "img",
    "img_end": "img_end",
    "img_context": "img_context",
}


@dataclass(frozen=True)
class InternVL15Case(Case):
    """A case whose model is the shipped recipe in other sizes."""

    @property
    def vision(self) -> dict[str, Any]:
        """The configuration of the tower."""
        found: dict[str, Any] = self.config.get("vision", self.config)
        return found

    @cached_property
    def recipe(self) -> Recipe:
        """The shipped recipe in the sizes of the case."""
        side = self.vision["image_size"]
        text = f"""
        recipe tiny extends {BASE} {{
          {self._tokens() if "special_ids" in self.config else ""}
          amend input image {{ resize = tiles({side}px, 1..12, thumbnail: true) }}
          amend encoder vit {{ {self._vit()} }}
          amend adapter shuffle {{ factor = {self._factor()} }}
          amend lm {{ {self._lm()} }}
          amend mode chat {{ resize = tiles({side}px, 1..40, thumbnail: true) }}
          amend stage pretrain {{ drop drop_path }}
          amend stage sft {{ drop drop_path }}
        }}
        """
        return load_text(text, f"{self.folder.name}.vlm")

    def samples(self, ids: str = "input_ids") -> list[Sample]:
        """The rows without their padding; the pixels are not real."""
        rows, masks = self.inputs[ids], self.inputs["attention_mask"]
        labels = self.inputs.get("labels")
        found = []
        for number, tokens in enumerate(rows):
            real = masks[number].bool() if masks.shape == rows.shape else tokens == tokens
            scored = torch.ones_like(tokens) if labels is None else labels[number] != -100
            media = tuple(self._seen(tokens[real].tolist()))
            found.append(Sample(tokens[real].numpy(), scored[real].bool().numpy(), media))
        return found

    def _seen(self, tokens: list[int]) -> Iterator[Seen]:
        """One picture for each run of placeholders; its tiles share them."""
        side, place = self.vision["image_size"], 0
        for token, run in groupby(tokens):
            length = len(list(run))
            if token == self.config["special_ids"]["img_context"]:
                tiles = length // self.config["num_image_token"]
                frames = np.zeros((tiles, side, side, 3), np.uint8)
                yield Seen("image", frames, (side, side), {"mlp1": (place,)})
            place += length

    def _tokens(self) -> str:
        shipped = load_recipe(BASE).tokens
        assert shipped
        given = {name: self.config["special_ids"][key] for name, key in TOKEN_IDS.items()}
        spare = (i for i in range(self.config["llm"]["vocab_size"]) if i not in given.values())
        specials = "\n".join(
            f'special {name} = "{one.text}" @ {given[name] if name in given else next(spare)}'
            for name, one in shipped.specials.items()
        )
        return f"amend tokens {{ {specials} }}"

    def _vit(self) -> str:
        vision = self.vision
        grid = vision["image_size"] // vision["patch_size"]
        call = {"rms_norm": "rmsnorm", "layer_norm": "layernorm"}[vision["norm_type"]]
        norm = f"{call}(eps: {vision.get('layer_norm_eps', 1e-6)})"
        return f"""
            patch    = {vision["patch_size"]}px
            depth    = {vision["num_hidden_layers"]}
            width    = {vision["hidden_size"]}
            heads    = {vision["num_attention_heads"]}
            ffn      = {vision["intermediate_size"]}
            act      = {vision.get("hidden_act", "gelu")}
            norm     = {norm}
            pos      = learned({grid}x{grid}, interpolate: true)
            qkv_bias = {str(vision["qkv_bias"]).lower()}
            {"" if vision["qk_normalization"] else "drop qk_norm"}
        """

    def _factor(self) -> int:
        """The side of a window that becomes one token; a tower alone need not fall into any."""
        ratio: float = self.config.get("downsample_ratio", 1)
        return round(1 / ratio)

    def _lm(self) -> str:
        if "llm" not in self.config:
            return "depth = 1 width = 8 heads = 1 kv_heads = 1 ffn = 8"
        llm = self.config["llm"]
        given, most = llm["rope_scaling"], llm["max_position_embeddings"]
        scaling = f", scaling: dynamic(factor: {given['factor']}, from: {most}tok)" if given else ""
        return f"""
            depth    = {llm["num_hidden_layers"]}
            width    = {llm["hidden_size"]}
            heads    = {llm["num_attention_heads"]}
            kv_heads = {llm["num_key_value_heads"]}
            ffn      = {llm["intermediate_size"]}
            vocab    = {llm["vocab_size"]}
            norm     = rmsnorm(eps: {llm["rms_norm_eps"]})
            pos      = rope(theta: {llm["rope_theta"]}{scaling})
            tied     = {str(llm["tie_word_embeddings"]).lower()}
        """


tower_cases = cases("internvit", InternVL15Case)
chat_cases = cases(
    "internvl_1_5", InternVL15Case, where=lambda case: case.is_model and "labels" not in case.inputs
)
train_cases = cases(
    "internvl_1_5", InternVL15Case, where=lambda case: case.is_model and "labels" in case.inputs
)

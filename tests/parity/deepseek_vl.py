"""Golden cases of DeepSeek-VL: the shipped recipes in the sizes of a case, and its inputs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from triptych.blocks.input.sample import Sample, Seen
from triptych.dsl.load import load_text
from triptych.dsl.recipe import Recipe
from triptych.tests.parity.golden import Case, cases, patches

SHORTEST = "depth = 1 width = 8 heads = 1 ffn = 8"
"""Sizes of parts that a case has no weights of."""


@dataclass(frozen=True)
class DeepSeekCase(Case):
    """A case whose model is one of the shipped recipes in other sizes."""

    @property
    def is_hybrid(self) -> bool:
        """Two towers; the other kind has SigLIP alone."""
        return "high_res_cfg" in self.config["vision"]

    @cached_property
    def recipe(self) -> Recipe:
        """The shipped recipe in the sizes of the case."""
        vision = self.config["vision"]
        parts = _hybrid(vision) if self.is_hybrid else _low(vision)
        base = "deepseek_vl_7b" if self.is_hybrid else "deepseek_vl_1_3b"
        language, ids = self.config["language"], self.config["special_ids"]
        text = f"""
        recipe tiny extends {base} {{
          amend tokens {{
            special bos = "<bos>" @ {ids["bos"]}
            special eos = "<eos>" @ {ids["eos_used_for_stop"]}
            special placeholder = "<image>" @ {ids["image_placeholder"]}
          }}
          {parts}
          amend lm {{
            depth    = {language["num_hidden_layers"]}
            width    = {language["hidden_size"]}
            heads    = {language["num_attention_heads"]}
            kv_heads = {language["num_key_value_heads"]}
            ffn      = {language["intermediate_size"]}
            vocab    = {language["vocab_size"]}
            norm     = rmsnorm(eps: {language["rms_norm_eps"]})
            pos      = rope(theta: {language["rope_theta"]})
            tied     = {str(language["tie_word_embeddings"]).lower()}
          }}
        }}
        """
        return load_text(text, f"{self.folder.name}.vlm")

    def views(self, pixels: Tensor) -> dict[str, Tensor]:
        """What the towers take of pictures [M, C, H, W]; those for two are not normalised yet."""
        vision = self.config["vision"]
        if not self.is_hybrid:
            return {"image.patches": patches(pixels, vision["patch_size"])}
        high, low = vision["high_res_cfg"], vision["low_res_cfg"]
        return {
            "image_sam.patches": patches(_normalised(pixels, high), high["sam"]["patch_size"]),
            "image_siglip.patches": patches(
                _normalised(self.shrunk(pixels), low), low["siglip"]["patch_size"]
            ),
        }

    def shrunk(self, pixels: Tensor) -> Tensor:
        """Pictures at the size of the lower tower."""
        side: int = self.config["vision"]["low_res_cfg"]["image_size"]
        return functional.interpolate(pixels, (side, side), mode="bilinear", antialias=True)

    def shown(self, pictures: Tensor) -> Tensor:
        """Those of one row for each slot, [B, n, ...], that a prompt shows, one after another."""
        used = self.inputs["images_emb_mask"][..., 0]
        slots: Tensor = pictures.unflatten(0, used.shape)
        return slots[used]

    def samples(self) -> list[Sample]:
        """The rows without their padding; the pixels are not real, see `views`."""
        labels = self.inputs.get("labels")
        side = self.inputs["pixel_values"].shape[-1]
        places = self.config["num_image_tokens"]
        found = []
        for row, mask in enumerate(self.inputs["attention_mask"].bool()):
            tokens = self.inputs["input_ids"][row][mask]
            scored = torch.ones_like(tokens) if labels is None else labels[row][mask] != -100
            starts = self.inputs["images_seq_mask"][row][mask].nonzero().flatten()[::places]
            frames = np.zeros((1, side, side, 3), np.uint8)
            media = tuple(
                Seen("image", frames, (side, side), {"aligner": (start,)})
                for start in starts.tolist()
            )
            found.append(Sample(tokens.numpy(), scored.bool().numpy(), media))
        return found


@dataclass(frozen=True)
class SamCase(Case):
    """A case of the tower at high resolution and its neck alone."""

    @cached_property
    def recipe(self) -> Recipe:
        """The shipped recipe with the tower of the case, and next to nothing else."""
        side = self.config["image_size"]
        cells = self.config["interpolate_to"][0]
        for _ in self.config["downsample_channels"]:
            cells = -(-cells // 2)
        text = f"""
        recipe tiny extends deepseek_vl_7b {{
          amend input image {{ resize = letterbox({side}px, pad: mean) }}
          {_sam(self.config)}
          amend encoder siglip {{
            in = resize(image, {cells}px)
            patch = 1px
            pos = learned({cells}x{cells})
            {SHORTEST}
          }}
          amend lm {{ {SHORTEST} }}
        }}
        """
        return load_text(text, f"{self.folder.name}.vlm")


def _low(vision: Mapping[str, Any]) -> str:
    return f"""
    amend input image {{ resize = letterbox({vision["image_size"]}px, pad: mean) }}
    amend encoder siglip {{ {_siglip(vision)} }}
    """


def _hybrid(vision: Mapping[str, Any]) -> str:
    high, low = vision["high_res_cfg"], vision["low_res_cfg"]
    return f"""
    amend input image {{ resize = letterbox({high["image_size"]}px, pad: mean) }}
    {_sam(high["sam"])}
    amend encoder siglip {{
      in = resize(image, {low["image_size"]}px)
      {_siglip(low["siglip"])}
    }}
    """


def _siglip(vision: Mapping[str, Any]) -> str:
    grid = vision["image_size"] // vision["patch_size"]
    return f"""
    patch = {vision["patch_size"]}px
    depth = {vision["layers"]}
    width = {vision["width"]}
    heads = {vision["heads"]}
    ffn   = {int(vision["mlp_ratio"] * vision["width"])}
    norm  = layernorm(eps: {vision["layer_norm_eps"]})
    pos   = learned({grid}x{grid})
    """


def _sam(sam: Mapping[str, Any]) -> str:
    """The tower, whose second map is that behind its first global block, and the neck."""
    whole = sam["global_attn_indexes"]
    rows, columns = sam["interpolate_to"]
    return f"""
    amend encoder sam {{
      patch  = {sam["patch_size"]}px
      depth  = {sam["layers"]}
      width  = {sam["width"]}
      heads  = {sam["heads"]}
      ffn    = {int(sam["mlp_ratio"] * sam["width"])}
      norm   = layernorm(eps: {sam["layer_norm_eps"]})
      window = {sam["window_size"]}
      global = {whole}
    }}
    amend adapter neck {{
      in      = [sam.blocks[{sam["layers"] - 1}], sam.blocks[{whole[0]}]]
      width   = {sam["prompt_embed_dim"]}
      grid    = {rows}x{columns}
      strided = {sam["downsample_channels"]}
    }}
    """


def _normalised(pixels: Tensor, tower: Mapping[str, Any]) -> Tensor:
    mean, std = (torch.tensor(tower[f"pixel_{what}"])[:, None, None] for what in ("mean", "std"))
    return (pixels - mean) / std


model_cases = cases(
    "deepseek_vl", DeepSeekCase, where=lambda case: case.is_model and "labels" not in case.inputs
)
train_cases = cases(
    "deepseek_vl", DeepSeekCase, where=lambda case: case.is_model and "labels" in case.inputs
)

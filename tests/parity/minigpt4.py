"""Golden cases of MiniGPT-4: the shipped recipe in the sizes of a case, and the inputs of one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from triptych.blocks.input.sample import Sample, Seen
from triptych.dsl.load import load_text
from triptych.dsl.recipe import Recipe
from triptych.tests.parity.golden import Case, cases

BASE = "minigpt4_7b"
END = "projection"


@dataclass(frozen=True)
class MiniGPT4Case(Case):
    """A case whose model is the shipped recipe in other sizes."""

    @cached_property
    def recipe(self) -> Recipe:
        """The shipped recipe in the sizes of the case."""
        return self.seeing(self.config.get("vit", {}).get("img_size"))

    def seeing(self, side: int | None) -> Recipe:
        """The same for pictures of so many pixels."""
        return load_text(self._variant(side), f"{self.folder.name}.vlm")

    def sample(self, before: Tensor, after: Tensor, answer: Tensor | None = None) -> Sample:
        """Text, a picture, text and an answer; the pixels are not real, see `patches`."""
        side, queries = self.config["vit"]["img_size"], self.config["qformer"]["num_query_tokens"]
        answer = torch.zeros(0, dtype=torch.int64) if answer is None else answer
        ids = torch.cat((before, torch.zeros(queries, dtype=torch.int64), after, answer))
        scored = torch.arange(len(ids)) >= len(ids) - len(answer)
        seen = Seen(
            "image", np.zeros((1, side, side, 3), np.uint8), (side, side), {END: (len(before),)}
        )
        return Sample(ids.numpy(), scored.numpy(), (seen,))

    def _variant(self, side: int | None) -> str:
        """The text of a recipe: the shipped one, with the sizes that the case speaks of."""
        resize = f"amend input image {{ resize = square({side}px) }}" if side else ""
        return f"""
        recipe tiny extends {BASE} {{
          {resize}
          {self._vit()}
          {self._qformer()}
          {self._lm()}
        }}
        """

    def _vit(self) -> str:
        if "vit" not in self.config:
            # What the Q-Former of the case looks at: no more is said of its tower.
            width = self.config["qformer"]["encoder_width"]
            return f"amend encoder vit {{ depth = 1 width = {width} heads = 1 ffn = 8 }}"
        vit = self.config["vit"]
        side = vit["img_size"] // vit["patch_size"]
        return f"""
        amend encoder vit {{
          patch = {vit["patch_size"]}px
          depth = {vit["depth"]}
          width = {vit["embed_dim"]}
          heads = {vit["num_heads"]}
          ffn   = {vit["mlp_hidden"]}
          norm  = layernorm(eps: {vit["norm_eps"]})
          pos   = learned({side}x{side}, interpolate: true)
          final_norm = layernorm(eps: {vit["ln_vision_eps"]})
        }}
        """

    def _qformer(self) -> str:
        if "qformer" not in self.config:
            return ""
        qformer = self.config["qformer"]
        return f"""
        amend adapter qformer {{
          queries = {qformer["num_query_tokens"]}
          depth   = {qformer["num_hidden_layers"]}
          width   = {qformer["hidden_size"]}
          heads   = {qformer["num_attention_heads"]}
          ffn     = {qformer["intermediate_size"]}
          norm    = layernorm(eps: {qformer["layer_norm_eps"]})
          act     = {qformer["hidden_act"]}
          cross_every = {qformer["cross_attention_freq"]}
        }}
        """

    def _lm(self) -> str:
        if "llm" not in self.config:
            width = self.config.get("llama_proj", {}).get("out_features", 8)
            return f"amend lm {{ depth = 1 width = {width} heads = 1 ffn = 8 }}"
        lm = self.config["llm"]
        return f"""
        amend lm {{
          depth   = {lm["num_hidden_layers"]}
          width   = {lm["hidden_size"]}
          heads   = {lm["num_attention_heads"]}
          ffn     = {lm["intermediate_size"]}
          vocab   = {lm["vocab_size"]}
          norm    = rmsnorm(eps: {lm["rms_norm_eps"]})
          act     = {lm["hidden_act"]}
          context = {lm["max_position_embeddings"]}tok
        }}
        amend mode chat {{ prompt = ..{lm["max_position_embeddings"] // 2}tok new = 16tok }}
        """


def _has(part: str) -> Callable[[MiniGPT4Case], bool]:
    return lambda case: part in case.config and "llm" not in case.config


vision_cases = cases("minigpt4", MiniGPT4Case, where=_has("vit"))
qformer_cases = cases("minigpt4", MiniGPT4Case, where=_has("qformer"))
model_cases = cases("minigpt4", MiniGPT4Case, where=lambda case: "llm" in case.config)
processor_cases = cases("minigpt4", MiniGPT4Case, where=lambda case: not case.is_model)

"""Golden cases of Qwen-VL: the shipped recipe in the sizes of a case, and the inputs of one."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from torch import Tensor

from triptych.blocks.input.sample import Sample, Seen
from triptych.dsl.load import load_recipe, load_text
from triptych.dsl.recipe import Recipe
from triptych.tests.parity.golden import Case, cases

BASE = "qwen_vl_7b"


@dataclass(frozen=True)
class QwenVLCase(Case):
    """A case whose model is the shipped recipe in other sizes."""

    @property
    def visual(self) -> dict[str, Any]:
        """The configuration of the tower and the resampler."""
        given: dict[str, Any] = self.config["visual"]
        return given

    @property
    def has_lm(self) -> bool:
        """The whole model; the other kind is the tower and the resampler."""
        return "lm" in self.config

    @cached_property
    def recipe(self) -> Recipe:
        """The shipped recipe in the sizes of the case."""
        return self.seeing(self.visual["image_size"])

    def seeing(self, side: int) -> Recipe:
        """The same for pictures of so many pixels."""
        return load_text(self._variant(side), f"{self.folder.name}.vlm")

    def sample(self, tokens: Tensor) -> Sample:
        """One prompt; the pixels of its pictures are not real, see `shown` and `patches`."""
        side = self.visual["image_size"]
        frames = np.zeros((1, side, side, 3), np.uint8)
        media = [
            Seen("image", frames, (side, side), {"resampler": (start,)})
            for start, _ in self._spans(tokens)
        ]
        return Sample(tokens.numpy(), np.ones(len(tokens), np.bool_), tuple(media))

    def shown(self, tokens: Tensor) -> list[int]:
        """Which of the case's pictures a prompt shows: its ids spell their files, byte by byte."""
        files = sorted(file.name for file in self.folder.glob("*.png"))
        pad = self.config["special"]["img_pad"]
        spelt = (
            bytes(int(id) for id in tokens[start:end] if id != pad).decode()
            for start, end in self._spans(tokens)
        )
        return [files.index(name) for name in spelt]

    def _spans(self, tokens: Tensor) -> list[tuple[int, int]]:
        """The places between the tags of each picture."""
        tags = (self.config["special"][tag] for tag in ("img_start", "img_end"))
        starts, ends = ((tokens == tag).nonzero().flatten().tolist() for tag in tags)
        return [(start + 1, end) for start, end in zip(starts, ends, strict=True)]

    def _variant(self, side: int) -> str:
        """The text of a recipe: the shipped one, with the sizes of the case."""
        visual, table = self.visual, self.published["transformer.visual.positional_embedding"]
        queries, grid = (math.isqrt(n) for n in (visual["n_queries"], len(table)))
        return f"""
        recipe tiny extends {BASE} {{
          amend input image {{ resize = square({side}px) }}
          amend encoder vit {{
            patch = {visual["patch_size"]}px
            depth = {visual["layers"]}
            width = {visual["width"]}
            heads = {visual["heads"]}
            ffn   = {int(visual["mlp_ratio"] * visual["width"])}
            pos   = learned({grid}x{grid}, interpolate: true)
          }}
          amend adapter resampler {{
            queries = {queries}x{queries}
            heads   = {self.config["resampler_heads"]}
          }}
          amend lm {{ {self._lm()} }}
          {self._tokens() if self.has_lm else ""}
        }}
        """

    def _lm(self) -> str:
        if not self.has_lm:
            return f"depth = 1 width = {self.visual['output_dim']} heads = 1 ffn = 8"
        lm = self.config["lm"]
        begin = f"from: {lm['seq_length']}tok"
        scaling = f", scaling: ntk({begin})" if lm["use_dynamic_ntk"] else ""
        query_scale = f"query_scale = logn({begin})" if lm["use_logn_attn"] else "drop query_scale"
        return f"""
            depth    = {lm["num_hidden_layers"]}
            width    = {lm["hidden_size"]}
            heads    = {lm["num_attention_heads"]}
            head_dim = {lm["kv_channels"]}
            ffn      = {lm["intermediate_size"] // 2}
            vocab    = {lm["vocab_size"]}
            norm     = rmsnorm(eps: {lm["layer_norm_epsilon"]})
            pos      = rope(theta: {lm["rotary_emb_base"]}{scaling})
            {query_scale}
            context  = {lm["max_position_embeddings"]}tok
        """

    def _tokens(self) -> str:
        """Special tokens whose ids are inside the case's vocabulary."""
        shipped = load_recipe(BASE).tokens
        assert shipped
        given = self.config["special"] | {"endoftext": self.config["special"]["eod"]}
        spare = (i for i in range(self.config["lm"]["vocab_size"]) if i not in given.values())
        specials = "\n".join(
            f'amend special {name} = "{one.text}" @ {given[name] if name in given else next(spare)}'
            for name, one in shipped.specials.items()
        )
        return f"amend tokens {{ {specials} }}"


visual_cases = cases("qwen_vl", QwenVLCase, where=lambda case: not case.has_lm)
model_cases = cases("qwen_vl", QwenVLCase, where=lambda case: case.has_lm)

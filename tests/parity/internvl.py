"""Golden cases of InternVL: the shipped recipes in the sizes of a case, and pixels as patches."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from triptych.backends.weights import taken_apart
from triptych.blocks.input.batch import Batches
from triptych.blocks.input.media import MediaInput
from triptych.blocks.input.positions import TextPositions
from triptych.blocks.input.sample import Sample, Seen
from triptych.compiler.build import build
from triptych.compiler.graph import Program
from triptych.compiler.lower import Lowered, lower
from triptych.compiler.weights import names
from triptych.dsl.load import load_text
from triptych.dsl.recipe import Recipe
from triptych.tests.parity.golden import Case


@dataclass(frozen=True)
class InternVLCase(Case):
    """A case whose model is a shipped recipe in other sizes."""

    @property
    def vision(self) -> dict[str, Any]:
        """The configuration of the tower."""
        vision: dict[str, Any] = self.pooling["vision_config"]
        return vision

    @property
    def pooling(self) -> dict[str, Any]:
        """The configuration of InternVL-14B, or of a chat model's part of it."""
        whole: dict[str, Any] = self.config.get("internvl_config", self.config)
        return whole

    @property
    def side(self) -> int:
        """The pictures' width and height in pixels."""
        side: int = self.vision.get("force_image_size", self.vision["image_size"])
        return side

    @cached_property
    def contrastive(self) -> Recipe:
        """InternVL-14B in the sizes of the case, as far as it says them."""
        parts = [self._tower, self._pools, self._own_sizes]
        parts += [self._query_decoder] if "qllama_config" in self.config else []
        return self._variant("internvl_14b", *parts)

    @cached_property
    def chat(self) -> Recipe:
        """InternVL-Chat without QLLaMA in the sizes of the case."""
        return self._variant("internvl_chat_7b", self._tower, self._decoder, self._projector)

    @cached_property
    def chat_with_queries(self) -> Recipe:
        """InternVL-Chat with QLLaMA in the sizes of the case."""
        parts = (self._tower, self._query_decoder, self._decoder, self._both_projectors)
        return self._variant("internvl_chat_qllama_7b", *parts)

    def resized(self, side: int) -> Recipe:
        """InternVL-14B in the sizes of the case, for pictures of another size."""
        whole = f"amend mode features {{ resize = square({side}px) }}"
        return self._variant("internvl_14b", self._tower, self._pools, lambda: whole)

    def filled(self, program: Program, recipe: Recipe) -> Lowered:
        """The modules of a program with the weights of the case, which may be those of some parts.

        Every tensor of the case has its place in the recipe.
        """
        lowered, map_ = lower(program), names(recipe)
        known = map_.tensors
        ours = dict(lowered.module.state_dict())
        held = {name for name in self.published if not map_.reason_to_ignore(name)}
        lost = sorted(held - known.keys())
        assert not lost, f"no place for {lost}"
        for name in held:
            shapes = [program.parameters[parameter].shape for parameter in known[name].holds]
            made = taken_apart(known[name].form, self.published[name], shapes)
            for parameter, part in zip(known[name].holds, made, strict=True):
                if parameter in ours:
                    ours.pop(parameter).copy_(part)
        assert not ours or len(self.published) < len(known), f"nothing fills {sorted(ours)}"
        return lowered

    def captions(self, ids: Tensor) -> list[Sample]:
        """Prompts with the places of the queries before their tokens."""
        queries = self.pooling["num_query_token"]
        frames = np.zeros((1, self.side, self.side, 3), np.uint8)
        seen = Seen("image", frames, (self.side, self.side), {"qllama": (0,)})
        places = np.zeros(queries, np.int64)
        return [
            Sample(np.concatenate([places, row]), np.ones(queries + len(row), np.bool_), (seen,))
            for row in ids.numpy()
        ]

    def gradients(self, recipe: Recipe, prefix: str) -> Iterator[tuple[str, Tensor]]:
        """The official gradients by the names of our parameters."""
        known, parameters = names(recipe).tensors, build(recipe).parameters()
        for name, tensor in self.expected.items():
            if name.startswith(f"{prefix}grad/"):
                place = known[name.removeprefix(f"{prefix}grad/")]
                (ours,) = place.holds
                (gradient,) = taken_apart(place.form, tensor, [parameters[ours].shape])
                yield ours, gradient

    def _variant(self, base: str, *parts: Any) -> Recipe:
        changes = "\n".join(part() for part in parts)
        return load_text(f"recipe tiny extends {base} {{ {changes} }}", f"{self.folder.name}.vlm")

    def _tower(self) -> str:
        vision = self.vision
        grid = self.side // vision["patch_size"]
        return f"""
        amend input image {{ resize = square({self.side}px) }}
        amend encoder vit {{
          patch = {vision["patch_size"]}px
          depth = {vision["num_hidden_layers"]}
          width = {vision["hidden_size"]}
          heads = {vision["num_attention_heads"]}
          ffn   = {vision["intermediate_size"]}
          act   = {vision["hidden_act"]}
          norm  = rmsnorm(eps: {vision["layer_norm_eps"]})
          pos   = learned({grid}x{grid})
        }}"""

    def _own_sizes(self) -> str:
        """The sizes of pictures that stages and modes bring, in place of the published ones.

        No patch is left out: the cases have all of them.
        """
        purposes = ("stage contrastive", "stage retrieval", "mode features")
        square = f"resize = square({self.side}px)"
        sizes = [f"amend {purpose} {{ {square} }}" for purpose in purposes]
        smoothing = self.pooling.get("label_smoothing", 0)
        smoothed = f"amend objective itc {{ smoothing = {smoothing} }}"
        return "\n".join([*sizes, smoothed, "amend stage contrastive { drop drop_tokens }"])

    def _decoder(self) -> str:
        lm = self.config["llm_config"]
        return f"""
        amend lm {{
          depth   = {lm["num_hidden_layers"]}
          width   = {lm["hidden_size"]}
          heads   = {lm["num_attention_heads"]}
          ffn     = {lm["intermediate_size"]}
          vocab   = {lm["vocab_size"]}
          act     = {lm["hidden_act"]}
          norm    = rmsnorm(eps: {lm["rms_norm_eps"]})
          context = {lm["max_position_embeddings"]}tok
        }}"""

    def _projector(self) -> str:
        block = self.vision["num_hidden_layers"] + 1 + self.config["mm_vision_select_layer"] - 1
        ignored = "model.vision_tower.vision_tower.encoder.layers"
        return f"""
        amend adapter projector {{ in = vit.blocks[{block}].patches }}
        amend stage pretrain {{ resize = square({self.side}px) }}
        amend weights {{
          {" ".join(f'drop ignore "{ignored}.{layer}.*"' for layer in (45, 46, 47))}
          {
            " ".join(
                f'add ignore "{ignored}.{layer}.*" : "behind the block that is taken"'
                for layer in range(block + 1, self.vision["num_hidden_layers"])
            )
        }
        }}"""

    def _both_projectors(self) -> str:
        block = self.vision["num_hidden_layers"] + 1 + self.config["select_layer"] - 1
        written = {
            "img": "IMG",
            "img_end": "IMG_END",
            "img_context": "IMG_CONTEXT",
            "query": "QUERY",
            "query_end": "QUERY_END",
            "query_context": "QUERY_CONTEXT",
        }
        amended = "\n".join(
            f'special {name} = "<{official}>" @ {self.config["special_ids"][official]}'
            for name, official in written.items()
        )
        resize = f"resize = square({self.side}px)"
        return f"""
        amend adapter patch_mlp {{ in = vit.blocks[{block}].patches }}
        amend stage sft {{ {resize} }}
        amend tokens {{ {amended} }}"""

    def _pools(self) -> str:
        heads, out = self.pooling["attn_pool_num_heads"], self.pooling["clip_embed_dim"]
        pools = (f"amend adapter {name} {{ heads = {heads} }}" for name in ("pool", "query_pool"))
        vectors = ("pool", "query_pool", "sentence")
        widths = (f"amend adapter {name} {{ out = {out} }}" for name in vectors)
        return "\n".join([*pools, *widths])

    def _query_decoder(self) -> str:
        outer = self.pooling
        qllama = outer["qllama_config"]
        return f"""
        amend adapter qllama {{
          queries     = {outer["num_query_token"]}
          depth       = {qllama["num_hidden_layers"]}
          width       = {qllama["hidden_size"]}
          heads       = {qllama["num_attention_heads"]}
          ffn         = {qllama["intermediate_size"]}
          vocab       = {qllama["vocab_size"]}
          act         = {qllama["hidden_act"]}
          norm        = rmsnorm(eps: {qllama["rms_norm_eps"]})
          cross_every = {outer["cross_attention_frequency"]}
          context     = {qllama["max_position_embeddings"]}tok
        }}"""

    def batches(self, program: Program) -> Batches:
        """How a program's samples are put together; text is given in tokens already."""
        spec = program.spec
        inputs = {name: MediaInput(name, given) for name, given in spec["inputs"].items()}
        positions = TextPositions(spec["text"])
        return Batches(_no_text, spec["tokens"]["pad"], inputs, spec["features"], positions)

    def patches(self, pixels: Tensor) -> Tensor:
        """Pixels [M, 3, H, W] as what a tower takes, [M, P, row]."""
        side = self.vision["patch_size"]
        cut = pixels.unflatten(3, (-1, side)).unflatten(2, (-1, side))
        found: Tensor = cut.permute(0, 2, 4, 1, 3, 5).flatten(3).flatten(1, 2)
        return found


def both(
    found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]
) -> Iterator[tuple[Tensor, Tensor, str]]:
    """What we made beside the official tensor, by the names of those that a case has."""
    return ((found[name], official, name) for name, official in wanted.items() if name in found)


def texts(ids: Tensor, mask: Tensor, route: str) -> dict[str, Tensor]:
    """The feeds of a route: each text with the picture of its own number."""
    return {
        f"{route}.tokens": ids,
        f"{route}.last": mask.sum(1) - 1,
        f"{route}.picture": torch.arange(len(ids)),
    }


def _no_text(text: str) -> list[int]:
    raise AssertionError("the cases give tokens")

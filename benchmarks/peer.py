"""The plain Hugging Face implementation of Qwen2-VL, with the sizes and weights of a recipe."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from triptych.backends.weights import as_published
from triptych.benchmarks.answers import Timed
from triptych.benchmarks.limits import clock
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Sample
from triptych.dsl.parts import Mrope, ViT
from triptych.dsl.recipe import Recipe

SIZES: dict[str, tuple[str, ...]] = {
    "tiny": (
        "vit.depth = 2",
        "vit.width = 64",
        "vit.heads = 2",
        "vit.ffn = 256",
        "lm.depth = 2",
        "lm.width = 64",
        "lm.heads = 4",
        "lm.kv_heads = 2",
        "lm.ffn = 256",
        "lm.pos = mrope([2, 3, 3], theta: 1e6)",
    ),
    "small": (
        "vit.depth = 8",
        "vit.width = 320",
        "vit.heads = 4",
        "vit.ffn = 1280",
        "lm.depth = 8",
        "lm.width = 512",
        "lm.heads = 8",
        "lm.kv_heads = 2",
        "lm.ffn = 2048",
        "lm.pos = mrope([8, 12, 12], theta: 1e6)",
    ),
    "wide": ("vit.depth = 2", "lm.depth = 2"),
    "2b": (),
}
"""Changes to `qwen2_vl_2b` that make it smaller."""


def peer_model(recipe: Recipe, weights: Mapping[str, Tensor], dtype: torch.dtype) -> Any:
    """The transformers model of the recipe's sizes; its weights are these, where they are."""
    from transformers import Qwen2VLConfig, Qwen2VLForConditionalGeneration

    model: Any = Qwen2VLForConditionalGeneration.from_pretrained(
        None,
        config=Qwen2VLConfig(**peer_config(recipe)),
        state_dict=dict(as_published(recipe, weights)),
        dtype=dtype,
    )
    ours = {tensor.data_ptr() for tensor in weights.values()}
    assert all(parameter.data_ptr() in ours for parameter in model.parameters())
    return model.eval()


def peer_inputs(
    processor: Processor, samples: Sequence[Sample], image_pad: int
) -> dict[str, Tensor]:
    """What the peer is fed for prompts of one length: the same tokens and pixels, every frame of a
    patch written out."""
    ids = torch.stack([torch.from_numpy(sample.ids) for sample in samples])
    fed = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    pictures = [seen for sample in samples for seen in sample.media]
    if not pictures:
        return fed
    folded = processor.prompt_batch(samples).inputs["image.patches"]
    frames = folded.unflatten(1, (3, 1, -1)).expand(-1, -1, 2, -1).flatten(1)
    return fed | {
        "pixel_values": frames,
        "image_grid_thw": torch.tensor([processor.inputs["image"].grid(x) for x in pictures]),
        "mm_token_type_ids": (ids == image_pad).int(),
    }


class _Stamps:
    """Is handed the prompt, then each token, and notes when."""

    def __init__(self) -> None:
        self.moments: list[float] = []

    def put(self, tokens: Tensor) -> None:
        self.moments.append(clock())

    def end(self) -> None: ...


def ask_peer(model: Any, fed: Mapping[str, Tensor], new: int) -> Timed:
    """The likeliest `new` tokens behind each prompt, by the peer."""
    stamps, begin = _Stamps(), clock()
    with torch.inference_mode():
        out = model.generate(
            **fed, max_new_tokens=new, min_new_tokens=new, do_sample=False, streamer=stamps
        )
    return Timed.at(out[:, fed["input_ids"].shape[1] :].tolist(), [begin, *stamps.moments[1:]])


def peer_config(recipe: Recipe) -> dict[str, Any]:
    """The published form of the configuration."""
    lm, vit, tokens = recipe.lm, recipe.encoders["vit"], recipe.tokens
    assert lm and tokens and isinstance(lm.pos, Mrope) and isinstance(vit, ViT)
    ids = {name: token.id for name, token in tokens.specials.items()}
    return {
        "architectures": ["Qwen2VLForConditionalGeneration"],
        "model_type": "qwen2_vl",
        "vocab_size": lm.vocab,
        "hidden_size": lm.width,
        "intermediate_size": lm.ffn,
        "num_hidden_layers": lm.depth,
        "num_attention_heads": lm.heads,
        "num_key_value_heads": lm.kv_heads,
        "hidden_act": lm.act,
        "max_position_embeddings": lm.context,
        "rms_norm_eps": lm.norm.eps,
        "rope_theta": lm.pos.theta,
        "rope_scaling": {"type": "mrope", "mrope_section": list(lm.pos.sections)},
        "tie_word_embeddings": lm.tied,
        "bos_token_id": ids["endoftext"],
        "eos_token_id": ids["im_end"],
        "image_token_id": ids["image_pad"],
        "video_token_id": ids["video_pad"],
        "vision_start_token_id": ids["vision_start"],
        "vision_end_token_id": ids["vision_end"],
        "vision_config": {
            "depth": vit.depth,
            "embed_dim": vit.width,
            "hidden_size": lm.width,
            "hidden_act": vit.act,
            "mlp_ratio": vit.ffn // vit.width,
            "num_heads": vit.heads,
            "in_channels": 3,
            "patch_size": vit.patch,
            "spatial_merge_size": 2,
            "temporal_patch_size": vit.frames_per_patch,
        },
    }

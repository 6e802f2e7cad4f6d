"""Every tensor of the published checkpoints: its name and its exact shape, as the sheets list them.

A name may hold `{0..47}` (all of these numbers), `{0..47..2}` (every second) or `{q,k,v}`.
"""

from __future__ import annotations

import itertools
import math
import re

import pytest

from triptych.compiler.weights import names, published_shapes
from triptych.dsl.load import load_recipe


def llama(front, head, layers, width, ffn, rows):
    """A LLaMA, or Vicuna, below a prefix."""
    layer = f"{front}layers.{{0..{layers - 1}}}."
    return {
        f"{front}embed_tokens.weight": (rows, width),
        f"{layer}self_attn.{{q,k,v,o}}_proj.weight": (width, width),
        f"{layer}mlp.{{gate,up}}_proj.weight": (ffn, width),
        f"{layer}mlp.down_proj.weight": (width, ffn),
        f"{layer}{{input,post_attention}}_layernorm.weight": (width,),
        f"{front}norm.weight": (width,),
        f"{head}weight": (rows, width),
    }


def intern_vit(front, layers, grid, width, ffn, *, plain):
    """An InternViT; the plain ones have layer norms and biases, the others norms in attention."""
    layer = f"{front}encoder.layers.{{0..{layers - 1}}}."
    attention = {f"{layer}attn.{{q,k}}_norm.weight": (width,)}
    if plain:
        attention = {f"{layer}attn.qkv.bias": (3 * width,), f"{layer}norm{{1,2}}.bias": (width,)}
    return attention | {
        f"{front}embeddings.class_embedding": (1, 1, width),
        f"{front}embeddings.position_embedding": (1, grid * grid + 1, width),
        f"{front}embeddings.patch_embedding.weight": (width, 3, 14, 14),
        f"{front}embeddings.patch_embedding.bias": (width,),
        f"{layer}norm{{1,2}}.weight": (width,),
        f"{layer}ls{{1,2}}": (width,),
        f"{layer}attn.qkv.weight": (3 * width, width),
        f"{layer}attn.proj.weight": (width, width),
        f"{layer}attn.proj.bias": (width,),
        f"{layer}mlp.fc1.weight": (ffn, width),
        f"{layer}mlp.fc1.bias": (ffn,),
        f"{layer}mlp.fc2.weight": (width, ffn),
        f"{layer}mlp.fc2.bias": (width,),
    }


def shuffled_mlp(into, width):
    return {
        "mlp1.0.{weight,bias}": (into,),
        "mlp1.1.weight": (width, into),
        "mlp1.{1,3}.bias": (width,),
        "mlp1.3.weight": (width, width),
    }


def intern_lm2(layers, width, kv, ffn):
    layer = f"language_model.model.layers.{{0..{layers - 1}}}."
    return {
        "language_model.model.tok_embeddings.weight": (92553, width),
        f"{layer}attention.wqkv.weight": (width + 2 * kv, width),
        f"{layer}attention.wo.weight": (width, width),
        f"{layer}feed_forward.w{{1,3}}.weight": (ffn, width),
        f"{layer}feed_forward.w2.weight": (width, ffn),
        f"{layer}{{attention,ffn}}_norm.weight": (width,),
        "language_model.model.norm.weight": (width,),
        "language_model.output.weight": (92553, width),
    }


PHI3 = {
    "language_model.model.embed_tokens.weight": (32020, 3072),
    "language_model.model.layers.{0..31}.self_attn.qkv_proj.weight": (9216, 3072),
    "language_model.model.layers.{0..31}.self_attn.o_proj.weight": (3072, 3072),
    "language_model.model.layers.{0..31}.mlp.gate_up_proj.weight": (16384, 3072),
    "language_model.model.layers.{0..31}.mlp.down_proj.weight": (3072, 8192),
    "language_model.model.layers.{0..31}.{input,post_attention}_layernorm.weight": (3072,),
    "language_model.model.norm.weight": (3072,),
    "language_model.lm_head.weight": (32020, 3072),
}


def siglip(front):
    block = f"{front}blocks.{{0..23}}."
    return {
        f"{front}pos_embed": (1, 576, 1024),
        f"{front}patch_embed.proj.weight": (1024, 3, 16, 16),
        f"{front}patch_embed.proj.bias": (1024,),
        f"{block}norm{{1,2}}.{{weight,bias}}": (1024,),
        f"{block}attn.qkv.weight": (3072, 1024),
        f"{block}attn.qkv.bias": (3072,),
        f"{block}attn.proj.weight": (1024, 1024),
        f"{block}attn.proj.bias": (1024,),
        f"{block}mlp.fc1.weight": (4096, 1024),
        f"{block}mlp.fc1.bias": (4096,),
        f"{block}mlp.fc2.weight": (1024, 4096),
        f"{block}mlp.fc2.bias": (1024,),
        f"{front}norm.{{weight,bias}}": (1024,),
    }


def sam(front):
    return {
        f"{front}pos_embed": (1, 64, 64, 768),
        f"{front}patch_embed.proj.weight": (768, 3, 16, 16),
        f"{front}patch_embed.proj.bias": (768,),
        f"{front}blocks.{{0..11}}.norm{{1,2}}.{{weight,bias}}": (768,),
        f"{front}blocks.{{0..11}}.attn.qkv.weight": (2304, 768),
        f"{front}blocks.{{0..11}}.attn.qkv.bias": (2304,),
        f"{front}blocks.{{0..11}}.attn.proj.weight": (768, 768),
        f"{front}blocks.{{0..11}}.attn.proj.bias": (768,),
        f"{front}blocks.{{0,1,3,4,6,7,9,10}}.attn.rel_pos_{{h,w}}": (27, 64),
        f"{front}blocks.{{2,5,8,11}}.attn.rel_pos_{{h,w}}": (127, 64),
        f"{front}blocks.{{0..11}}.mlp.lin1.weight": (3072, 768),
        f"{front}blocks.{{0..11}}.mlp.lin1.bias": (3072,),
        f"{front}blocks.{{0..11}}.mlp.lin2.weight": (768, 3072),
        f"{front}blocks.{{0..11}}.mlp.lin2.bias": (768,),
        f"{front}{{neck,neck_hd}}.0.weight": (256, 768, 1, 1),
        f"{front}{{neck,neck_hd}}.2.weight": (256, 256, 3, 3),
        f"{front}{{neck,neck_hd}}.{{1,3}}.{{weight,bias}}": (256,),
        f"{front}downsamples.0.weight": (512, 256, 3, 3),
        f"{front}downsamples.1.weight": (1024, 512, 3, 3),
        f"{front}hd_alpha_downsamples": (1,),
    }


def attention_pool(front, width):
    return {
        f"{front}norm1_{{q,k,v}}.{{weight,bias}}": (width,),
        f"{front}cross_attn.{{q,k,v}}.weight": (width, width),
        f"{front}cross_attn.{{q,k,v}}_bias": (width,),
        f"{front}cross_attn.proj.weight": (768, width),
        f"{front}cross_attn.proj.bias": (768,),
    }


def minigpt4(layers, width, ffn):
    block, layer = "visual_encoder.blocks.{0..38}.", "Qformer.bert.encoder.layer.{0..11}."
    cross = "Qformer.bert.encoder.layer.{0..10..2}.crossattention."
    return {
        "visual_encoder.cls_token": (1, 1, 1408),
        "visual_encoder.pos_embed": (1, 257, 1408),
        "visual_encoder.patch_embed.proj.weight": (1408, 3, 14, 14),
        "visual_encoder.patch_embed.proj.bias": (1408,),
        f"{block}norm{{1,2}}.{{weight,bias}}": (1408,),
        f"{block}attn.{{q,v}}_bias": (1408,),
        f"{block}attn.qkv.weight": (4224, 1408),
        f"{block}attn.proj.weight": (1408, 1408),
        f"{block}attn.proj.bias": (1408,),
        f"{block}mlp.fc1.weight": (6144, 1408),
        f"{block}mlp.fc1.bias": (6144,),
        f"{block}mlp.fc2.weight": (1408, 6144),
        f"{block}mlp.fc2.bias": (1408,),
        "ln_vision.{weight,bias}": (1408,),
        "query_tokens": (1, 32, 768),
        "Qformer.bert.embeddings.LayerNorm.{weight,bias}": (768,),
        f"{layer}attention.self.{{query,key,value}}.weight": (768, 768),
        f"{layer}attention.self.{{query,key,value}}.bias": (768,),
        f"{layer}attention.output.dense.weight": (768, 768),
        f"{layer}attention.output.dense.bias": (768,),
        f"{layer}attention.output.LayerNorm.{{weight,bias}}": (768,),
        f"{cross}self.query.weight": (768, 768),
        f"{cross}self.{{key,value}}.weight": (768, 1408),
        f"{cross}self.{{query,key,value}}.bias": (768,),
        f"{cross}output.dense.weight": (768, 768),
        f"{cross}output.dense.bias": (768,),
        f"{cross}output.LayerNorm.{{weight,bias}}": (768,),
        f"{layer}intermediate_query.dense.weight": (3072, 768),
        f"{layer}intermediate_query.dense.bias": (3072,),
        f"{layer}output_query.dense.weight": (768, 3072),
        f"{layer}output_query.dense.bias": (768,),
        f"{layer}output_query.LayerNorm.{{weight,bias}}": (768,),
        "llama_proj.weight": (width, 768),
        "llama_proj.bias": (width,),
        **llama("llama_model.model.", "llama_model.lm_head.", layers, width, ffn, 32000),
    }


QWEN_VL = {
    "{transformer.wte,lm_head}.weight": (151936, 4096),
    "transformer.h.{0..31}.ln_{1,2}.weight": (4096,),
    "transformer.ln_f.weight": (4096,),
    "transformer.h.{0..31}.attn.c_attn.weight": (12288, 4096),
    "transformer.h.{0..31}.attn.c_attn.bias": (12288,),
    "transformer.h.{0..31}.attn.c_proj.weight": (4096, 4096),
    "transformer.h.{0..31}.mlp.w{1,2}.weight": (11008, 4096),
    "transformer.h.{0..31}.mlp.c_proj.weight": (4096, 11008),
    "transformer.visual.conv1.weight": (1664, 3, 14, 14),
    "transformer.visual.positional_embedding": (256, 1664),
    "transformer.visual.ln_pre.{weight,bias}": (1664,),
    "transformer.visual.transformer.resblocks.{0..47}.ln_{1,2}.{weight,bias}": (1664,),
    "transformer.visual.transformer.resblocks.{0..47}.attn.in_proj.weight": (4992, 1664),
    "transformer.visual.transformer.resblocks.{0..47}.attn.in_proj.bias": (4992,),
    "transformer.visual.transformer.resblocks.{0..47}.attn.out_proj.weight": (1664, 1664),
    "transformer.visual.transformer.resblocks.{0..47}.attn.out_proj.bias": (1664,),
    "transformer.visual.transformer.resblocks.{0..47}.mlp.c_fc.weight": (8192, 1664),
    "transformer.visual.transformer.resblocks.{0..47}.mlp.c_fc.bias": (8192,),
    "transformer.visual.transformer.resblocks.{0..47}.mlp.c_proj.weight": (1664, 8192),
    "transformer.visual.transformer.resblocks.{0..47}.mlp.c_proj.bias": (1664,),
    "transformer.visual.attn_pool.{pos_embed,query}": (256, 4096),
    "transformer.visual.attn_pool.kv_proj.weight": (4096, 1664),
    "transformer.visual.attn_pool.attn.in_proj_weight": (12288, 4096),
    "transformer.visual.attn_pool.attn.in_proj_bias": (12288,),
    "transformer.visual.attn_pool.attn.out_proj.weight": (4096, 4096),
    "transformer.visual.attn_pool.attn.out_proj.bias": (4096,),
    "transformer.visual.{attn_pool.ln_q,attn_pool.ln_kv,ln_post}.{weight,bias}": (4096,),
    "transformer.visual.proj": (4096, 4096),
}


def crossing(front):
    """The cross-attention of every second layer of QLLaMA."""
    layer = f"{front}layers.{{0..30..2}}.cross_attn."
    return {
        f"{layer}{{q,o}}_proj.weight": (4096, 4096),
        f"{layer}{{k,v}}_proj.weight": (4096, 3200),
        f"{layer}norm1.weight": (4096,),
        f"{layer}norm2.weight": (3200,),
    }


def chat_alone(layers, width, ffn):
    """InternVL-Chat without QLLaMA: the tower up to the layer that is read."""
    return {
        **intern_vit("model.vision_tower.vision_tower.", 45, 24, 3200, 12800, plain=False),
        "model.mm_projector.0.weight": (width, 3200),
        "model.mm_projector.2.weight": (width, width),
        "model.mm_projector.{0,2}.bias": (width,),
        **llama("model.", "lm_head.", layers, width, ffn, 32000),
    }


def chat_with_queries(layers, width, ffn):
    """InternVL-Chat with QLLaMA, which reads and does not write."""
    qllama = llama("internvl.qllama.model.", "head.", 32, 4096, 11008, 49954)
    del qllama["head.weight"]
    return {
        **intern_vit("internvl.vision_model.", 48, 16, 3200, 12800, plain=False),
        **qllama,
        **crossing("internvl.qllama.model."),
        "internvl.query_tokens": (1, 96, 4096),
        "mlp1.0.{weight,bias}": (3200,),
        "mlp1.1.weight": (width, 3200),
        "mlp2.0.{weight,bias}": (4096,),
        "mlp2.1.weight": (width, 4096),
        "mlp{1,2}.{1,3}.bias": (width,),
        "mlp{1,2}.3.weight": (width, width),
        **llama("language_model.model.", "language_model.lm_head.", layers, width, ffn, 32006),
    }


HIGH, LOW = (f"vision_model.vision_tower_{kind}.vision_tower." for kind in ("high", "low"))
TEXT = ("language_model.model.", "language_model.lm_head.")

SHEETS = {
    "minigpt4_7b": minigpt4(32, 4096, 11008),
    "minigpt4_13b": minigpt4(40, 5120, 13824),
    "qwen_vl_7b": QWEN_VL,
    "internvl_14b": {
        **intern_vit("vision_model.", 48, 16, 3200, 12800, plain=False),
        **llama("qllama.model.", "qllama.lm_head.", 32, 4096, 11008, 49954),
        **crossing("qllama.model."),
        "query_tokens": (1, 96, 4096),
        "text_projection": (4096, 768),
        "logit_scale": (),
        "itm_head.weight": (2, 4096),
        "itm_head.bias": (2,),
        **attention_pool("clip_projector.", 3200),
        **attention_pool("clip_projector2.", 4096),
    },
    "internvl_chat_7b": chat_alone(32, 4096, 11008),
    "internvl_chat_13b": chat_alone(40, 5120, 13824),
    "internvl_chat_qllama_7b": chat_with_queries(32, 4096, 11008),
    "internvl_chat_qllama_13b": chat_with_queries(40, 5120, 13824),
    "deepseek_vl_1_3b": {
        **siglip("vision_model.vision_tower."),
        "aligner.layers.0.weight": (2048, 1024),
        "aligner.layers.2.weight": (2048, 2048),
        "aligner.layers.{0,2}.bias": (2048,),
        **llama(*TEXT, 24, 2048, 5632, 102400),
    },
    "deepseek_vl_7b": {
        **sam(HIGH),
        **siglip(LOW),
        "aligner.{high,low}_up_proj.weight": (2048, 1024),
        "aligner.{high,low}_up_proj.bias": (2048,),
        "aligner.layers.1.weight": (4096, 4096),
        "aligner.layers.1.bias": (4096,),
        **llama(*TEXT, 30, 4096, 11008, 102400),
    },
    "internvl_1_5_26b": {
        **intern_vit("vision_model.", 45, 32, 3200, 12800, plain=False),
        **shuffled_mlp(12800, 6144),
        **intern_lm2(48, 6144, 1024, 16384),
    },
    "internvl_1_5_mini_2b": {
        **intern_vit("vision_model.", 24, 32, 1024, 4096, plain=True),
        **shuffled_mlp(4096, 2048),
        **intern_lm2(24, 2048, 1024, 8192),
    },
    "internvl_1_5_mini_4b": {
        **intern_vit("vision_model.", 24, 32, 1024, 4096, plain=True),
        **shuffled_mlp(4096, 3072),
        **PHI3,
    },
}

# Tensors, and numbers in all, without those that the model has no use for.
TOTALS = {
    "minigpt4_7b": (None, 985_894_528 + 2_816 + 105_137_664 + 24_576 + 3_149_824 + 6_738_415_616),
    "minigpt4_13b": (None, 985_894_528 + 2_816 + 105_137_664 + 24_576 + 3_937_280 + 13_015_864_320),
    "qwen_vl_7b": (853, 9_656_935_168),
    "internvl_14b": (None, 13_834_975_747),
    "internvl_chat_7b": (
        None,
        5_902_793_600 - 3 * 122_918_400 + 29_892_608 + 6_738_415_616 + (577 - 257) * 3200,
    ),
    "internvl_chat_13b": (
        None,
        5_902_793_600 - 3 * 122_918_400 + 42_608_640 + 13_015_864_320 + (577 - 257) * 3200,
    ),
    "deepseek_vl_1_3b": (None, 1_975_235_584 - 12_595_200),
    "deepseek_vl_7b": (None, 7_343_990_017 - 12_595_200 - 4_096),
    "internvl_1_5_26b": (934, 25_514_186_112),
    "internvl_1_5_mini_2b": (517, 2_205_754_368),
    "internvl_1_5_mini_4b": (541, 4_146_855_936),
}

# Published, and of no use to the model: the map must say why.
UNUSED = {
    "minigpt4_7b": [
        "visual_encoder.blocks.39.attn.qkv.weight",
        "visual_encoder.norm.weight",
        "visual_encoder.head.bias",
        "t5_proj.weight",
        "Qformer.bert.embeddings.position_ids",
        "llama_model.model.layers.31.self_attn.rotary_emb.inv_freq",
    ],
    "internvl_chat_7b": ["model.vision_tower.vision_tower.encoder.layers.47.norm1.weight"],
    "internvl_chat_qllama_7b": ["internvl.qllama.lm_head.weight"],
    "deepseek_vl_1_3b": ["vision_model.vision_tower.attn_pool.mlp.fc1.weight"],
    "deepseek_vl_7b": [
        f"{LOW}attn_pool.latent",
        "vision_model.high_layer_norm.weight",
        "vision_model.low_layer_norm.bias",
    ],
}


def expanded(table):
    """Each name of a table, its braces opened, with its shape."""
    found = {}
    for pattern, shape in table.items():
        pieces = re.split(r"\{(.+?)\}", pattern)
        choices = [[piece] if i % 2 == 0 else opened(piece) for i, piece in enumerate(pieces)]
        for name in map("".join, itertools.product(*choices)):
            assert name not in found, f"{name} is listed twice"
            found[name] = shape
    return found


def opened(piece):
    if ".." not in piece:
        return piece.split(",")
    first, last, *step = map(int, piece.split(".."))
    return [str(number) for number in range(first, last + 1, *step)]


@pytest.mark.parametrize("name", SHEETS)
def test_names_and_shapes_are_those_of_the_sheet(name):
    ours, sheet = published_shapes(load_recipe(name)), expanded(SHEETS[name])
    assert ours.keys() - sheet.keys() == set()
    assert sheet.keys() - ours.keys() == set()
    assert {n: (ours[n], sheet[n]) for n in sheet if ours[n] != sheet[n]} == {}


@pytest.mark.parametrize("name", TOTALS)
def test_totals_are_those_of_the_sheet(name):
    shapes = published_shapes(load_recipe(name))
    tensors, total = TOTALS[name]
    assert sum(math.prod(shape) for shape in shapes.values()) == total
    assert tensors in (None, len(shapes))


@pytest.mark.parametrize("name", UNUSED)
def test_what_a_model_has_no_use_for_is_ignored_with_a_reason(name):
    found = names(load_recipe(name))
    assert all(found.reason_to_ignore(tensor) for tensor in UNUSED[name])

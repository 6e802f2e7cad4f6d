"""The graphs of Qwen2-VL have the parameters that were published, by name, shape and number."""

from __future__ import annotations

import pytest

from triptych.compiler.build import build, reach
from triptych.compiler.plan import by_part, count
from triptych.compiler.weights import names, published_shapes
from triptych.dsl.load import load_recipe, load_text

# The fact sheet's table, which the official classes on `meta` gave.
PATCH, BLOCKS = 1_505_280, 629_678_080
SIZES = {
    "qwen2_vl_2b": {
        "merger": 34_087_936,
        "lm.embed": 233_373_696,
        "layers and norm": 1_310_340_608,
        "head": 0,
        "lm": 1_543_714_304,
        "total": 2_208_985_600,
        "tensors": 729,
    },
    "qwen2_vl_7b": {
        "merger": 44_575_744,
        "lm.embed": 544_997_376,
        "layers and norm": 6_525_621_760,
        "head": 544_997_376,
        "lm": 7_615_616_512,
        "total": 8_291_375_616,
        "tensors": 730,
    },
    "qwen2_vl_72b": {
        "merger": 68_173_312,
        "lm.embed": 1_245_708_288,
        "layers and norm": 70_214_787_072,
        "head": 1_245_708_288,
        "lm": 72_706_203_648,
        "total": 73_405_560_320,
        "tensors": 1354,
    },
}


def below(parameters, *modules):
    return count(
        {
            name: param
            for name, param in parameters.items()
            if any(name.startswith(f"{module}.") for module in modules)
        }
    )


@pytest.mark.parametrize("name", SIZES)
def test_parameters_by_part(name):
    sheet, parameters = SIZES[name], build(load_recipe(name)).parameters()
    assert below(parameters, "vit.patch_embed") == PATCH
    assert below(parameters, "vit.blocks") == BLOCKS
    assert below(parameters, "lm.embed") == sheet["lm.embed"]
    assert below(parameters, "lm.blocks", "lm.norm") == sheet["layers and norm"]
    assert below(parameters, "lm.head") == sheet["head"]
    assert by_part(parameters) == {
        "vit": PATCH + BLOCKS,
        "merger": sheet["merger"],
        "lm": sheet["lm"],
    }
    assert count(parameters) == sheet["total"]
    assert len(parameters) == sheet["tensors"]


def test_published_names_and_shapes_of_the_7b():
    recipe = load_recipe("qwen2_vl_7b")
    wanted = {
        "visual.patch_embed.proj.weight": (1280, 3, 2, 14, 14),
        "visual.merger.ln_q.weight": (1280,),
        "visual.merger.ln_q.bias": (1280,),
        "visual.merger.mlp.0.weight": (5120, 5120),
        "visual.merger.mlp.0.bias": (5120,),
        "visual.merger.mlp.2.weight": (3584, 5120),
        "visual.merger.mlp.2.bias": (3584,),
        "model.embed_tokens.weight": (152064, 3584),
        "model.norm.weight": (3584,),
        "lm_head.weight": (152064, 3584),
    }
    for i in range(32):
        stem = f"visual.blocks.{i}"
        for norm in ("norm1", "norm2"):
            wanted |= {f"{stem}.{norm}.weight": (1280,), f"{stem}.{norm}.bias": (1280,)}
        for layer, out, into in (
            ("attn.qkv", 3840, 1280),
            ("attn.proj", 1280, 1280),
            ("mlp.fc1", 5120, 1280),
            ("mlp.fc2", 1280, 5120),
        ):
            wanted |= {f"{stem}.{layer}.weight": (out, into), f"{stem}.{layer}.bias": (out,)}
    for i in range(28):
        stem = f"model.layers.{i}"
        wanted |= {f"{stem}.input_layernorm.weight": (3584,)}
        wanted |= {f"{stem}.post_attention_layernorm.weight": (3584,)}
        for layer, out in (("q_proj", 3584), ("k_proj", 512), ("v_proj", 512)):
            wanted |= {f"{stem}.self_attn.{layer}.weight": (out, 3584)}
            wanted |= {f"{stem}.self_attn.{layer}.bias": (out,)}
        wanted |= {f"{stem}.self_attn.o_proj.weight": (3584, 3584)}
        wanted |= {f"{stem}.mlp.gate_proj.weight": (18944, 3584)}
        wanted |= {f"{stem}.mlp.up_proj.weight": (18944, 3584)}
        wanted |= {f"{stem}.mlp.down_proj.weight": (3584, 18944)}
    assert published_shapes(recipe) == wanted


def test_the_2b_has_no_head_of_its_own():
    published = names(load_recipe("qwen2_vl_2b")).published
    assert "lm_head.weight" not in published.values()
    assert len(published) == len(set(published.values())) == 729


def test_the_second_call_uses_the_parameters_of_the_first(tiny):
    graph = build(tiny)
    assert graph["vit.blocks@video"].module == graph["vit.blocks"].module == "vit.blocks"
    assert graph["vit.blocks@video"].parameters == graph["vit.blocks"].parameters


def test_features_stand_in_the_order_in_which_they_are_fed(tiny):
    assert build(tiny)["lm.features"].inputs == ("merger", "merger@video")
    assert reach(tiny)["lm"] == ("image", "video")


@pytest.mark.parametrize(
    ("media", "source"), [(["image"], "merger"), (["video"], "merger"), ([], None)]
)
def test_an_input_left_out_leaves_no_trace(tiny, media, source):
    graph = build(tiny, media=media)
    fed = {name.partition(".")[0] for name in graph.nodes if name.endswith(".patches")}
    assert fed == set(media)
    if source:
        assert graph["lm.splice"].inputs[1] == source
    else:
        assert "lm.splice" not in graph


def test_a_tower_without_a_language_model_yields_its_rows():
    recipe = load_text(
        """
        recipe tower {
          language = 1
          input image {
            resize = native(multiple: 28px, budget: 4tok..64tok)
            normalize = clip()
          }
          encoder vit : ViT {
            in = image
            patch = 14px
            depth = 1
            width = 16
            heads = 2
            ffn = 32
            act = gelu
            norm = layernorm(eps: 1e-6)
            pos = rope2d(theta: 1e4)
          }
        }
        """
    )
    assert dict(build(recipe).outputs) == {"vit.blocks": "vit.blocks"}

"""The map from published tensors to ours: names, order and shapes, exactly."""

from __future__ import annotations

from triptych.compiler.weights import names, published_shapes

FORMS = """amend weights {
  drop map "visual.blocks.*"
  add map "visual.blocks.*.attn.qkv.*"
    -> interleaved("vit.blocks.*.attn.qkv.*", parts: 3, groups: vit.heads)
  add map "visual.blocks.*.attn.proj.*" -> "vit.blocks.*.attn.proj.*"
  add map "visual.blocks.*.norm1.*"     -> "vit.blocks.*.norm1.*"
  add map "visual.blocks.*.norm2.*"     -> "vit.blocks.*.norm2.*"
  add map "visual.blocks.*.mlp.*"       -> "vit.blocks.*.mlp.*"
  drop map "visual.merger.mlp.2.*"
  add map "visual.merger.proj"          -> transposed("merger.fc2.weight")
  add map "visual.merger.proj_bias"     -> "merger.fc2.bias"
  drop map "model.layers.*.self_attn.q_proj.*"
  drop map "model.layers.*.self_attn.k_proj.*"
  drop map "model.layers.*.self_attn.v_proj.*"
  add map "model.layers.*.wqkv.*" -> joined(
    ["lm.blocks.*.attn.q.*", "lm.blocks.*.attn.k.*", "lm.blocks.*.attn.v.*"],
    groups: lm.kv_heads,
  )
}"""


def test_published_shapes_follow_from_the_map(variant):
    shapes = published_shapes(variant(FORMS))
    assert shapes["visual.blocks.0.attn.qkv.weight"] == (96, 32)
    assert shapes["visual.blocks.1.attn.qkv.bias"] == (96,)
    assert shapes["visual.merger.proj"] == (128, 48)
    assert shapes["model.layers.1.wqkv.weight"] == (48 + 24 + 24, 48)
    assert shapes["model.layers.1.wqkv.bias"] == (96,)
    assert not any("self_attn.q_proj" in name for name in shapes)


def test_a_tensor_may_hold_several_parameters(variant):
    found = names(variant(FORMS))
    held = [f"lm.blocks.0.attn.{part}.weight" for part in "qkv"]
    assert found.tensors["model.layers.0.wqkv.weight"].holds == tuple(held)
    assert [found.places[name] for name in held] == [
        ("model.layers.0.wqkv.weight", number) for number in range(3)
    ]
    assert {found.published[name] for name in held} == {"model.layers.0.wqkv.weight"}


def test_parameters_that_another_model_publishes_in_another_form_are_found_again(variant, tiny):
    assert names(variant(FORMS)).published.keys() == names(tiny).published.keys()

"""Parts in combinations that nobody published: they check, train and answer, without any Python."""

from __future__ import annotations

import json

import pytest
from click.testing import CliRunner

from triptych.cli.main import cli
from triptych.compiler.pipeline import prove
from triptych.dsl.load import load_text

HEAD = """
recipe mix {
  language = 1
  tokens {
    tokenizer = sentencepiece("tiny.model")
    special im_start  = "<|im_start|>"  @ 400
    special im_end    = "<|im_end|>"    @ 401
    special image_pad = "<|image_pad|>" @ 402
    special gap       = "<|gap|>"       @ 403
    pad = im_end
  }
  input image { resize = %s normalize = half() }
"""
VIT = """
  encoder %s : ViT {
    in = %s patch = 8px depth = 2 width = 48 heads = 4 ffn = 64 act = gelu
    norm = layernorm(eps: 1e-6) pos = %s
  }
"""
TAIL = """
  lm : Decoder {
    in = %s depth = 2 width = 48 heads = 4 ffn = 64 vocab = 408 act = silu
    norm = rmsnorm(eps: 1e-6) tied = true pos = %s context = 160tok
  }
  layout chat {
    image(x)     -> %s
    user(b)      -> im_start b im_end
    assistant(b) -> im_start loss(b im_end)
  }
  stage all {
    train = %s layout = chat data = mix(pictures: 1) stop = 2steps batch = 4seq
    optim = adamw(lr: 1e-3) precision = f32
  }
  mode ask { layout = chat batch = 1..4 prompt = ..128tok new = 4tok }
}
"""
ROPE, MROPE = "rope(theta: 100)", "mrope([2, 2, 2], theta: 100)"
SAM = """
  encoder sam : SamViT {
    in = image patch = 8px depth = 2 width = 32 heads = 4 ffn = 64 act = gelu
    norm = layernorm(eps: 1e-6) window = 3 global = [1]
  }
  adapter neck : SamNeck {
    in = [sam, sam.blocks[0]] width = 16 norm = layernorm(eps: 1e-6) grid = 12x12 strided = [24, 32]
  }
"""
MERGE = """
  adapter %s : MergeMLP {
    in = %s window = 2x2 norm = layernorm(eps: 1e-6) hidden = 64 out = lm.width act = gelu
  }
"""
QFORMER = """
  adapter q : QFormer {
    in = vit queries = 5 depth = 2 width = 32 heads = 4 ffn = 64 act = gelu
    norm = layernorm(eps: 1e-6) cross_every = 2
  }
  adapter out : MLP { in = q hidden = 40 out = lm.width act = gelu }
"""
POOL = "adapter pool : AttentionPool { in = vit heads = 4 norm = layernorm(eps: 1e-6) out = 48 }"
SPLIT = "adapter join : SplitMLP { in = [a, b, c.patches] each = 16 out = lm.width act = gelu }"
CLASS = "learned(4x4) class_token = true"

MIXES = {
    "queries over tiles": HEAD % "tiles(32px, 1..4)"
    + VIT % ("vit", "image", CLASS)
    + QFORMER
    + TAIL % ("out", ROPE, "image_pad * x.tokens", "[vit, q, out, lm]"),
    "two parts of one picture": HEAD % "square(32px)"
    + VIT % ("a", "image", "learned(4x4)")
    + VIT % ("b", "resize(image, 16px)", "learned(2x2)")
    + "adapter pa : Linear { in = a out = lm.width }"
    + "adapter pb : Linear { in = b.blocks[1] out = lm.width }"
    + TAIL % ("[pa, pb]", MROPE, "image_pad * x.pa gap image_pad * x.pb", "[a, b, pa, pb, lm]"),
    "one vector a picture": HEAD % "crop(32px)"
    + VIT % ("vit", "image", CLASS)
    + POOL
    + TAIL % ("pool", ROPE, "image_pad * x.tokens", "[vit, pool, lm]"),
    "packed rows and whole pictures": HEAD % "square(32px)"
    + VIT % ("a", "image", "learned(4x4)")
    + VIT % ("b", "image", "rope2d(theta: 100)")
    + "adapter pa : Linear { in = a out = lm.width }"
    + MERGE % ("pb", "b")
    + TAIL % ("[pa, pb]", ROPE, "image_pad * x.pa gap image_pad * x.pb", "[a, b, pa, pb, lm]"),
    "windows of whole pictures": HEAD % "padded(32px)"
    + VIT % ("vit", "image", "learned(4x4)")
    + MERGE % ("merger", "vit")
    + TAIL % ("merger", MROPE, "image_pad * x.tokens", "[vit, merger, lm]"),
    "maps alone": HEAD % "letterbox(64px)"
    + SAM
    + "adapter fold : PixelShuffle { in = neck factor = 3 }"
    + "adapter out : Linear { in = fold out = lm.width }"
    + TAIL % ("out", ROPE, "image_pad * x.tokens", "[sam, neck, out, lm]"),
    "no adapter": HEAD % "square(32px)"
    + VIT % ("vit", "image", CLASS)
    + TAIL % ("vit.patches", ROPE, "image_pad * x.tokens", "[vit, lm]"),
    "three towers place by place": HEAD % "square(32px)"
    + VIT % ("a", "image", "learned(4x4)")
    + (VIT % ("b", "resize(image, 16px)", "learned(4x4)")).replace("8px", "4px")
    + VIT % ("c", "image", CLASS)
    + SPLIT
    + TAIL % ("join", MROPE, "image_pad * x.tokens", "[a, b, c, join, lm]"),
}


@pytest.mark.parametrize("name", MIXES)
def test_a_mix_checks_trains_and_answers(name, data, picture, tmp_path):
    assert prove(load_text(MIXES[name], "mix.vlm")) == ()
    recipe, out = tmp_path / "mix.vlm", tmp_path / "run"
    recipe.write_text(MIXES[name])
    training = ["train", str(recipe), "--data", str(data), "--out", str(out), "--backend", "eager"]
    done = CliRunner().invoke(cli, training)
    assert done.exit_code == 0, done.output
    asking = ["run", str(recipe), "--weights", str(out), "--prompt", "What?", "--json"]
    one, two = (
        json.loads(CliRunner().invoke(cli, [*asking, *["--image", str(picture)] * count]).stdout)
        for count in (1, 2)
    )
    assert one["prompt"] < two["prompt"] and len(two["tokens"]) <= 4

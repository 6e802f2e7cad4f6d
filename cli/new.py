"""`triptych new`: a commented recipe to start from."""

from __future__ import annotations

import re
from pathlib import Path

import click

from ..dsl.load import SUFFIX, write_text

EXAMPLES = """\b
Examples:
  triptych new my_model                writes my_model.vlm
  triptych new my_model models/a.vlm   writes models/a.vlm
"""

TEMPLATE = """\
# NAME: say in a sentence what this model is for. `triptych list` and readers start here.
recipe NAME {
  language = 1

  # The vocabulary, and the tokens that no text can spell.
  tokens {
    tokenizer = tiktoken("qwen")
    special endoftext    = "<|endoftext|>"    @ 151643
    special im_start     = "<|im_start|>"     @ 151644
    special im_end       = "<|im_end|>"       @ 151645
    special vision_start = "<|vision_start|>" @ 151652
    special vision_end   = "<|vision_end|>"   @ 151653
    special image_pad    = "<|image_pad|>"    @ 151655
    pad = endoftext
  }

  # Pictures keep their shape; a budget of tokens bounds their size.
  input image {
    aspect    = ..200
    resize    = native(multiple: 2 * vit.patch, budget: 4tok..256tok)
    normalize = clip()
  }

  # Every setting may refer to others: `4 * vit.width` follows when a variant changes the width.
  encoder vit : ViT {
    in    = image
    patch = 14px
    depth = 4
    width = 256
    heads = 4
    ffn   = 4 * vit.width
    act   = quick_gelu
    norm  = layernorm(eps: 1e-6)
    pos   = rope2d(theta: 1e4)
  }

  adapter merger : MergeMLP {
    in     = vit
    window = 2x2
    norm   = layernorm(eps: 1e-6)
    hidden = 4 * vit.width
    out    = lm.width
    act    = gelu
  }

  lm : Decoder {
    in       = merger
    depth    = 4
    width    = 256
    heads    = 4
    kv_heads = 2
    ffn      = 768
    vocab    = 151936
    act      = silu
    norm     = rmsnorm(eps: 1e-6)
    qkv_bias = true
    tied     = true
    pos      = mrope([8, 12, 12], theta: 1e6)
    context  = 2048tok
  }

  # One expression says what is written around content, and what is supervised: `loss(...)`.
  layout chatml {
    system = "You are a helpful assistant."
    image(x)     -> vision_start image_pad * x.tokens vision_end
    system(b)    -> im_start "system\\n" b im_end "\\n"
    user(b)      -> im_start "user\\n" b im_end "\\n"
    assistant(b) -> im_start "assistant\\n" loss(b im_end) "\\n"
  }

  # A stage names every parameter: it is trained or frozen, never forgotten.
  stage align {
    train    = [merger]
    freeze   = [vit, lm]
    layout   = chatml
    data     = mix(chat: 1)
    stop     = 1000steps
    batch    = 16seq
    optim    = adamw(lr: 1e-3, betas: [0.9, 0.95], clip: 1.0)
    schedule = cosine(warmup: 50steps)
  }

  stage all {
    after    = align
    train    = [vit, merger, lm]
    layout   = chatml
    data     = mix(chat: 1)
    stop     = 2000steps
    batch    = 16seq
    optim    = adamw(lr: 2e-4, betas: [0.9, 0.95], weight_decay: 0.05, clip: 1.0)
    schedule = cosine(warmup: 100steps, min: 2e-5)
  }

  mode chat {
    layout = chatml
    batch  = 1..4
    prompt = ..1536tok
    new    = 256tok
    target = aot(precision: f32)
  }

  assert chatml.worst(images: 1) <= lm.context
}
"""


@click.command("new", epilog=EXAMPLES)
@click.argument("name")
@click.argument("file", required=False, type=click.Path(path_type=Path, dir_okay=False))
def new_command(name: str, file: Path | None) -> None:
    """Write a commented recipe to start from.

    It is a small model of the Qwen2-VL family that checks as it stands. No file is overwritten.
    """
    name = name.removesuffix(SUFFIX)
    if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name):
        raise click.BadParameter("a name is made of letters, digits and `_`", param_hint="NAME")
    path = file or Path(f"{name}{SUFFIX}")
    if path.exists():
        raise click.ClickException(f"{path} is there already; nothing was written.")
    write_text(path, TEMPLATE.replace("NAME", name))
    click.echo(f"{path}: written. Look at it, then: triptych check {path}")

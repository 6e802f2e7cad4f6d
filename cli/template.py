"""The recipe that `triptych new` writes where nothing is chosen."""

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

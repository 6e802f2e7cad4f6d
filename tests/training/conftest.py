"""A small recipe of the Qwen2-VL family, and data drawn as real files."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest
from PIL import Image, ImageDraw
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

from triptych.dsl.load import load_recipe
from triptych.dsl.recipe import Recipe

COLOURS = ("red", "green", "blue", "orange")
SHAPES = ("disc", "square")
SPECIALS = ("<|pad|>", "<|im_start|>", "<|im_end|>", "<|vision_start|>", "<|vision_end|>", "<|i|>")

# The published recipe with small sizes and a small vocabulary; what a stage says here is common to
# all three unless a test changes it.
RECIPE = """
recipe tiny extends qwen2_vl_7b {
  replace tokens {
    tokenizer = hf_json("tokenizer.json")
    special pad          = "<|pad|>"          @ 0
    special im_start     = "<|im_start|>"     @ 1
    special im_end       = "<|im_end|>"       @ 2
    special vision_start = "<|vision_start|>" @ 3
    special vision_end   = "<|vision_end|>"   @ 4
    special image_pad    = "<|i|>"            @ 5
    pad = pad
  }
  amend input image {
    resize = native(multiple: 2 * vit.patch, budget: 1tok..16tok)
  }
  drop input video
  amend encoder vit {
    in    = image
    patch = 4px
    depth = 2
    width = 16
    heads = 2
    ffn   = 32
  }
  amend lm {
    depth    = 2
    width    = 24
    heads    = 4
    kv_heads = 2
    ffn      = 32
    vocab    = 320
    pos      = mrope([1, 1, 1], theta: 1e4)
    context  = 128tok
  }
  drop weights
  drop layout chatml_numbered
  replace layout caption {
    image(x)   -> vision_start image_pad * x.tokens vision_end
    pair(x, t) -> image(x) loss(t im_end)
  }
  replace layout chatml {
    image(x)     -> vision_start image_pad * x.tokens vision_end
    user(b)      -> im_start "user\\n" b im_end "\\n"
    assistant(b) -> im_start "assistant\\n" loss(b im_end) "\\n"
  }
  add objective words : RegionWords {
    regions     = merger
    words       = lm.embed
    temperature = 0.07
  }
  replace stage vision {
    train     = [vit, merger]
    freeze    = lm
    loss      = [lm, words]
    layout    = caption
    data      = mix(pictures: 1)
    stop      = 6steps
    batch     = 4seq
    optim     = adamw(lr: 1e-2, betas: [0.9, 0.95], weight_decay: 0.1, clip: 1.0)
    schedule  = cosine(warmup: 2steps, min: 0)
    precision = f32
  }
  replace stage joint {
    after      = vision
    train      = [vit, merger, lm]
    layout     = [chatml, caption]
    data       = mix(pictures: 2, chat: 1)
    stop       = 6steps
    batch      = 4seq
    accumulate = 2
    optim      = adamw(lr: 1e-2, clip: 1.0)
    schedule   = linear(warmup: 1steps, min: 1e-3)
    precision  = f32
  }
  replace stage sft {
    after     = joint
    train     = [lr(lm, 0.5)]
    freeze    = [vit, merger]
    layout    = chatml
    data      = mix(chat: 1)
    pack      = 128tok
    stop      = 6steps
    batch     = 6seq
    optim     = adamw(lr: 1e-2)
    precision = f32
  }
}
"""

# The same with all that a stage can vary: each stage something else.
VARIED = """
recipe varied extends "tiny.vlm" {
  amend stage vision {
    loss       = lm
    augment    = [random_crop(scale: [0.5, 1.0]), jpeg(quality: 75..100)]
    drop_path  = drop_path(vit, 0.3)
    checkpoint = vit.blocks
    optim      = adamw(lr: 1e-2, weight_decay: 0.1, decay: all, no_decay: merger)
    schedule   = cosine(warmup_ratio: 0.2, warmup_from: 1e-4, min: 1e-3, over: stage)
  }
  amend stage joint {
    train           = [decay(vit, 0.5, lr: 0.5), merger, lm]
    layout          = by(pictures: caption, chat: chatml)
    data            = mix(pictures: ramp(0, 2, over: 5steps), chat: 1)
    apart           = chat
    group_by_length = 3steps
    schedule        = step(at: [0.5, 0.8], factors: [0.3, 0.1], warmup: 2steps)
  }
  amend stage sft {
    drop_path = drop_path(vit, 0.3, over: uniform)
  }
}
"""


@pytest.fixture(scope="session")
def folder(tmp_path_factory) -> Path:
    """A folder with both recipes, the tokenizer and the data `pictures.json` and `chat.jsonl`."""
    folder: Path = tmp_path_factory.mktemp("tiny")
    (folder / "tiny.vlm").write_text(RECIPE)
    (folder / "varied.vlm").write_text(VARIED)
    texts = draw(folder)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=320, special_tokens=list(SPECIALS), initial_alphabet=alphabet
        ),
    )
    tokenizer.save(str(folder / "tokenizer.json"))
    return folder


@pytest.fixture(scope="session")
def recipe(folder) -> Recipe:
    """The recipe as it stands."""
    return load_recipe(str(folder / "tiny.vlm"))


def draw(folder: Path, count: int = 24) -> list[str]:
    """Draw the pictures and write both data files; the texts in them."""
    chance = random.Random(0)
    pairs, chats, texts = [], [], []
    for number in range(count):
        colour, shape = chance.choice(COLOURS), chance.choice(SHAPES)
        size = chance.choice((16, 24, 32)), chance.choice((16, 24, 32))
        box = (2, 2, size[0] - 3, size[1] - 3)
        picture = Image.new("RGB", size, "white")
        pen = ImageDraw.Draw(picture)
        (pen.ellipse if shape == "disc" else pen.rectangle)(box, fill=colour)
        picture.save(folder / f"{number}.png")
        caption = f"a {colour} {shape}"
        texts += [caption, "Which colour? user assistant"]
        pairs.append(
            {
                "image": f"{number}.png",
                "conversations": [
                    {"from": "human", "value": "<image>"},
                    {"from": "gpt", "value": caption},
                ],
                "regions": [{"box": box, "label": shape}],
            }
        )
        question = [{"type": "text", "text": "Which colour?"}]
        if number % 3:
            question.insert(0, {"type": "image", "image": f"{number}.png"})
        chats.append(
            {
                "messages": [
                    {"role": "user", "content": question},
                    {"role": "assistant", "content": colour},
                ]
            }
        )
    (folder / "pictures.json").write_text(json.dumps(pairs))
    (folder / "chat.jsonl").write_text("\n".join(map(json.dumps, chats)) + "\n")
    return texts

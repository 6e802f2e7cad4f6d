"""Clips seen by towers with learned positions: each frame is a picture to them."""

from __future__ import annotations

import av
import numpy as np
import pytest
import torch

from triptych.backends.eager import Eager
from triptych.backends.generation import Session
from triptych.backends.job import job
from triptych.blocks.input.processor import Processor
from triptych.blocks.input.sample import Attachment, Turn
from triptych.compiler.pipeline import prove
from triptych.compiler.tokens import counted
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.load import load_recipe

RECIPE = """
recipe clips {
  language = 1
  tokens {
    tokenizer = tiktoken("qwen")
    special endoftext = "<|endoftext|>" @ 151643
    special im_end    = "<|im_end|>"    @ 151645
    special video_pad = "<|video_pad|>" @ 151656
    pad = endoftext
  }
  input video {
    rate      = 2fps
    frames    = 2..8 by 2
    resize    = RESIZE
    normalize = clip()
  }
  encoder vit : ViT {
    in          = video
    patch       = 14px
    depth       = 1
    width       = 16
    heads       = 2
    ffn         = 32
    act         = gelu
    norm        = layernorm(eps: 1e-6)
    pos         = learned(4x4)
    class_token = true
  }
  adapter shuffle : PixelShuffle { in = vit.patches  factor = 2 }
  adapter mlp : MLP { in = shuffle  hidden = 32  out = lm.width  act = gelu }
  lm : Decoder {
    in       = mlp
    depth    = 1
    width    = 32
    heads    = 2
    kv_heads = 2
    ffn      = 64
    vocab    = 151936
    act      = silu
    norm     = rmsnorm(eps: 1e-6)
    pos      = POS
    context  = 256tok
  }
  layout plain {
    video(x)     -> video_pad * x.tokens
    user(b)      -> b "\\n"
    assistant(b) -> loss(b im_end)
  }
  mode chat {
    layout = plain
    batch  = 1..2
    prompt = ..128tok
    new    = 8tok
  }
}
"""
ROPE, MROPE = "rope(theta: 1e4)", "mrope([2, 3, 3], theta: 1e4)"


def recipe(folder, resize="square(56px)", pos=ROPE):
    file = folder / "clips.vlm"
    file.write_text(RECIPE.replace("RESIZE", resize).replace("POS", pos))
    return load_recipe(str(file))


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    """25 frames at 10 a second, each brighter than the one before."""
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(25):
            pixels = np.full((48, 64, 3), index * 10, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode())
    return file


@pytest.mark.parametrize("pos", [ROPE, MROPE])
@pytest.mark.parametrize(
    "resize", ["square(56px)", "crop(56px)", "padded(56px)", "letterbox(56px, pad: [0, 0, 0])"]
)
def test_a_clip_is_counted_and_answered(tmp_path, clip_file, resize, pos):
    clips = recipe(tmp_path, resize, pos)
    prove(clips)
    found = counted(clips, clips.layouts["plain"], "video", (64, 48), (25, 10.0))
    assert (found.frames, found.pictures, found.tokens) == (4, 4, 16)
    made = job(clips, "chat", weights=0)
    session = Session(Eager().compile(made), Processor(made.spec), made.spec)
    turns = [Turn("user", (Attachment("video", clip_file), "what is this?"))]
    prompt = session.processor.prompt(turns)
    assert np.count_nonzero(prompt.ids == 151656) == found.tokens
    (answer,) = session.batch([turns], new=4)
    assert answer.prompt == prompt.length and len(answer.tokens) <= 4


def test_the_frames_of_a_clip_are_the_pictures_of_its_tower(tmp_path, clip_file):
    given = Processor(job(recipe(tmp_path), "chat", weights=0).spec).inputs["video"]
    seen = given.see(Attachment("video", clip_file))
    patches = given.feed([seen])["video.patches"]
    assert patches.shape == (4, 16, 588)
    brightness = patches.mean((1, 2))
    assert torch.all(brightness[1:] > brightness[:-1])


def test_time_is_a_stream_of_its_own(tmp_path, clip_file):
    processor = Processor(job(recipe(tmp_path, pos=MROPE), "chat", weights=0).spec)
    sample = processor.prompt([Turn("user", (Attachment("video", clip_file), "so?"))])
    positions, _ = processor.token_positions(sample)
    frame, row, column = positions[:, :16].tolist()
    assert frame == [n for n in range(4) for _ in range(4)]
    assert row == [0, 0, 1, 1] * 4 and column == [0, 1] * 8


def test_clips_are_not_cut_into_tiles(tmp_path):
    with pytest.raises(RecipeError):
        recipe(tmp_path, "tiles(56px, 1..4)")

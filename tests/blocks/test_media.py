"""Pictures and clips from files: what is seen of them, and why one cannot be used."""

from __future__ import annotations

import av
import numpy as np
import pytest
from PIL import Image

from triptych.blocks.input.media import MediaError, MediaInput
from triptych.blocks.input.sample import Attachment, Region
from triptych.blocks.input.sizes import ClipRule, Native, SizeError
from triptych.blocks.input.video import Clip, ClipError, frame_indices, read_clip

RULE = ClipRule(rate=2, least=4, most=768, step=2)


def media_input(kind="image", folded=False, alpha="drop"):
    clip = RULE if kind == "video" else None
    view = {
        "patch": 4,
        "frames_per_patch": 2,
        "folded": folded,
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
        "dense": False,
        "window": [2, 2],
        "rotary": {"head_dim": 8, "theta": 1e4},
        "resize": None,
    }
    spec = {
        "kind": kind,
        "size": Native(8, 1, 64, aspect=10, per_slot=2, clip=clip).to_json(),
        "alpha": alpha,
        "channels": 3,
        "views": {kind: view},
        "ends": {"merger": {"tokens": None, "grid": None, "window": [2, 2]}},
    }
    return MediaInput(kind, spec)


@pytest.fixture(scope="module")
def clip_file(tmp_path_factory):
    """25 frames at 10 a second, each brighter than the one before."""
    file = tmp_path_factory.mktemp("clip") / "clip.mp4"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for index in range(25):
            frame = av.VideoFrame.from_ndarray(
                np.full((48, 64, 3), index * 10, np.uint8), format="rgb24"
            )
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
    return file


def test_a_clip_is_read_at_the_rate_of_the_recipe(clip_file):
    frames = read_clip(clip_file, RULE).frames
    seen = [round(float(np.asarray(frame).mean()) / 10) for frame in frames]
    assert seen == frame_indices(25, 4) == [0, 8, 16, 24]


def test_a_header_that_promises_too_many_frames_is_not_believed(clip_file, monkeypatch):
    monkeypatch.setattr("triptych.blocks.input.video._header", lambda file: (10.0, 40))
    assert len(read_clip(clip_file, RULE).frames) == 4


def test_a_clip_fills_its_last_slot_with_its_last_frame(clip_file):
    given = media_input("video")
    frames = tuple(Image.new("RGB", (16, 8), (shade, 0, 0)) for shade in (0, 100, 200))
    seen = given.see(Attachment("video", Clip(frames)))
    assert given.grid(seen) == (2, 2, 4)
    rows = given.feed([seen])["video.patches"].view(2, 8, 3, 2, 16)
    assert rows[0, :, 0, 0].ne(rows[0, :, 0, 1]).all()
    assert rows[1, :, 0, 0].eq(rows[1, :, 0, 1]).all()


def test_a_folded_input_feeds_one_of_two_equal_frames():
    picture = Attachment("image", Image.effect_noise((24, 16), 80))
    both, one = media_input(), media_input(folded=True)
    whole = both.feed([both.see(picture)])["image.patches"]
    folded = one.feed([one.see(picture)])["image.patches"]
    assert whole.view(len(whole), 3, 2, 16)[:, :, 0].flatten(1).equal(folded)
    assert whole.view(len(whole), 3, 2, 16)[:, :, 1].flatten(1).equal(folded)


def test_transparency_is_dropped_or_blended_onto_white():
    clear = Attachment("image", Image.new("RGBA", (8, 8), (0, 0, 0, 0)))
    assert media_input().see(clear).frames.max() == 0
    assert media_input(alpha="white").see(clear).frames.min() == 255


def test_an_input_that_nothing_is_shown_to_feeds_one_window():
    feed = media_input().feed([])
    assert feed["image.patches"].shape == (4, 96)
    assert feed["image.segment_id"].tolist() == [0] * 4


def test_a_region_is_its_share_of_each_token():
    given = media_input()
    seen = given.see(Attachment("image", Image.new("RGB", (32, 16))))
    assert given.places(seen, "merger") == (1, 2, 4)
    pool = given.pool(Region((4, 0, 16, 8), "frog"), seen)
    assert np.allclose(pool.shares, [1 / 3, 2 / 3, 0, 0, 0, 0, 0, 0])


@pytest.mark.parametrize("box", [(0, 0, 33, 8), (5, 5, 5, 9), (-1, 0, 4, 4)])
def test_a_region_outside_its_picture_is_refused(box):
    given = media_input()
    seen = given.see(Attachment("image", Image.new("RGB", (32, 16))))
    with pytest.raises(MediaError, match=r"'frog' at .* is not inside its picture of 32 x 16"):
        given.pool(Region(box, "frog"), seen)


def test_what_cannot_be_used_says_why(tmp_path, clip_file):
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(MediaError, match=r"broken.png cannot be read as a picture"):
        media_input().see(Attachment("image", broken))
    with pytest.raises(MediaError, match=r"there is no picture .*none.png"):
        media_input().see(Attachment("image", tmp_path / "none.png"))
    with pytest.raises(ClipError, match=r"broken.png cannot be read as a clip"):
        media_input("video").see(Attachment("video", broken))
    with pytest.raises(MediaError, match="`video` takes clips, not pictures"):
        media_input("video").see(Attachment("video", Image.new("RGB", (8, 8))))
    with pytest.raises(MediaError, match="`image` takes pictures, not clips"):
        media_input().see(Attachment("image", Clip((Image.new("RGB", (8, 8)),))))
    with pytest.raises(SizeError, match="too thin"):
        media_input().see(Attachment("image", Image.new("RGB", (200, 8))))

"""Pictures and clips from files: what is seen of them, and why one cannot be used."""

from __future__ import annotations

from dataclasses import asdict, replace

import av
import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional

from triptych.blocks.input.batch import Batches
from triptych.blocks.input.media import MediaError, MediaInput
from triptych.blocks.input.positions import TextPositions
from triptych.blocks.input.sample import Attachment, Region, Sample
from triptych.blocks.input.sizes import (
    ClipRule,
    Crop,
    Letterbox,
    Native,
    Padded,
    SizeError,
    Square,
    Tiles,
)
from triptych.blocks.input.video import Clip, ClipError, frame_indices, read_clip

RULE = ClipRule(rate=2, least=4, most=768, step=2)


PACKED = {
    "patch": 4,
    "frames_per_patch": 2,
    "folded": False,
    "mean": [0.5] * 3,
    "std": [0.5] * 3,
    "dense": False,
    "window": [2, 2],
    "rotary": {"head_dim": 8, "theta": 1e4},
    "resize": None,
}
DENSE = PACKED | {"frames_per_patch": 1, "dense": True, "window": [1, 1], "rotary": None}
MERGED = {"tokens": None, "grid": None, "window": [2, 2]}
GRID = {"tokens": 4, "grid": [2, 2], "window": [1, 1]}
QUERIES = {"tokens": 3, "grid": None, "window": [1, 1]}


def media_input(kind="image", folded=False, alpha="drop"):
    """A native input of a tower with rotary positions."""
    rule = Native(8, 1, 64, aspect=10, per_slot=2)
    spec = {"kind": kind, "size": rule.to_json(), "alpha": alpha, "channels": 3}
    spec |= {"clip": asdict(RULE)} if kind == "video" else {}
    views = {kind: PACKED | {"folded": folded}}
    return MediaInput(kind, spec | {"views": views, "ends": {"merger": MERGED}})


def sized_input(rule, views=None, ends=None):
    """An input of pictures of one size, and the towers and parts that see it."""
    spec = {"kind": "image", "size": rule.to_json(), "alpha": "drop", "channels": 3}
    views = views or {"image": DENSE}
    return MediaInput("image", spec | {"views": views, "ends": ends or {"mlp": GRID}})


def noise(width, height, seed=0):
    shades = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Attachment("image", Image.fromarray(shades))


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


def test_pictures_of_one_size_are_rows_of_patches_each_in_raster_order():
    given = sized_input(Square(8))
    media = [given.see(noise(10, 30)), given.see(noise(8, 8, 1))]
    patches_MPR = given.feed(media)["image.patches"]
    assert list(given.feed(media)) == ["image.patches"] and patches_MPR.shape == (2, 4, 48)
    shades_HWC = torch.from_numpy(media[1].frames[0])
    assert media[1].frames[0].tolist() == np.asarray(noise(8, 8, 1).content).tolist()
    lower_left_CHW = (shades_HWC[4:, :4].permute(2, 0, 1).float() / 255 - 0.5) / 0.5
    assert torch.allclose(patches_MPR[1, 2].view(3, 4, 4), lower_left_CHW, atol=1e-6)


def test_tiles_stand_row_by_row_and_the_thumbnail_last():
    halves = Image.new("RGB", (200, 100), "red")
    halves.paste("blue", (100, 0, 200, 100))
    given = sized_input(Tiles(8, 1, 4))
    seen = given.see(Attachment("image", halves))
    assert seen.frames.shape == (3, 8, 8, 3) and given.tokens(seen) == {"mlp": 12}
    red, blue, both = seen.frames
    assert (red[:, :6] == (255, 0, 0)).all() and (blue[:, 2:] == (0, 0, 255)).all()
    assert (both[:, 0] == (255, 0, 0)).all() and (both[:, -1] == (0, 0, 255)).all()
    assert given.feed([seen, seen])["image.patches"].shape == (6, 4, 48)
    assert given.places(seen, "mlp") == (3, 2, 2)


def test_a_letterbox_is_as_wide_as_its_longer_side_and_grey_beside():
    white = Attachment("image", Image.new("RGB", (100, 20), "white"))
    frame = sized_input(Letterbox(8, (1, 2, 3), least=4)).see(white).frames[0]
    assert (frame[2:6] == 255).all() and (frame[:2] == (1, 2, 3)).all()
    assert (frame[6:] == (1, 2, 3)).all()


def test_a_padded_picture_keeps_its_shape_and_a_crop_its_middle():
    stripes = Image.new("RGB", (30, 10), "white")
    stripes.paste("red", (10, 0, 20, 10))
    padded = sized_input(Padded(24, (0, 0, 0))).see(Attachment("image", stripes)).frames[0]
    assert (padded[12, 12] == (255, 0, 0)).all() and (padded[12, 2] == 255).all()
    assert not padded[:6].any() and not padded[-6:].any()
    cropped = sized_input(Crop(8)).see(Attachment("image", stripes)).frames[0]
    assert (cropped == (255, 0, 0)).all(axis=2)[:, 1:-1].all()


def test_a_second_tower_sees_the_same_pixels_smaller_and_on_a_scale_of_its_own():
    low = DENSE | {"resize": 4, "mean": [0.25] * 3, "std": [0.125] * 3}
    views = {"image_high": DENSE, "image_low": low}
    given = sized_input(Letterbox(8, (0, 0, 0)), views)
    seen = given.see(noise(8, 8))
    feed = given.feed([seen])
    assert {name: x.shape for name, x in feed.items()} == {
        "image_high.patches": (1, 4, 48),
        "image_low.patches": (1, 1, 48),
    }
    shades_1CHW = torch.from_numpy(seen.frames).permute(0, 3, 1, 2).float() / 255
    small_1CHW = functional.interpolate(shades_1CHW, (4, 4), mode="bilinear", antialias=True)
    expected = (small_1CHW - 0.25) / 0.125
    assert torch.allclose(feed["image_low.patches"].view(1, 3, 4, 4), expected, atol=1e-5)


def test_a_tower_of_packed_rows_takes_tiles_each_in_a_slot_of_its_own():
    packed = PACKED | {"folded": True}
    given = sized_input(Tiles(8, 1, 4), {"image": packed}, {"merger": MERGED})
    seen = given.see(noise(200, 100))
    feed = given.feed([seen])
    assert given.grid(seen) == (3, 2, 2) and given.tokens(seen) == {"merger": 3}
    assert feed["image.patches"].shape == (12, 48)
    assert feed["image.segment_id"].tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert feed["image.cos"].shape == (12, 8)


def test_each_part_has_its_own_places_for_a_medium():
    ends = {"mlp": GRID, "queries": QUERIES}
    given = sized_input(Tiles(8, 1, 4), ends=ends)
    one, three = given.see(noise(10, 10)), given.see(noise(200, 100))
    assert given.tokens(one) == {"mlp": 4, "queries": 3}
    assert given.tokens(three) == {"mlp": 12, "queries": 9}
    assert given.places(three, "queries") == (1, 1, 9)
    assert given.tokens(given.empty()) == given.tokens(one)
    assert given.feed([])["image.patches"].shape == (1, 4, 48)


def test_features_stand_part_by_part_and_places_find_theirs():
    inputs = {"image": sized_input(Square(8), ends={"mlp": GRID, "queries": QUERIES})}
    features = [("mlp", "image"), ("queries", "image")]
    text = TextPositions({"call": "mrope", "sections": [1, 1, 2], "head_dim": 8, "theta": 1e4})
    batches = Batches(lambda text: [1], 0, inputs, features, text)

    def sample(starts, length):
        media = tuple(replace(inputs["image"].see(noise(8, 8)), starts=each) for each in starts)
        return Sample(np.ones(length, np.int64), np.ones(length, np.bool_), media)

    first = sample([{"mlp": (1,), "queries": (6,)}], 10)
    second = sample([{"mlp": (0,)}, {"queries": (5, 8)}], 12)  # one part of each, one of them twice
    index = batches.train_batch([[first], [second]])["text.feature_index"].tolist()
    mlp, queries = [*range(12)], [*range(12, 21)]  # the rows of three pictures
    assert index[0] == [-1, *mlp[:4], -1, *queries[:3], -1, -1, -1]
    assert index[1] == [*mlp[4:8], -1, *queries[6:], *queries[6:], -1]
    position, delta = batches.token_positions(first)
    assert position.tolist() == [
        [0, 1, 1, 1, 1, 3, 4, 4, 4, 7],
        [0, 1, 1, 2, 2, 3, 4, 4, 4, 7],
        [0, 1, 2, 1, 2, 3, 4, 5, 6, 7],
    ]
    assert delta == -2
    nothing = batches.train_batch([[sample([], 2)]])
    assert nothing["image.patches"].shape == (1, 4, 48)
    assert nothing["text.feature_index"].tolist() == [[-1, -1]]
    assert nothing["regions.pool"].shape == (1, 4)


@pytest.mark.parametrize(
    ("rule", "shares"),
    [
        (Square(8), [1 / 2, 0, 1 / 2, 0]),
        (Letterbox(8, (0, 0, 0)), [1 / 2, 0, 1 / 2, 0]),
        (Padded(8, (0, 0, 0)), [1 / 2, 0, 1 / 2, 0]),
        (Crop(8), [1 / 2, 0, 1 / 2, 0]),
    ],
    ids=lambda rule: getattr(rule, "call", ""),
)
def test_a_region_is_where_the_rule_puts_it(rule, shares):
    given = sized_input(rule)
    pool = given.pool(Region((5, 0, 10, 10), "frog"), given.see(noise(20, 10)))
    assert np.allclose(pool.shares, shares)


def test_a_region_that_the_tokens_do_not_show_is_refused():
    frog = Region((0, 0, 5, 10), "frog")
    cropped, tiled = sized_input(Crop(8)), sized_input(Tiles(8, 1, 4))
    with pytest.raises(MediaError, match="nothing is seen of the region 'frog'"):
        cropped.pool(frog, cropped.see(noise(20, 10)))
    with pytest.raises(MediaError, match="do not lie in the picture"):
        tiled.pool(frog, tiled.see(noise(20, 10)))
    queries = sized_input(Square(8), ends={"queries": QUERIES})
    with pytest.raises(MediaError, match="the tokens of `queries` do not lie in the picture"):
        queries.pool(frog, queries.see(noise(20, 10)))


def test_what_becomes_of_a_picture_comes_before_its_resize():
    given = sized_input(Square(8))
    seen = given.see(noise(20, 10), lambda picture: picture.crop((0, 0, 8, 8)))
    assert (seen.frames[0] == np.asarray(noise(20, 10).content)[:8, :8]).all()

"""Every kind of data file is read, every bad sample is named, and the order is one number."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from triptych.backends.data import Bad, DataError, Example, Mixture, bind, open_source
from triptych.blocks.input.places import Box, Quad, Ref
from triptych.blocks.input.sample import Attachment, Region, Turn
from triptych.dsl.stages import Ramp


def records(tmp_path, *values, name="data.json"):
    path = tmp_path / name
    if path.suffix == ".jsonl":
        lines = (value if isinstance(value, str) else json.dumps(value) for value in values)
        path.write_text("\n".join(lines) + "\n")
    else:
        path.write_text(json.dumps(values))
    return open_source(path)


def llava(*turns, **more):
    named = zip(("human", "gpt") * 9, turns, strict=False)
    return {"conversations": [{"from": who, "value": text} for who, text in named], **more}


def test_reads_llava_records(tmp_path):
    source = records(
        tmp_path,
        llava(
            "<image>\nWhat is it?",
            "A frog.",
            "And this?\n<image>",
            "A key.",
            image=["a.png", "in/b.png"],
            regions=[{"box": [0, 1, 20, 30.5], "label": "frog"}],
        )
        | {"regions": []},
    )
    a, b = Attachment("image", tmp_path / "a.png"), Attachment("image", tmp_path / "in" / "b.png")
    assert source.read(0) == Example(
        (
            Turn("user", (a, "What is it?")),
            Turn("assistant", ("A frog.",)),
            Turn("user", ("And this?", b)),
            Turn("assistant", ("A key.",)),
        )
    )
    assert source.read(0).media == (a, b)


def test_a_picture_without_a_marker_stands_at_the_head_of_the_first_question(tmp_path):
    source = records(tmp_path, llava("What is it?", "A frog.", image=["a.png", "b.png"]))
    first, answer = source.read(0).turns
    assert [getattr(part, "content", part) for part in first.parts] == [
        tmp_path / "a.png",
        tmp_path / "b.png",
        "What is it?",
    ]
    assert answer.parts == ("A frog.",)


def test_reads_chat_lines(tmp_path):
    source = records(
        tmp_path,
        {
            "messages": [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "video", "video": "clip.mp4"},
                        {"type": "text", "text": "What moves?"},
                    ],
                },
                {"role": "assistant", "content": "A crab."},
            ]
        },
        name="chat.jsonl",
    )
    clip = Attachment("video", tmp_path / "clip.mp4")
    assert source.read(0).turns[:2] == (
        Turn("system", ("Be brief.",)),
        Turn("user", (clip, "What moves?")),
    )


def test_reads_pictures_with_captions(tmp_path):
    for name, caption in (("b", "A key.\n"), ("a", "A frog."), ("c", None), ("d", " ")):
        Image.new("RGB", (8, 8)).save(tmp_path / f"{name}.png")
        if caption is not None:
            (tmp_path / f"{name}.txt").write_text(caption)
    source = open_source(tmp_path)
    assert len(source) == 4
    frog = Attachment("image", tmp_path / "a.png")
    assert source.read(0).turns == (Turn("user", (frog,)), Turn("assistant", ("A frog.",)))
    assert source.read(1).turns[1].parts == ("A key.",)
    with pytest.raises(ValueError, match=r"c\.png has no caption: c\.txt is not there"):
        source.read(2)
    with pytest.raises(ValueError, match=r"d\.txt is empty"):
        source.read(3)


def test_reads_regions(tmp_path):
    regions = [{"box": [0, 1, 20, 30.5], "label": "frog"}]
    source = records(tmp_path, llava("<image>", "A frog.", image="a.png", regions=regions))
    assert source.read(0).regions == (Region((0, 1, 20, 30.5), "frog"),)


def test_regions_need_no_dialogue(tmp_path):
    regions = [{"box": [0, 1, 20, 30.5], "label": "frog"}]
    source = records(tmp_path, {"image": "a.png", "regions": regions})
    picture = Attachment("image", tmp_path / "a.png")
    assert source.read(0).turns == (Turn("user", (picture,)),)


@pytest.mark.parametrize(
    ("record", "reason"),
    [
        ([], "the record is not an object"),
        ({"text": "A frog."}, "neither `conversations` nor `messages`"),
        ({"conversations": []}, "`conversations` is not a list of turns"),
        ({"messages": ["hello"]}, "turn 1 is not an object"),
        ({"conversations": [{"from": "bot", "value": "x"}]}, "turn 1 is from 'bot'"),
        ({"conversations": [{"from": "gpt", "value": ""}]}, "turn 1 has no text `value`"),
        (llava("<image>", "A frog."), "`image` names 0, and the turns have 1 markers <image>"),
        (
            llava("<image> What?", "A frog.", image=["a.png", "b.png"]),
            "`image` names 2, and the turns have 1 markers <image>",
        ),
        (llava("<image>", "A frog.", image=3), "`image` is neither a path nor a list"),
        ({"messages": [{"role": "user"}]}, "turn 1 has no content"),
        ({"messages": [{"role": "user", "content": [{"type": "sound"}]}]}, "no text or file"),
        (llava("Hi", "Ho", regions=[{"box": [0, 0, 2, 2], "label": "x"}]), "regions need one"),
        (llava("<image>", image="a", regions=[{"box": [2, 0, 2, 2], "label": "x"}]), "x0 < x1"),
        (
            llava("<image>", image="a", regions=[{"box": [0, 0, 2, 2]}]),
            "a region is not",
        ),
    ],
)
def test_says_what_is_wrong_with_a_record(tmp_path, record, reason):
    with pytest.raises(ValueError, match=reason):
        records(tmp_path, record).read(0)


def test_a_torn_line_is_one_bad_sample(tmp_path):
    source = records(tmp_path, llava("Hi", "Ho"), '{"messages": [', name="data.jsonl")
    assert len(source) == 2
    with pytest.raises(ValueError, match="Expecting value"):
        source.read(1)


def test_names_a_bad_sample():
    assert str(Bad("data.json", 12, "turn 2 has no content")) == (
        "data.json[12]: turn 2 has no content"
    )


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("none.json", None, "there is no"),
        ("data.csv", "a,b", "neither .json nor .jsonl nor a folder"),
        ("data.json", "[1,", "is not JSON"),
        ("data.json", "{}", "is not a list of records"),
        ("data.json", "[]", "holds no records"),
    ],
)
def test_refuses_what_is_no_data(tmp_path, name, content, reason):
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(DataError, match=reason):
        open_source(tmp_path / name)


def test_refuses_a_folder_without_pictures(tmp_path):
    with pytest.raises(DataError, match="holds no pictures"):
        open_source(tmp_path)


class Counted:
    digest = ""

    def __init__(self, name, count):
        self.name, self.count = name, count

    def __len__(self):
        return self.count

    def read(self, index):
        return Example(())


def mixture(seed="0", **ratios):
    counts = {"a": 7, "b": 3, "c": 5}
    return Mixture({name: Counted(name, counts[name]) for name in ratios}, ratios, seed)


def test_a_chat_may_name_places(tmp_path):
    content = [
        {"type": "image", "image": "a.png"},
        {"ref": "the frog"},
        {"box": [1, 2, 3.5, 4]},
        {"quad": [0, 0, 4, 0, 4, 4, 0, 4]},
    ]
    read = records(tmp_path, {"messages": [{"role": "user", "content": content}]}).read(0)
    box, quad = Box((1.0, 2.0, 3.5, 4.0)), Quad((0.0, 0.0, 4.0, 0.0, 4.0, 4.0, 0.0, 4.0))
    assert read.turns[0].parts[1:] == (Ref("the frog"), box, quad)
    assert read.boxes == (box, quad)
    with pytest.raises(ValueError, match="no text or file"):
        records(tmp_path, {"messages": [{"role": "user", "content": [{"box": [1, 2]}]}]}).read(0)


def test_each_epoch_holds_every_sample_once():
    drawn = [mixture(a=1).at(position) for position in range(21)]
    epochs = [drawn[:7], drawn[7:14], drawn[14:]]
    assert all(sorted(index for _, index in epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1] != epochs[2]


def test_a_mixture_keeps_its_ratios_and_each_source_its_epochs():
    drawn = [mixture(a=2, b=1, c=0.5).at(position) for position in range(70)]
    assert Counter(name for name, _ in drawn) == {"a": 40, "b": 20, "c": 10}
    assert all(Counter(name for name, _ in drawn[i : i + 7])["c"] == 1 for i in range(0, 70, 7))
    only_b = [index for name, index in drawn if name == "b"]
    assert all(sorted(only_b[i : i + 3]) == [0, 1, 2] for i in range(0, 18, 3))


def test_a_source_of_ratio_zero_is_never_drawn():
    assert {mixture(a=1, b=0).at(position)[0] for position in range(20)} == {"a"}


def test_the_order_depends_on_seed_and_position_alone():
    whole = [mixture(a=2, b=3).at(position) for position in range(50)]
    assert [mixture(a=2, b=3).at(position) for position in reversed(range(50))] == whole[::-1]
    assert [mixture(a=2, b=3, seed="1").at(position) for position in range(50)] != whole


def ramping(apart=frozenset()):
    counts = {"text": 40, "pages": 30, "shown": 20}
    ratios: dict[str, float | Ramp] = {
        "text": 0.7,
        "pages": Ramp(start=0, end=0.2, over=50),
        "shown": Ramp(start=0, end=0.1, over=50),
    }
    sources = {name: Counted(name, count) for name, count in counts.items()}
    return Mixture(sources, ratios, "0", step=10, apart=apart)


@pytest.mark.parametrize("apart", [frozenset(), frozenset({"text"})])
def test_shares_ramp_over_steps_and_then_stay(apart):
    mixed = ramping(apart=apart)
    drawn = [mixed.at(position) for position in range(2000)]
    assert {name for name, _ in drawn[:10]} == {"text"}
    shares = [Counter(name for name, _ in drawn[i : i + 500]) for i in range(0, 2000, 500)]
    assert 0.75 < shares[0]["text"] / 500 < 0.95
    assert shares[2] == shares[3] == {"text": 350, "pages": 100, "shown": 50}
    assert [mixed.at(position) for position in (1999, 3, 700)] == [drawn[p] for p in (1999, 3, 700)]


@pytest.mark.parametrize("apart", [frozenset(), frozenset({"text"})])
def test_each_source_keeps_its_epochs_through_a_ramp(apart):
    mixed = ramping(apart=apart)
    drawn = [mixed.at(position) for position in range(2000)]
    for name, source in mixed.sources.items():
        numbers = [index for drawn_name, index in drawn if drawn_name == name]
        rounds = [numbers[i : i + len(source)] for i in range(0, len(numbers), len(source))]
        assert all(sorted(one) == list(range(len(source))) for one in rounds[:-1])


def test_a_source_apart_has_steps_of_its_own():
    mixed = ramping(apart=frozenset({"text"}))
    for step in range(200):
        names = {mixed.at(position)[0] for position in range(10 * step, 10 * step + 10)}
        assert names == {"text"} or "text" not in names


def test_a_share_within_a_step_of_a_ramp_is_rounded_by_chance():
    mixed = ramping()
    counts = [
        Counter(mixed.at(position)[0] for position in range(10 * step, 10 * step + 10))["text"]
        for step in range(50)
    ]
    exact = [10 * 0.7 / (0.7 + 0.3 * step / 50) for step in range(50)]
    assert all(abs(count - wanted) < 1 for count, wanted in zip(counts, exact, strict=True))


def test_the_digest_follows_the_content(tmp_path):
    first = records(tmp_path, llava("Hi", "Ho")).digest
    assert records(tmp_path, llava("Hi", "Ha")).digest != first
    (tmp_path / "moved").mkdir()
    assert records(tmp_path / "moved", llava("Hi", "Ho")).digest == first


def test_binds_names_to_paths():
    names = ["a", "b", "c"]
    assert bind(["a", "b"], names, ["x"]) == {"a": Path("x"), "b": Path("x")}
    assert bind(["a", "b"], names, ["b=y", "x"]) == {"a": Path("x"), "b": Path("y")}
    assert bind(["a"], names, ["a=x", "c=z"]) == {"a": Path("x")}
    assert bind(["a"], names, ["/data/a=b.json"]) == {"a": Path("/data/a=b.json")}
    with pytest.raises(DataError, match="no data for a and b: say --data a=PATH"):
        bind(["a", "b", "c"], names, ["c=y"])
    with pytest.raises(DataError, match="no stage draws from 'd'; the stages draw from a, b and c"):
        bind(["a"], names, ["d=y"])
    with pytest.raises(DataError, match="two paths for everything"):
        bind(["a"], names, ["x", "y"])

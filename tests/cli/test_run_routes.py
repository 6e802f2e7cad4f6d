"""`triptych run` in modes that compare pictures with texts, or only look."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from PIL import Image
from safetensors.torch import load_file

from triptych.blocks.input.processor import SampleError
from triptych.cli.run import run_command


@pytest.fixture
def images(tmp_path):
    files = []
    for number, colour in enumerate([(200, 30, 30), (20, 40, 220)]):
        files.append(str(tmp_path / f"{number}.png"))
        Image.new("RGB", (40 + number, 30), colour).save(files[-1])
    return files


def ask(mode, images, *arguments):
    shown = [word for image in images for word in ("--image", image)]
    model = ["internvl_14b_tiny", "--random-weights", "0", "--mode", mode]
    return CliRunner().invoke(run_command, [*model, *shown, *arguments])


def test_every_picture_is_compared_with_every_text(images):
    texts = ["--text", "a red square", "--text", "a blue one", "--text", "snow"]
    rows = json.loads(ask("retrieval_c", images, *texts, "--json").output)
    assert [(row["image"], row["text"]) for row in rows] == [
        (image, text) for image in images for text in ("a red square", "a blue one", "snow")
    ]
    assert all(row["logit"] == pytest.approx(row["cosine"] / 0.07, rel=1e-4) for row in rows)
    assert sum(row["share"] for row in rows[:3]) == pytest.approx(1)


def test_a_class_is_the_mean_of_its_templates(images, tmp_path):
    out = str(tmp_path / "v.safetensors")
    asked = ["--class", "fox", "--template", "a {}", "--template", "{} in snow", "--out", out]
    (row,) = json.loads(ask("retrieval_g", images[:1], *asked, "--json").output)
    alone = ["--text", "a fox", "--text", "fox in snow", "--out", str(tmp_path / "t.safetensors")]
    ask("retrieval_g", images[:1], *alone)
    both = load_file(tmp_path / "t.safetensors")["text"].mean(0)
    found = load_file(out)
    assert torch.allclose(found["text"][0], both / both.norm(), atol=1e-5)
    assert row["cosine"] == pytest.approx((found["image"] @ found["text"].T).item(), abs=1e-5)


def test_features_are_written_to_a_file(images, tmp_path):
    out = tmp_path / "f.safetensors"
    assert ask("features", images, "--out", str(out)).exit_code == 0
    made = load_file(out)
    assert made["tokens"].shape == (2, 17, 36)
    assert torch.equal(made["class"], made["tokens"][:, 0])
    assert torch.allclose(made["mean"], made["tokens"][:, 1:].mean(1))


def test_a_caption_is_written_by_the_decoder_with_queries(images):
    done = ask("caption", images[:1], "--max-new", "4", "--json")
    answer = json.loads(done.output)
    assert len(answer["tokens"]) <= 4


@pytest.mark.parametrize("count", [0, 2])
def test_a_caption_is_of_one_picture(images, count):
    done = ask("caption", images[:count], "--prompt", "Here:")
    assert isinstance(done.exception, SampleError)
    assert "one picture" in str(done.exception)


def test_records_of_a_batch_that_show_no_picture_first_are_told(images, tmp_path):
    shown, said = {"type": "image", "image": images[0]}, {"type": "text", "text": "Here:"}
    contents = [[shown], [said], [shown, shown], [said, shown], [shown, said]]
    batch = tmp_path / "asked.jsonl"
    records = [{"messages": [{"role": "user", "content": content}]} for content in contents]
    batch.write_text("\n".join(map(json.dumps, records)))
    done = ask("caption", [], "--batch", str(batch), "--max-new", "2")
    assert done.exit_code == 1
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert ["error" in line for line in lines] == [False, True, True, True, False]
    assert all("one picture" in line["error"] for line in lines[1:4])


@pytest.mark.parametrize(
    ("mode", "arguments"),
    [("retrieval_c", []), ("features", []), ("caption", ["--text", "a fox"])],
)
def test_what_a_mode_needs_is_asked_for(images, mode, arguments):
    assert ask(mode, images, *arguments).exit_code == 2

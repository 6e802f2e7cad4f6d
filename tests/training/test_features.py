"""Values of frozen parts are computed once for each picture, and then read from the disk."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field

import pytest
import torch
from safetensors.torch import load_file, save_file

from triptych.backends.features import digest_of, pictures
from triptych.backends.listening import Silence
from triptych.backends.options import Options
from triptych.compiler.lower import initial
from triptych.compiler.pipeline import for_training
from triptych.dsl.load import load_recipe

from .eager import train
from .killing import kill_after

EPOCHS = 2
PICTURES = 24
OPTIONS = Options(workers=1)
STAGE = (
    "sft.data=mix(pictures: 1)",
    "sft.layout=caption",
    "sft.batch=4seq",
    f"sft.stop={EPOCHS}epochs",
    "sft.pack=96tok",
    "sft.optim=adamw(lr: 1e-3, clip: 1.0)",
)
WHOLE = ("sft.train=[merger, lm]", "sft.freeze=[vit]")
HALF = (
    "sft.train=[vit.blocks[1..1], merger, lm]",
    "sft.freeze=[vit.patch_embed, vit.blocks[0..0]]",
)
CASES = {
    "a tower": (WHOLE, "vit"),
    "a tower and more": (("sft.train=[lm]", "sft.freeze=[vit, merger]"), "[vit, merger]"),
    "the first block": (HALF, "vit.blocks[0..0]"),
}


@dataclass
class Heard(Silence):
    """Remembers what a run tells."""

    notices: list[str] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def step(self, metrics, done):
        self.losses.append(metrics.loss)

    def notice(self, text):
        self.notices.append(text)


def amended(folder, *lines):
    return load_recipe(str(folder / "tiny.vlm"), amend=[*STAGE, *lines])


def run(recipe, folder, out, **more):
    heard = Heard()
    given = {"weights": {}, "options": OPTIONS, "listener": heard, **more}
    result = train(recipe, [f"pictures={folder / 'pictures.json'}"], out, stages=["sft"], **given)
    return heard, load_file(result.weights)


def files(out):
    return sorted((out / "features").glob("*/*/*.safetensors"))


def same(first, second):
    return first.keys() == second.keys() and all(
        torch.equal(first[name], second[name]) for name in first
    )


@pytest.mark.parametrize("case", CASES)
def test_the_losses_are_those_without_it(folder, tmp_path, case):
    stage, cache = CASES[case]
    plain, ended = run(amended(folder, *stage), folder, tmp_path / "plain")
    heard, same_end = run(amended(folder, *stage, f"sft.cache={cache}"), folder, tmp_path / "kept")
    assert len(plain.losses) == EPOCHS * PICTURES // 4
    assert heard.losses == plain.losses
    assert same(ended, same_end)
    assert not files(tmp_path / "plain")
    different = len(files(tmp_path / "kept"))
    assert 0 < different <= PICTURES
    assert heard.notices[-1] == (
        f"sft: features of {EPOCHS * PICTURES - different} pictures read from the cache, "
        f"{different} computed"
    )


def test_workers_share_what_is_kept(folder, tmp_path):
    recipe = amended(folder, *WHOLE, "sft.cache=vit")
    ends = {}
    for out in ("filling", "filled"):
        if out == "filled":
            (tmp_path / out / "features").parent.mkdir()
            (tmp_path / "filling" / "features").rename(tmp_path / out / "features")
        heard, ends[out] = run(recipe, folder, tmp_path / out, options=Options(workers=2))
    assert same(ends["filling"], ends["filled"])
    every = EPOCHS * PICTURES
    assert heard.notices[-1].endswith(f"{every} pictures read from the cache, 0 computed")


@pytest.mark.parametrize("change", ["weights", "rule"])
def test_other_weights_or_another_rule_make_it_anew(folder, tmp_path, change):
    recipe = amended(folder, *WHOLE, "sft.cache=vit")
    first, _ = run(recipe, folder, tmp_path / "first")
    before = files(tmp_path / "first")
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "features").rename(tmp_path / "second" / "features")
    more = {}
    if change == "weights":
        param = for_training(recipe, "sft").parameters["vit.patch_embed.weight"]
        more["weights"] = {
            "vit.patch_embed.weight": initial("vit.patch_embed.weight", param, seed=7)
        }
    else:
        recipe = amended(folder, *WHOLE, "sft.cache=vit", "image.normalize=half()")
    second, _ = run(recipe, folder, tmp_path / "second", **more)
    assert second.notices[-1] == first.notices[-1]
    assert not {file.parts[-3] for file in before} & {
        file.parts[-3] for file in files(tmp_path / "second")
    }


@pytest.mark.parametrize("harm", ["torn", "foreign", "moved"])
def test_a_file_that_is_not_what_was_written_is_named_and_made_anew(folder, tmp_path, harm):
    recipe = amended(folder, *WHOLE, "sft.cache=vit")
    first, ended = run(recipe, folder, tmp_path / "first")
    (tmp_path / "second").mkdir()
    (tmp_path / "first" / "features").rename(tmp_path / "second" / "features")
    one, other, *_ = files(tmp_path / "second")
    if harm == "torn":
        one.write_bytes(one.read_bytes()[:-16])
    elif harm == "foreign":
        save_file({name: x + 1 for name, x in load_file(one).items()}, one)
    else:
        one.write_bytes(other.read_bytes())
    second, same_end = run(recipe, folder, tmp_path / "second")
    assert second.losses == first.losses
    assert same(ended, same_end)
    (named,) = [line for line in second.notices if "made anew" in line]
    assert named.startswith(f"{one} ")
    assert second.notices[-1].endswith(", 1 computed")


def test_killed_and_resumed_it_reads_what_was_kept(folder, tmp_path):
    recipe = amended(folder, *WHOLE, "sft.cache=vit")
    undisturbed, ended = run(recipe, folder, tmp_path / "undisturbed")
    out = tmp_path / "out"
    sets = [word for line in (*STAGE, *WHOLE, "sft.cache=vit") for word in ("--set", line)]
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "triptych", "train", str(folder / "tiny.vlm"), *sets),
            *("--stage", "sft", "--weights", "fresh", "--out", str(out), "--save-every", "2"),
            *("--data", f"pictures={folder / 'pictures.json'}", "--backend", "eager"),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=tmp_path,
    )
    metrics = out / "metrics.jsonl"
    kill_after(process, metrics, 4)
    (out / "features" / files(out)[0].parts[-3] / "ab").mkdir(exist_ok=True)
    torn = out / "features" / files(out)[0].parts[-3] / "ab" / ".half.safetensors.1.1"
    torn.write_bytes(b"half")
    heard, same_end = run(recipe, folder, out, resume=True, options=Options(save_every=2))
    assert same(ended, same_end)
    lines = [json.loads(line) for line in metrics.read_text().splitlines()]
    assert [line["loss"] for line in lines] == undisturbed.losses
    assert not torn.exists()
    computed = int(heard.notices[-1].split(", ")[1].split()[0])
    assert computed < len(files(out))


def test_a_compiled_step_takes_them(folder, tmp_path):
    stage, cache = CASES["the first block"]
    options = Options(backend="inductor", steps=3)
    _, ended = run(amended(folder, *stage), folder, tmp_path / "plain", options=options)
    recipe = amended(folder, *stage, f"sft.cache={cache}")
    heard, kept = run(recipe, folder, tmp_path / "kept", options=options)
    assert "computed" in heard.notices[-1]
    for name, tensor in ended.items():
        assert torch.allclose(kept[name], tensor, atol=1e-4), name


def test_two_towers_of_whole_pictures_one_of_them_tapped(folder, tmp_path):
    stage = [
        "adaptor.stop=2epochs",
        "adaptor.batch=4seq",
        "adaptor.precision=f32",
        "adaptor.data=mix(captions: 1)",
    ]
    ends = []
    for cache in ([], ["adaptor.cache=[sam, siglip]"]):
        heard = Heard()
        result = train(
            load_recipe("deepseek_vl_tiny", amend=[*stage, *cache]),
            [f"captions={folder / 'pictures.json'}"],
            tmp_path / str(len(cache)),
            stages=["adaptor"],
            weights={},
            listener=heard,
        )
        ends.append((heard.losses, load_file(result.weights)))
    (losses, weights), (kept_losses, kept_weights) = ends
    assert kept_losses == losses
    assert same(weights, kept_weights)
    assert heard.notices[-1].startswith("adaptor: features of ")


def test_packed_pictures_are_the_rows_of_their_segments():
    inputs = {
        "image.patches": torch.arange(10.0).view(5, 2),
        "image.segment_id": torch.tensor([3, 3, 4, 4, 4]),
        "fine.patches": torch.arange(8.0).view(2, 2, 2),
        "text.tokens": torch.zeros(1, 3),
    }
    first, second = pictures(inputs, ["image.patches", "image.segment_id", "fine.patches"])
    assert first["image.patches"].tolist() == [[0, 1], [2, 3]]
    assert second["image.segment_id"].tolist() == [0, 0, 0]
    assert second["fine.patches"].shape == (1, 2, 2)
    assert digest_of(first) != digest_of(second)

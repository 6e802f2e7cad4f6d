"""`triptych new` writes recipes that hold, of any parts that can follow one another."""

from __future__ import annotations

import json
from itertools import cycle

import pytest
from click.testing import CliRunner

from triptych.cli.choices import SIZES, chain, parts, sources, table_of_choices
from triptych.cli.main import cli
from triptych.compiler.pipeline import prove
from triptych.dsl import load
from triptych.dsl.format import format_text


def load_recipe(name):
    return load.load_recipe(name)


ENCODERS = (
    "qwen2_vl_7b.vit",
    "minigpt4_7b.vit",
    "qwen_vl_7b.vit",
    "internvl_14b.vit",
    "internvl_chat_qllama_7b.vit",
    "internvl_1_5_26b.vit",
    "deepseek_vl_1_3b.siglip",
)
ADAPTERS = (
    "qwen2_vl_7b.merger",
    "minigpt4_7b.qformer",
    "qwen_vl_7b.resampler",
    "internvl_chat_7b.projector",
    "internvl_chat_qllama_7b.qllama",
    "internvl_1_5_26b.shuffle",
    "deepseek_vl_1_3b.aligner",
)
LANGUAGE_MODELS = (
    "qwen2_vl_7b",
    "minigpt4_7b",
    "qwen_vl_7b",
    "internvl_chat_qllama_7b",
    "internvl_1_5_26b",
    "deepseek_vl_1_3b",
)
PAIRS = [
    (encoder, adapter)
    for row, encoder in enumerate(ENCODERS)
    for column, adapter in enumerate(ADAPTERS)
    if not row or (row + column) % 2  # the tower of packed rows with all, the others with half
]
MIXED = [(*pair, lm) for pair, lm in zip(PAIRS, cycle(LANGUAGE_MODELS), strict=False)]
WITHOUT_ENDS = {"qwen2_vl_7b", "qwen_vl_7b"}
"""Language models whose vocabulary has no `bos` and `eos`, which QLLaMA's questions need."""
ONE_SIZE = {"minigpt4_7b.qformer", "qwen_vl_7b.resampler", "internvl_chat_qllama_7b.qllama"}
"""Adapters that look at one picture at a time, or at a square of patches."""


@pytest.fixture
def new(tmp_path, monkeypatch):
    """Run `triptych new mine ...` in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*argv):
        return CliRunner().invoke(cli, ["new", "mine", *argv])

    return run


def options(encoder, adapter, lm, size):
    return ["--encoder", encoder, "--adapter", adapter, "--lm", lm, "--size", size]


@pytest.mark.parametrize(
    ("encoder", "adapter", "lm"),
    MIXED,
)
def test_parts_of_six_systems_mix(encoder, adapter, lm, new, tmp_path):
    done = new(*options(encoder, adapter, lm, "tiny"))
    if encoder == "qwen2_vl_7b.vit" and adapter in ONE_SIZE | {"internvl_1_5_26b.shuffle"}:
        assert done.exit_code == 1
        assert "nothing was written" in done.stderr
        assert "error[S40" in done.stderr
        assert not list(tmp_path.iterdir())
        return
    if adapter == "internvl_chat_qllama_7b.qllama" and lm in WITHOUT_ENDS:
        assert "error[L701]: there is no parameter or special token `bos`" in done.stderr
        return
    assert done.exit_code == 0, done.stderr
    text = (tmp_path / "mine.vlm").read_text()
    assert format_text(text) == text
    prove(load_recipe("mine.vlm"))


@pytest.mark.parametrize(
    ("encoder", "adapter", "lm"),
    [
        ("qwen2_vl_7b.vit", "qwen2_vl_7b.merger", "minigpt4_7b"),
        ("internvl_1_5_26b.vit", "qwen_vl_7b.resampler", "minigpt4_7b"),
        ("deepseek_vl_7b.sam", "internvl_1_5_26b.shuffle", "qwen2_vl_72b"),
    ],
)
def test_pictures_become_fewer_tokens_where_the_language_model_has_less_room(
    encoder, adapter, lm, new
):
    assert new(*options(encoder, adapter, lm, "as-is")).exit_code == 0
    recipe = load_recipe("mine.vlm")
    assert recipe.lm.context == load_recipe(lm).lm.context
    prove(recipe)


def test_two_towers_for_an_adapter_that_joins_them(new):
    towers = ["--encoder", "deepseek_vl_7b.sam", "--encoder", "deepseek_vl_1_3b.siglip"]
    assert new(*towers, "--adapter", "deepseek_vl_7b.neck", "--lm", "qwen2_vl_2b").exit_code == 0
    recipe = load_recipe("mine.vlm")
    assert str(recipe.encoders["siglip"].in_[0]) == "resize(image, 384px)"
    assert list(recipe.adapters) == ["neck", "aligner"]
    done = new("other.vlm", "--encoder", "minigpt4_7b.vit", "--adapter", "deepseek_vl_7b.neck")
    assert done.exit_code == 2
    assert "choose 2 towers" in done.stderr


@pytest.mark.parametrize(
    "argv",
    [
        ["--lm", "deepseek_vl_7b"],
        ["--encoder", "minigpt4_7b"],
        ["--adapter", "qwen_vl_7b.resampler"],
        ["--lm", "internvl_chat_7b", "--size", "tiny"],
        ["--lm", "qwen_vl_7b", "--size", "small"],
    ],
    ids=" ".join,
)
def test_what_is_not_chosen_comes_from_the_same_recipe(argv, new):
    assert new(*argv).exit_code == 0
    prove(load_recipe("mine.vlm"))


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--encoder", "qwen2_vl_7.vit"], "Did you mean qwen2_vl_7b?"),
        (["--encoder", "qwen2_vl_7b.vti"], "Did you mean qwen2_vl_7b.vit?"),
        (["--encoder", "deepseek_vl_7b"], "Choose `deepseek_vl_7b.siglip` or `deepseek_vl_7b.sam`"),
        (["--adapter", "internvl_14b.pool"], "has no adapter pool"),
        (["--lm", "internvl_14b"], "Choose another recipe."),
        (["--lm", "qwen2_vl_7b", "--size", "small"], "has no small variant"),
        (["--size", "tiny"], "--size goes with"),
    ],
)
def test_what_cannot_be_chosen(argv, said, new, tmp_path):
    done = new(*argv)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.split())
    assert not list(tmp_path.iterdir())


def test_the_recipe_that_it_writes_is_explained(new, golden, tmp_path):
    chosen = options("internvl_1_5_26b.vit", "minigpt4_7b.qformer", "deepseek_vl_1_3b", "as-is")
    assert new(*chosen).exit_code == 0
    golden.check("cli/new_mixed.txt", (tmp_path / "mine.vlm").read_text())


def test_the_list_names_what_can_be_chosen():
    rows = table_of_choices()
    assert {option for option, _, _ in rows} == {"--encoder", "--adapter", "--lm"}
    assert {*ENCODERS, *ADAPTERS, *(f"{lm}.lm" for lm in LANGUAGE_MODELS)} <= {
        part for _, part, _ in rows
    }
    shown = CliRunner().invoke(cli, ["new", "--list"]).output
    assert "qformer, 12" not in shown and "minigpt4_7b.qformer" in shown


def test_an_adapter_comes_with_those_behind_it():
    recipe = load_recipe("deepseek_vl_7b")
    assert chain(recipe, "neck") == ["neck", "aligner"]
    assert sources(recipe, "neck") == ["sam", "siglip"]
    assert list(parts(load_recipe("internvl_14b"), "adapter")) == []
    assert SIZES[0] == "as-is"


def test_a_recipe_from_json(new, tmp_path):
    data = CliRunner().invoke(cli, ["show", "scenes", "--json"]).output
    (tmp_path / "scenes.json").write_text(data)
    assert new("--from", "scenes.json").exit_code == 0
    there = load_recipe("scenes")
    assert load_recipe("mine.vlm") == there.model_copy(update={"name": "mine"})


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("{", "E101"),
        ("[]", "E101"),
        ('{"language": 1, "lm": {"type": "Decoder", "widht": 4}}', "N202"),
        ('{"language": 2}', "E106"),
    ],
)
def test_json_that_holds_no_right_recipe(text, code, new, tmp_path):
    (tmp_path / "a.json").write_text(text)
    done = new("--from", "a.json")
    assert done.exit_code == 1
    assert f"error[{code}]" in done.stderr
    assert "nothing was written" in done.stderr
    assert not (tmp_path / "mine.vlm").exists()


def test_the_schema_is_printed():
    done = CliRunner().invoke(cli, ["schema"])
    assert json.loads(done.output)["$schema"].endswith("2020-12/schema")

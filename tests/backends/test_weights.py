"""Weights are found under our names or the published ones, and what does not fit is named."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file, save_file

from triptych.backends.headers import WeightsError, prove_checkpoint
from triptych.backends.job import job
from triptych.backends.resources import ResourceError, resources
from triptych.backends.weights import (
    Weights,
    as_published,
    put_together,
    starts,
    taken_apart,
)
from triptych.cli.main import cli
from triptych.compiler.weights import names, published_shapes, shape_of
from triptych.dsl.load import load_recipe, load_text
from triptych.dsl.published import Form, Interleaved, Joined, Renamed, Squeezed, Transposed

TINY = Path(__file__).parent / "tiny.vlm"


@pytest.fixture(scope="module")
def state(tiny_job):
    return {name: tensor.clone() for name, tensor in tiny_job.lowered.module.state_dict().items()}


def loaded(recipe, path):
    return job(recipe, "chat", weights=Weights.open(recipe, path)).lowered.module.state_dict()


def assert_equal(ours, theirs):
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)


def test_a_file_with_our_names(recipe, state, tmp_path):
    save_file(state, tmp_path / "w.safetensors")
    assert_equal(loaded(recipe, tmp_path / "w.safetensors"), state)


def test_a_folder_of_published_files(recipe, state, tmp_path):
    published = names(recipe).published
    theirs = [(published[name], tensor) for name, tensor in state.items()]
    save_file(dict(theirs[:20]), tmp_path / "model-00001-of-00002.safetensors")
    save_file(dict(theirs[20:]), tmp_path / "model-00002-of-00002.safetensors")
    assert_equal(loaded(recipe, tmp_path), state)


FORMS: dict[str, tuple[Form, list[tuple[int, ...]]]] = {
    "renamed": (Renamed(target="a"), [(3, 4)]),
    "transposed": (Transposed(target="a"), [(3, 4)]),
    "squeezed": (Squeezed(target="a"), [(1, 1, 3, 4)]),
    "joined": (Joined(targets=("a", "b")), [(3, 4), (5, 4)]),
    "grouped": (Joined(targets=("a", "b", "c"), groups=2), [(12, 4), (4, 4), (4, 4)]),
    "joined_biases": (Joined(targets=("a", "b", "c"), groups=2), [(12,), (4,), (4,)]),
    "interleaved": (Interleaved(target="a", parts=3, groups=2), [(12, 4)]),
    "interleaved_bias": (Interleaved(target="a", parts=3, groups=2), [(12,)]),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_read_and_written(name):
    form, shapes = FORMS[name]
    ours = [torch.randn(shape) for shape in shapes]
    published = put_together(form, ours)
    assert published.shape == shape_of(form, shapes)
    back = taken_apart(form, published, shapes)
    assert all(torch.equal(one, other) for one, other in zip(ours, back, strict=True))


def test_groups_hold_a_share_of_each_tensor():
    """InternLM2: for each key-value head its query heads, its key, its value."""
    form = Joined(targets=("q", "k", "v"), groups=2)
    q, k, v = torch.arange(4), torch.tensor([10, 11]), torch.tensor([20, 21])
    assert put_together(form, [q, k, v]).tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_interleaved_rows_stand_head_by_head():
    form = Interleaved(target="qkv", parts=3, groups=2)
    qkv = torch.tensor([0, 1, 10, 11, 20, 21])
    assert put_together(form, [qkv]).tolist() == [0, 10, 20, 1, 11, 21]


JOINED = """
recipe joined extends {base} {{
  amend weights {{
    drop map "model.layers.*.mlp.gate_proj.*"
    drop map "model.layers.*.mlp.up_proj.*"
    drop map "visual.merger.mlp.0.*"
    add map "model.layers.*.mlp.gate_up_proj.*" -> joined(
      ["lm.blocks.*.mlp.gate.*", "lm.blocks.*.mlp.up.*"],
    )
    add map "visual.merger.fc.weight" -> transposed("merger.fc1.weight")
    add map "visual.merger.fc.bias" -> "merger.fc1.bias"
    {more}
  }}
}}
"""


def variant(more=""):
    text = TINY.read_text(encoding="utf-8")
    return load_text(text + JOINED.format(base="tiny", more=more), "tiny.vlm")


def test_a_checkpoint_in_another_form(state, tmp_path):
    recipe = variant()
    theirs = {name: tensor.contiguous() for name, tensor in as_published(recipe, state)}
    assert "model.layers.0.mlp.gate_up_proj.weight" in theirs
    save_file(theirs, tmp_path / "model.safetensors")
    assert_equal(loaded(recipe, tmp_path), state)


def test_a_tensor_whose_shape_differs_only_in_ones_is_refused(recipe, state, tmp_path):
    theirs = dict(as_published(recipe, state))
    name = "model.norm.weight"
    save_file(theirs | {name: theirs[name][None]}, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError, match=r"model.norm.weight is \[32\] here and \[1, 32\] there"):
        Weights.open(recipe, tmp_path)


def test_each_repository_has_a_folder_and_its_own_names(state, tmp_path):
    recipe = variant(
        """from = [hf("a/tower", under: "visual."), hf("a/text")]
        add ignore "visual.head.*" : "unused" """
    )
    theirs = {name: tensor.contiguous() for name, tensor in as_published(recipe, state)}
    tower = {
        name.removeprefix("visual."): tensor
        for name, tensor in theirs.items()
        if name.startswith("visual.")
    }
    text = {name: tensor for name, tensor in theirs.items() if not name.startswith("visual.")}
    for folder, content in (("tower", tower | {"head.bias": torch.zeros(2)}), ("text", text)):
        (tmp_path / folder).mkdir()
        save_file(content, tmp_path / folder / "model.safetensors")
    assert_equal(loaded(recipe, tmp_path), state)


def test_a_part_alone(recipe, state, tmp_path):
    tower = {name: tensor for name, tensor in state.items() if name.startswith("vit.")}
    save_file(dict(as_published(recipe, tower)), tmp_path / "model.safetensors")
    found = dict(Weights.open(recipe, tmp_path, ["vit"]).tensors())
    assert_equal(found, tower)
    with pytest.raises(WeightsError, match="tensors are missing"):
        Weights.open(recipe, tmp_path)


def test_parts_start_from_files_of_their_own(recipe, state, tmp_path):
    recipe = variant("""}
      amend lm { start = hf("a/text", under: "model.") vocab = lm.width * 4800 }
      amend tokens {""")
    theirs = dict(as_published(recipe, state))
    text = {
        name.removeprefix("model."): tensor.contiguous()
        for name, tensor in theirs.items()
        if name.startswith("model.")
    }
    save_file(text, tmp_path / "text.safetensors")
    save_file(state, tmp_path / "run.safetensors")
    found = starts(
        recipe, {"lm": tmp_path / "text.safetensors", "vit": tmp_path / "run.safetensors"}
    )
    assert {name.partition(".")[0] for name in found} == {"lm", "vit"}
    table, before = found["lm.embed.weight"], state["lm.embed.weight"]
    assert len(table) == 153600 and torch.equal(table[: len(before)], before)
    assert torch.allclose(table[-1], before.mean(0), atol=1e-6)
    assert all(torch.equal(found[n], state[n]) for n in found if n != "lm.embed.weight")
    with pytest.raises(WeightsError, match="has no part 'vot'; there is vit"):
        starts(recipe, {"vot": tmp_path})


def test_weights_are_written_as_they_were_published(state, tmp_path):
    recipe = tmp_path / "joined.vlm"
    text = TINY.read_text(encoding="utf-8") + JOINED.format(base="tiny", more="")
    recipe.write_text(text, encoding="utf-8")
    save_file(state, tmp_path / "run.safetensors")
    out = tmp_path / "out" / "model.safetensors"
    arguments = ["export", str(recipe), "--weights", str(tmp_path / "run.safetensors")]
    done = CliRunner().invoke(cli, [*arguments, "--out", str(out)])
    assert done.exit_code == 0, done.output
    written = load_file(out)
    assert written.keys() == published_shapes(variant()).keys()
    assert all(written[n].shape == shape for n, shape in published_shapes(variant()).items())
    assert_equal(loaded(variant(), out), state)
    done = CliRunner().invoke(cli, [*arguments, "--out", str(out), "--part", "merger"])
    assert done.exit_code == 0 and len(load_file(out)) == 6
    done = CliRunner().invoke(cli, [*arguments, "--out", str(out), "--part", "mergr"])
    assert "has no part 'mergr'; there is merger" in str(done.exception)


def test_a_pickle_is_never_opened(recipe, tmp_path):
    file = tmp_path / "pytorch_model.bin"
    file.write_bytes(b"")
    for path in (file, tmp_path):
        with pytest.raises(WeightsError, match=r"is a pickle.*weights_only=True"):
            Weights.open(recipe, path)


def test_a_run_that_is_done_and_one_that_is_not(recipe, state, tmp_path):
    checkpoint = tmp_path / "checkpoints" / "sft-00000010"
    checkpoint.mkdir(parents=True)
    save_file(state, checkpoint / "weights.safetensors")
    assert_equal(loaded(recipe, tmp_path), state)
    save_file(
        {name: tensor + 1 for name, tensor in state.items()}, tmp_path / "weights.safetensors"
    )
    assert not torch.equal(loaded(recipe, tmp_path)["lm.norm.weight"], state["lm.norm.weight"])


def test_all_that_does_not_fit_is_named_at_once(recipe, state, tmp_path):
    wrong = {name: tensor for name, tensor in state.items() if name != "merger.fc1.bias"}
    wrong |= {"lm.norm.weight": torch.zeros(7), "extra.weight": torch.zeros(1)}
    save_file(wrong, tmp_path / "w.safetensors")
    with pytest.raises(WeightsError) as caught:
        Weights.open(recipe, tmp_path / "w.safetensors")
    said = str(caught.value)
    assert "1 tensor is missing: merger.fc1.bias; there is merger.fc" in said
    assert "1 tensor is without a place in the recipe: extra.weight" in said
    assert "lm.norm.weight is [32] here and [7] there" in said


@pytest.mark.parametrize("content", [None, b"", b"not tensors"])
def test_what_holds_no_weights_is_said(recipe, tmp_path, content):
    path = tmp_path / "w.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(WeightsError, match=r"is not there|cannot be read as safetensors"):
        Weights.open(recipe, path)
    if content is None:
        with pytest.raises(WeightsError, match="holds no weights"):
            Weights.open(recipe, tmp_path)


def test_a_vocabulary_that_ships_needs_no_folder(recipe, tmp_path):
    assert resources(recipe, tmp_path) is None


def test_a_vocabulary_beside_the_weights_is_found(recipe, tmp_path):
    here = recipe.tokens.tokenizer.model_copy(update={"name": "own"})
    own = recipe.model_copy(update={"tokens": recipe.tokens.model_copy(update={"tokenizer": here})})
    with pytest.raises(ResourceError, match=r"own\.tiktoken.*is in none of"):
        resources(own, tmp_path)
    (tmp_path / "own.tiktoken").write_bytes(b"")
    assert resources(own, tmp_path) == tmp_path


FRESH = """
recipe mine extends "tiny.vlm" {{
  amend weights {{
    drop map "visual.merger.mlp.2.*"
    add fresh "merger.fc2.weight" : normal(0.5)
    add fresh "merger.fc2.bias" : filled(3)
  }}
}}
"""


@pytest.fixture
def renewed(tmp_path):
    """A recipe whose last layer of the merger nobody published."""
    (tmp_path / "tiny.vlm").write_text(TINY.read_text(encoding="utf-8"), encoding="utf-8")
    (tmp_path / "mine.vlm").write_text(FRESH.format(), encoding="utf-8")
    return load_recipe(str(tmp_path / "mine.vlm"))


def test_what_is_fresh_starts_as_the_weights_say(renewed):
    state = job(renewed, "chat", weights=0).lowered.module.state_dict()
    assert (state["merger.fc2.bias"] == 3).all()
    assert 0.4 < state["merger.fc2.weight"].std() < 0.6


def test_what_is_fresh_may_be_missing_where_training_starts_and_only_there(
    renewed, recipe, state, tmp_path
):
    published = names(recipe).published
    theirs = {published[n]: t for n, t in state.items() if not n.startswith("merger.fc2.")}
    save_file(theirs, tmp_path / "model.safetensors")
    found = dict(Weights.open(renewed, tmp_path / "model.safetensors", fresh=True).tensors())
    assert state.keys() - found.keys() == {"merger.fc2.weight", "merger.fc2.bias"}
    with pytest.raises(WeightsError, match="2 tensors are fresh, and not trained there: merger"):
        Weights.open(renewed, tmp_path / "model.safetensors")
    save_file(state, tmp_path / "run.safetensors")
    assert_equal(loaded(renewed, tmp_path / "run.safetensors"), state)
    written = dict(as_published(renewed, state))
    save_file({name: t.contiguous() for name, t in written.items()}, tmp_path / "out.safetensors")
    assert_equal(loaded(renewed, tmp_path / "out.safetensors"), state)
    assert not prove_checkpoint(renewed, tmp_path / "model.safetensors")


def test_a_checkpoint_is_held_against_the_map_by_its_headers(recipe, state, tmp_path):
    published = names(recipe).published
    theirs = {published[n]: t for n, t in state.items() if n != "lm.norm.weight"}
    theirs |= {"visual.pooler.weight": torch.zeros(2), published["merger.fc2.bias"]: torch.zeros(3)}
    save_file(theirs, tmp_path / "model.safetensors")
    found = prove_checkpoint(recipe, tmp_path / "model.safetensors")
    assert [diagnostic.code for diagnostic in found] == ["W808"] * 3
    titles = " ".join(diagnostic.title for diagnostic in found)
    for name in ("model.norm.weight", "visual.pooler.weight", "visual.merger.mlp.2.bias"):
        assert name in titles

"""An artefact answers as eager does, alone, and only when every byte of it is what was written."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from triptych.backends.aot import Aot
from triptych.backends.artefact import PACKAGE, Artefact
from triptych.backends.base import BackendError
from triptych.backends.exporting import exported
from triptych.backends.from_job import FromJob
from triptych.backends.job import job
from triptych.backends.manifest import MANIFEST, ArtefactError, Manifest, Target
from triptych.backends.packing import compared, writing
from triptych.backends.sampling import Sampling
from triptych.dsl.load import load_recipe

from .conftest import DIALOGUES, assert_same_methods, picture

UNWANTED = (
    *("lark", "networkx", "triptych.dsl", "triptych.compiler"),
    *("torch._inductor", "torch._dynamo"),
)
"""What an artefact runs without: the language, the compiler, and torch's own."""
RUNTIME = (
    *("torch", "torchgen", "numpy", "safetensors", "PIL", "tokenizers", "tiktoken"),
    *("tiktoken_ext", "regex", "pydantic", "pydantic_core", "annotated_types"),
    *("typing_extensions", "typing_inspection", "click", "rich"),
)
"""What an artefact runs with, beside Python itself and the blocks."""
ALONE = """
import sys

class Fresh:
    '''An environment that holds only what an artefact needs.'''

    def find_spec(self, name, path=None, target=None):
        own = sys.stdlib_module_names | {wanted!r} | {{"triptych"}}
        known = name.split(".")[0] in own or name.startswith("_sysconfigdata")
        if not known or name.startswith({unwanted!r}):
            raise ModuleNotFoundError(f"there is no {{name}} here", name=name)

sys.meta_path.insert(0, Fresh())
from triptych.cli.main import main

sys.argv = ["triptych", "run", "elsewhere", "--image", "a.png", "--prompt", "what?",
            "--max-new", "6", "--json"]
main()
"""
DRAWN = Sampling(temperature=1.0, top_p=0.9)


@pytest.fixture
def copy(artefact, tmp_path):
    """An artefact that a test may spoil."""
    return Path(shutil.copytree(artefact.folder, tmp_path / "copy"))


@pytest.mark.parametrize(
    "sizes",
    [
        {"batch": 1, "length": 2},
        {"batch": 2, "slots": 128},
        {"batch": 4, "length": 448, "slots": 512, "features": 2, "patches": 8},
        {"image.patches": 400, "video.patches": 4 * 333, "patches": 700, "features": 1000},
    ],
    ids=str,
)
def test_every_method_is_eagers(tiny_job, artefact, eager, sizes):
    assert_same_methods(tiny_job, artefact.executable, eager, 1e-5, **sizes)


def test_greedy_tokens_are_eagers(artefact, session):
    assert artefact.session().batch(DIALOGUES, new=10) == session.batch(DIALOGUES, new=10)


def test_drawn_tokens_are_eagers(artefact, session):
    ours = artefact.session().batch(DIALOGUES, new=6, sampling=DRAWN, seed=4)
    assert ours == session.batch(DIALOGUES, new=6, sampling=DRAWN, seed=4)


def test_the_manifest_says_what_was_built_and_what_was_executed(artefact, tiny_job):
    manifest = artefact.manifest
    code = manifest.files[PACKAGE]
    assert code.state == "executed"
    assert code.errors.keys() == tiny_job.methods.keys()
    assert all(error < 1e-4 for error in code.errors.values())
    assert {record.state for name, record in manifest.files.items() if ".pt2" in name} == {
        "built",
        "executed",
    }
    assert manifest.recipe.digest == tiny_job.digest
    assert manifest.methods["decode"].updated == (
        "cache.0.k",
        "cache.0.v",
        "cache.1.k",
        "cache.1.v",
    )


def test_weights_are_stored_once_and_programs_hold_none(artefact, tiny_job):
    state = tiny_job.lowered.module.state_dict()
    stored = 0
    for file in (artefact.folder / "weights").iterdir():
        with safe_open(file, framework="pt") as content:
            for name in content.keys():  # noqa: SIM118
                assert torch.equal(content.get_tensor(name), state[name])
                stored += 1
    assert stored == len(state)
    programs = sum(file.stat().st_size for file in (artefact.folder / "programs").iterdir())
    assert programs < 2e6 < sum(tensor.nbytes for tensor in state.values())


def test_it_runs_alone(artefact, tmp_path):
    """In a folder of its own, through the command, where the language, the compiler and all that
    is not needed to run cannot be imported."""
    shutil.copytree(artefact.folder, tmp_path / "elsewhere")
    picture(90, 60).save(tmp_path / "a.png")
    code = ALONE.format(wanted=set(RUNTIME), unwanted=UNWANTED)
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    session = artefact.session()
    from .conftest import asked

    (answer,) = session.batch([asked(picture(90, 60), "what?")], new=6)
    assert tuple(json.loads(done.stdout)["tokens"]) == answer.tokens


def test_a_byte_changed_in_any_file_is_refused_by_name(artefact, tmp_path):
    kinds = {Path(name).parts[0] for name in artefact.manifest.files}
    assert kinds == {"aoti", "kernels", "programs", "tokenizer", "weights"}
    copy = Path(shutil.copytree(artefact.folder, tmp_path / "copy"))
    for name in (MANIFEST, *artefact.manifest.files):
        whole = (copy / name).read_bytes()
        for place in (0, len(whole) // 2, len(whole) - 2):
            content = bytearray(whole)
            content[place] ^= 1
            (copy / name).write_bytes(content)
            with pytest.raises(ArtefactError, match=Path(name).name):
                Artefact(copy)
        (copy / name).write_bytes(whole)
    Artefact(copy)


def test_a_truncated_file_is_refused_by_name(copy):
    file = copy / "aoti" / "methods.pt2"
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(ArtefactError, match=r"methods\.pt2 has .* bytes and should have"):
        Artefact(copy)


def test_a_missing_file_is_named(copy):
    (copy / "programs" / "decode.pt2").unlink()
    with pytest.raises(ArtefactError, match=r"decode\.pt2 is missing"):
        Artefact(copy)


def test_a_foreign_file_is_named(copy):
    (copy / "aoti" / "extra.so").write_bytes(b"code")
    with pytest.raises(ArtefactError, match=r"extra\.so does not belong"):
        Artefact(copy)


def test_a_folder_that_is_none_is_refused(tmp_path):
    with pytest.raises(ArtefactError, match=r"is not an artefact: it has no manifest\.json"):
        Artefact(tmp_path)


def changed(folder: Path, **update: object) -> None:
    """Writes the manifest anew, digest and all, as another machine would have."""
    manifest = Manifest.read(folder / MANIFEST).model_copy(update=update)
    (folder / MANIFEST).write_text(manifest.text(), encoding="utf-8")


def test_code_for_another_processor_is_refused(copy):
    target = Target.here()
    changed(copy, target=target.model_copy(update={"features": (*target.features, "avx1024")}))
    said = r"compiled for avx1024: make code for this machine with `triptych compile .*copy --out"
    with pytest.raises(ArtefactError, match=said):
        _ = Artefact(copy).executable


def test_code_of_another_torch_is_refused(copy):
    changed(copy, versions={**Manifest.read(copy / MANIFEST).versions, "torch": "2.1.0"})
    with pytest.raises(
        ArtefactError, match=r"by torch 2\.1\.0.*`triptych compile .*copy --out NEW`"
    ):
        _ = Artefact(copy).executable


def test_a_manifest_of_a_later_format_is_refused(copy):
    content = json.loads((copy / MANIFEST).read_text())
    (copy / MANIFEST).write_text(json.dumps({**content, "format": content["format"] + 1}))
    with pytest.raises(ArtefactError, match=r"reads 3: run `triptych compile` again"):
        Artefact(copy)


def test_a_build_that_fails_leaves_nothing(tiny_job, tmp_path, monkeypatch):
    monkeypatch.setattr("triptych.backends.aot.compiled", lambda program, given: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        Aot().build(tiny_job, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_code_that_differs_from_eager_is_no_artefact(tiny_job, eager, artefact, monkeypatch):
    monkeypatch.setattr("triptych.backends.packing.difference", lambda ours, theirs: 0.5)
    with pytest.raises(BackendError, match=r"vision_image differs from eager by 0\.5"):
        compared(FromJob(tiny_job), eager, artefact.executable, tiny_job.limits)


def test_other_files_are_not_overwritten(tmp_path):
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ArtefactError, match="holds other files"), writing(tmp_path):
        pass
    assert (tmp_path / "thesis.txt").exists()


def test_an_artefact_is_replaced_in_one_step(copy):
    with writing(copy) as beside:
        (beside / MANIFEST).write_text("new")
        assert Artefact(copy)
    assert (copy / MANIFEST).read_text() == "new"
    assert [path.name for path in copy.parent.iterdir()] == [copy.name]


def test_the_largest_model_is_exported_without_weights():
    """Qwen2-VL 72B at its full width, two blocks of each kind: no tensor of it is allocated."""
    recipe = load_recipe("qwen2_vl_72b", amend=["lm.depth = 2", "vit.depth = 2"])
    large = job(recipe, "chat")
    assert not large.has_weights
    for name in large.methods:
        program = exported(large, name)
        assert not program.state_dict
        assert not program.constants
        assert program.range_constraints

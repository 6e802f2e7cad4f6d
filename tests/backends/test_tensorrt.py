"""What is decided before TensorRT is asked: tested without it, and the program against eager."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner
from torch.nn import functional

from triptych.backends import tensorrt
from triptych.backends.base import BackendError, Limit, Method, MissingError, Port
from triptych.backends.coverage import KEPT, converters, covered, known_here
from triptych.backends.eager import Eager
from triptych.backends.engine_build import request, settings
from triptych.backends.engine_programs import _attend, binding_names, engine_limits, profile
from triptych.backends.engines import Binding, Engine, StaleCacheError, require_aliases
from triptych.backends.evidence import evidence
from triptych.backends.from_job import FromJob
from triptych.backends.generation import Session
from triptych.backends.job import job
from triptych.backends.manifest import ArtefactError
from triptych.backends.probe import difference
from triptych.backends.repeated import rounds
from triptych.backends.tensorrt import TensorRT
from triptych.cli.compile import compile_command
from triptych.cli.coverage import reached_level
from triptych.dsl.load import load_recipe

from .conftest import TINY, operators_of_program

PAGE = Path(__file__).resolve().parents[2] / "docs/tensorrt.md"

CONVERTERS = """
@dynamo_tensorrt_converter(torch.ops.aten.linear.default, supports_dynamic_shapes=True)
@dynamo_tensorrt_converter(torch.ops.aten.cat.default, capability_validator=cat_validator)
def convert(ctx): ...
"""


@pytest.fixture(scope="module")
def limits(tiny_job):
    return engine_limits(tiny_job.limits, tiny_job.spec, batch=2, slots=128)


def test_without_a_gpu_it_says_what_is_missing(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    missing = TensorRT().missing()
    assert missing
    assert "an NVIDIA GPU that torch can use" in missing.lacks
    assert "pip install 'triptych[tensorrt]'" in str(missing)


def test_an_old_torch_tensorrt_is_missing(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: object())
    monkeypatch.setattr("importlib.metadata.version", lambda name: "2.13.0")
    assert any("this is 2.13.0, which bakes caches in" in line for line in tensorrt.lacking())


@pytest.mark.parametrize("name", ["vision_image", "vision_video", "project", "prefill", "decode"])
def test_a_program_is_the_method(tiny_job, eager, limits, name):
    """Caches as values, masked attention, tensors one after another: what eager yields."""
    state = tiny_job.lowered.module.state_dict()
    operators = operators_of_program(FromJob(tiny_job), state, eager, limits, name)
    assert "triptych.kv_update.default" not in operators
    assert "triptych.segment_attention.default" not in operators


@pytest.mark.parametrize(
    ("recipe", "name", "gone"),
    [
        ("deepseek_vl_tiny", "vision_image", None),
        ("internvl_chat_qllama_tiny", "project", "aten.gather.default"),
    ],
    ids=["values narrower than keys", "rows picked by number"],
)
def test_what_a_converter_would_refuse_takes_another_form(recipe, name, gone):
    """Both refusals were found by a dry run; `test_engines` asks it again."""
    small = job(load_recipe(recipe), "chat", weights=0)
    sizes = engine_limits(small.limits, small.spec, 1, None)
    state, eager = small.lowered.module.state_dict(), Eager().compile(small)
    assert gone not in operators_of_program(FromJob(small), state, eager, sizes, name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize(("width", "values"), [(12, 12), (12, 10), (16, 16), (20, 20)])
def test_heads_of_any_width_are_filled_up(width, values, dtype):
    """The builder refuses other widths in 16 bits; `test_engines` builds a model that has them."""
    torch.manual_seed(0)
    q, k = torch.randn(1, 4, 5, width, dtype=dtype), torch.randn(1, 2, 9, width, dtype=dtype)
    v = torch.randn(1, 2, 9, values, dtype=dtype)
    mask = torch.rand(1, 1, 5, 9) > 0.3
    mask[..., 0] = True
    theirs = functional.scaled_dot_product_attention(q, k, v, mask, enable_gqa=True)
    ours = _attend(q, k, v, mask, enable_gqa=True)
    assert ours.shape == theirs.shape
    assert difference({"y": ours}, {"y": theirs}) < torch.finfo(dtype).eps * 4


def test_every_cache_is_an_input_and_an_output(tiny_job):
    inputs, outputs = binding_names(tiny_job.methods["decode"])
    caches = [name for name in inputs if name.startswith("cache.")]
    assert len(caches) == 4
    assert outputs == ("logits", *(f"updated.{name}" for name in caches))


def test_profiles_come_from_the_limits(tiny_job, limits):
    ports = tiny_job.methods["prefill"].inputs
    tokens = profile(ports["text.tokens"], limits)
    assert (tokens.least, tokens.usual, tokens.most) == ((2, 2), (2, 256), (2, 448))
    assert profile(ports["cache.0.k"], limits).static
    assert profile(Port((3, 4), torch.float32), limits).most == (3, 4)


def test_a_tower_is_built_for_its_largest_picture(limits):
    """64 tokens of 28 x 28 pixels are 256 patches of 14 x 14; a frame of the clip has 16."""
    assert limits["image.patches"].high == 256
    assert limits["video.patches"].high == 64
    assert limits["patches"].high == 256


def test_a_cache_outside_the_limits_is_refused(tiny_job):
    with pytest.raises(BackendError, match="slots 1024 is outside what the mode allows: 32 to 512"):
        engine_limits(tiny_job.limits, tiny_job.spec, batch=1, slots=1024)


def test_a_mask_is_not_taken_for_causal(tmp_path):
    chosen = settings(torch.bfloat16, tmp_path)
    assert chosen["attn_bias_is_causal"] is False
    assert chosen["min_block_size"] == 1
    assert chosen["require_full_compilation"] is True
    assert all(
        chosen[key].startswith(str(tmp_path)) for key in chosen if key.endswith(("dir", "path"))
    )


@pytest.mark.parametrize(
    ("dtype", "accumulates", "tf32"),
    [(torch.float32, False, False), (torch.bfloat16, False, True), (torch.float16, True, True)],
)
def test_the_precision_is_the_programs(tmp_path, dtype, accumulates, tf32):
    chosen = settings(dtype, tmp_path)
    assert (chosen["use_fp32_acc"], not chosen["disable_tf32"]) == (accumulates, tf32)


def test_an_engine_that_leaves_a_cache_stale_is_refused():
    port = Port(("batch", 2, "slots", 16), torch.float32)
    method = Method("decode", {"cache.0.k": port, "cache.0.v": port}, ("logits",), ())
    both = {"updated.cache.0.k": "cache.0.k", "updated.cache.0.v": "cache.0.v"}
    require_aliases(method, both)
    for aliased in (
        {},
        {**both, "updated.cache.0.v": ""},
        {**both, "updated.cache.0.v": "cache.0.k"},
    ):
        with pytest.raises(StaleCacheError, match=r"decode would not update .*cache\.0\.v"):
            require_aliases(method, aliased)


def test_converters_are_read_from_source(tmp_path):
    folder = tmp_path / "torch_tensorrt/dynamo/conversion"
    folder.mkdir(parents=True)
    (folder / "aten_ops_converters.py").write_text(CONVERTERS)
    known = converters(tmp_path)
    assert known.keys() == {"aten.linear.default", "aten.cat.default"}
    assert (known["aten.linear.default"].dynamic, known["aten.linear.default"].conditional) == (
        True,
        False,
    )
    assert (known["aten.cat.default"].dynamic, known["aten.cat.default"].conditional) == (
        False,
        True,
    )


@pytest.fixture(scope="module")
def told(tiny_job, limits, tmp_path_factory):
    """What is known by a table of two converters."""
    wheel = tmp_path_factory.mktemp("wheel")
    folder = wheel / "torch_tensorrt/dynamo/conversion"
    folder.mkdir(parents=True)
    (folder / "aten_ops_converters.py").write_text(CONVERTERS)
    return evidence(FromJob(tiny_job), converters(wheel), limits)


def test_what_is_not_listed_is_counted_in_its_part(tiny_job, told):
    assert told.keys() == tiny_job.methods.keys()
    merger = told["project"].listed["merger"]
    assert merger.listed == 2
    assert merger.calls == merger.listed + sum(merger.unlisted.values())
    assert {"vit.patch_embed", "vit.blocks"} < told["vision_image"].listed.keys()
    assert {"lm.embed", "lm.blocks", "lm.norm", "lm.head"} < told["decode"].listed.keys()


def test_blocks_that_repeat_are_counted_from_a_few():
    """What is told of four blocks, or of four times two, is what the whole of them has."""
    deep = job(load_recipe("minigpt4_tiny", amend=["qformer.depth=8", "lm.depth=4"]), "chat")
    limits = engine_limits(deep.limits, deep.spec, 1, None)
    _, known = known_here()
    assert rounds(deep) == {"qformer": 4, "lm.blocks": 4}
    told = evidence(FromJob(deep), known, limits)
    for method in ("project", "decode"):
        whole = covered(request(FromJob(deep), method, limits).program, known)
        counts = [sum(one.calls for one in by.values()) for by in (told[method].listed, whole)]
        assert counts[0] == counts[1]


def test_the_table_that_is_kept_is_of_a_release_that_updates_caches():
    _, known = known_here()
    assert {"aten.scaled_dot_product_attention.default", "aten.linear.default"} < known.keys()
    assert "torch_tensorrt_rtx-2.14.0" in KEPT.read_text()
    assert known["aten.clone.default"].dynamic, "the second of its two converters is not"
    assert not known["aten.gather.default"].dynamic
    assert len(known) > 200


@pytest.mark.parametrize(
    "name",
    [
        "minigpt4_tiny",
        "qwen_vl_tiny",
        "internvl_14b_tiny",
        "internvl_chat_qllama_tiny",
        "internvl_1_5_tiny",
        "deepseek_vl_tiny",
        "qwen2_vl_tiny",
    ],
)
def test_towers_adapters_and_decoders_are_listed_whole(name):
    """By the kept table; what would block is named with its part. And the page has a row of it."""
    recipe = load_recipe(name)
    mode = next(iter(recipe.modes))
    small = job(recipe, mode)
    _, known = known_here()
    limits = engine_limits(small.limits, small.spec, 1, None)
    found = evidence(FromJob(small), known, limits)
    assert not {
        (method, part, operator)
        for method, one in found.items()
        for part, listed in one.listed.items()
        for operator in listed.unlisted
    }
    page = PAGE.read_text(encoding="utf-8")
    for method, one in found.items():
        assert all(part.calls for part in one.listed.values())
        row = rf"\| `{name}` \| {mode} \| {method} \| (\d+) of \1 \| (\d+) of \2 \| 1 \|"
        assert re.search(row, page), method


def test_what_is_not_installed_is_said(monkeypatch):
    """The names are still told; what was asked for and cannot be had is an error."""
    lacks = ["torch-tensorrt-rtx"]
    monkeypatch.setattr("triptych.backends.offline.lacking_offline", lambda: lacks)
    reached, why = reached_level("sm89", None)
    assert reached == "listed"
    assert "not installed here: torch-tensorrt-rtx; pip install --no-deps" in why["accepted"]
    assert why["accepted"] == why["built"]
    with pytest.raises(MissingError, match="--evidence built cannot be had"):
        reached_level("sm89", "built")


def test_engines_are_asked_for_a_target():
    asked = [TINY, "--backend", "tensorrt", "--report-only", "--evidence", "built"]
    said = CliRunner().invoke(compile_command, asked)
    assert said.exit_code == 2
    assert "--evidence built is asked for a --target" in said.output


def test_an_engines_file_says_what_it_is_bound_to():
    bindings = {"x": Binding.of(Port((1, "n"), torch.int64), (1, 2), (1, 8))}
    engine = Engine(b"plan\n\x00", "sm89", bindings, ("y",), {"updated.cache.0": "cache.0"})
    assert Engine.parse(engine.content()) == engine
    for damaged in (b"", b"plan", engine.content()[:40]):
        with pytest.raises(ArtefactError):
            Engine.parse(damaged)


def test_the_report_names_what_blocks_with_its_line(told, monkeypatch):
    monkeypatch.setattr("triptych.backends.evidence.evidence", lambda *asked: told)
    asked = [TINY, "--backend", "tensorrt", "--target", "sm90", "--report-only"]
    asked += ["--evidence", "listed"]
    said = CliRunner().invoke(compile_command, asked)
    assert said.exit_code == 0, said.output
    (line,) = [
        line
        for line in said.output.splitlines()
        if line.startswith("decode: aten.embedding.default has no converter")
    ]
    place = load_recipe(TINY).span("lm.embed")
    assert line.endswith(f"(lm.embed, {place})")
    assert "sm90, declared and not detected" in said.output
    data = json.loads(CliRunner().invoke(compile_command, [*asked, "--json"]).stdout)
    assert data["levels"].keys() == {"listed", "accepted", "built"}
    assert data["levels"]["built"] == "not asked for"
    assert {"method": "decode", "part": "lm.embed", "operator": "aten.embedding.default"} in [
        {key: one[key] for key in ("method", "part", "operator")} for one in data["blocking"]
    ]


@pytest.mark.parametrize("target", ["90", "sm9", "hopper"])
def test_a_target_is_a_compute_capability(target):
    said = CliRunner().invoke(compile_command, [TINY, "--target", target, "--report-only"])
    assert said.exit_code == 2
    assert "write it as sm90" in said.output


@pytest.mark.gpu
def test_engines_are_eagers_on_a_gpu(tiny_job, session, tmp_path):
    """Needs a GPU and torch-tensorrt 2.14: every method, then greedy tokens over several steps."""
    backend = TensorRT()
    if missing := backend.missing():
        pytest.skip(str(missing))
    from .conftest import DIALOGUES

    artefact = backend.build(tiny_job, tmp_path / "engines")
    assert {
        record.state for name, record in artefact.manifest.files.items() if "engine" in name
    } == {"executed"}
    built = artefact.session()
    assert isinstance(built, Session)
    assert built.batch(DIALOGUES, new=10) == session.batch(DIALOGUES, new=10)


def test_limits_are_those_of_one_engine(limits):
    assert limits["batch"] == Limit(2, 2)
    assert limits["slots"] == Limit(128, 128)

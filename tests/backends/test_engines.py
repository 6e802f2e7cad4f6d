"""Engines of small models, built by TensorRT for RTX for a GPU that is declared; none is executed.

Needs the wheels of constraints-tensorrt.txt (`make tensorrt`).
"""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner
from torch import nn

from triptych.backends.base import BackendError, Limit, Method, Port
from triptych.backends.engine_build import Request, build_engine, dry_run, request, settings
from triptych.backends.engine_programs import engine_limits
from triptych.backends.engines import Engine, StaleCacheError
from triptych.backends.exporting import export_flat
from triptych.backends.from_job import FromJob
from triptych.backends.job import job
from triptych.backends.offline import REMEDY, asking, declared, lacking_offline
from triptych.cli.compile import compile_command
from triptych.cli.coverage import reached_level
from triptych.dsl.load import load_recipe

from .conftest import TINY

TARGET = "sm89"
pytestmark = pytest.mark.skipif(
    bool(lacking_offline()),
    reason=f"not installed: {', '.join(lacking_offline())}; {REMEDY}",
)


def asked(recipe: str, *options: str):
    """What the report says of a recipe, as data."""
    options = ("--backend", "tensorrt", "--target", TARGET, "--report-only", "--json", *options)
    said = CliRunner().invoke(compile_command, [recipe, *options])
    assert said.exit_code == 0, said.output
    return json.loads(said.stdout)


BUILT = [(TINY, "bf16"), ("minigpt4_tiny", "f16")]
"""A packed tower; and a dense one with queries behind it, and heads 12 numbers wide, of which the
builder makes nothing in float16 as they are. docs/tensorrt.md has the others, in float32."""


@pytest.fixture(scope="module", params=BUILT, ids=["qwen2_vl", "minigpt4"])
def report(request):
    """What is told of a recipe whose engines are built."""
    recipe, dtype = request.param
    return asked(recipe, "--dtype", dtype, "--evidence", "built")


def test_every_method_becomes_one_engine(report):
    """Whole: what stays in torch would be a second engine, and copies between the two."""
    assert report["evidence"] == "built"
    assert not report["blocking"]
    for name, method in report["methods"].items():
        assert method["engines"] == 1, name
        assert method["built"]["target"] == TARGET
        assert method["built"]["bytes"] > 100_000
        for part, known in method["parts"].items():
            for level in ("listed", "accepted"):
                if known[level] is not None:
                    assert known[level]["calls"] == known[level][level], (name, part)
            assert known["built"] == (known["accepted"] and known["accepted"]["calls"])
    assert {"prefill", "decode"} < report["methods"].keys()


def test_every_cache_is_updated_in_place(report):
    """By the network that was built: a layer that writes into an input, and is an output."""
    for method in report["methods"].values():
        caches = [name for name in method["built"]["inputs"] if name.startswith("cache.")]
        assert method["built"]["aliased"] == {f"updated.{name}": name for name in caches}
    assert len(report["methods"]["decode"]["built"]["aliased"]) == 4


def test_weights_are_inputs(report):
    """An engine of any size of model is small, and one copy of the weights serves them all."""
    built = report["methods"]["decode"]["built"]
    weight = built["inputs"]["lm.blocks.0.attn.q.weight"]
    assert weight["least"] == weight["most"] == weight["sizes"]
    shared = built["inputs"].keys() & report["methods"]["prefill"]["built"]["inputs"].keys()
    assert "lm.blocks.0.attn.q.weight" in shared


@pytest.mark.parametrize(
    ("recipe", "name"),
    [("deepseek_vl_tiny", "vision_image"), ("internvl_chat_qllama_tiny", "project")],
)
def test_what_was_refused_is_accepted_in_another_form(recipe, name, tmp_path):
    """Attention whose values are narrower than its keys; rows picked by number of free sizes."""
    small = job(load_recipe(recipe), "chat")
    limits = engine_limits(small.limits, small.spec, 1, None)
    tried = dry_run(request(FromJob(small), name, limits), tmp_path, TARGET)
    assert tried.engines == 1
    assert not any(part.refused for part in tried.parts.values())


def test_a_prompt_has_a_range_and_a_token_has_none(report):
    prefill = report["methods"]["prefill"]["built"]["inputs"]["text.tokens"]
    decode = report["methods"]["decode"]["built"]["inputs"]["text.tokens"]
    assert prefill["least"][1] < prefill["most"][1]
    assert decode["least"] == decode["most"]


def test_a_target_that_it_does_not_build_for_is_said():
    """The dry run is the most that can be had of it; an engine for another GPU is none for it."""
    reached, why = reached_level("sm90", "built")
    assert reached == "accepted"
    assert "builds for sm75, sm80, sm86, sm89" in why["built"]
    assert "and not for sm90: standard TensorRT does" in why["built"]
    assert reached_level("sm89", None)[0] == "accepted"
    assert reached_level("sm89", "built")[0] == "built"


def asked_of(module: nn.Module, *given: Port, caches=(), limits=None) -> Request:
    """A program that is no method of a recipe."""
    limits = limits or {}
    made = export_flat(module, given, limits)
    inputs = {f"cache.{i}" if i in caches else f"x{i}": port for i, port in enumerate(given)}
    method = Method("made", inputs, ("y",), ())
    return Request(method, made, list(given), limits, torch.float32)


class Repeated(nn.Module):
    """As many copies as there are rows of another input."""

    def forward(self, x, rows):
        """[1, 4] and [n, 2] to [n, 4]."""
        return (x.repeat(rows.shape[0], 1) + rows[:, :1],)


def test_what_a_dry_run_accepts_may_fail_to_build(tmp_path):
    """Trap 4: a repeat whose count is a size. So a level says no more than it is."""
    limits = {"n": Limit(2, 16)}
    asked = asked_of(
        Repeated(), Port((1, 4), torch.float32), Port(("n", 2), torch.float32), limits=limits
    )
    tried = dry_run(asked, tmp_path, TARGET)
    assert all(not part.refused for part in tried.parts.values())
    with pytest.raises(BackendError, match="TensorRT cannot build made"):
        build_engine(asked, tmp_path, TARGET)


class Scattered(nn.Module):
    """Writes into a cache in a way that TensorRT knows no in-place layer for."""

    def forward(self, cache, new):
        """[1, 2, 8, 4] and [1, 2, 1, 4]: a sum over the cache, and the cache."""
        slot = torch.full_like(new, 3, dtype=torch.int64)
        updated = cache.scatter(2, slot, new)
        return updated.sum(2), updated


def test_an_engine_that_would_leave_a_cache_stale_is_refused(tmp_path):
    """Trap 3: it builds, and nothing but the alias map shows that the cache is not updated."""
    cache, new = Port((1, 2, 8, 4), torch.float32), Port((1, 2, 1, 4), torch.float32)
    asked = asked_of(Scattered(), cache, new, caches=(0,))
    assert dry_run(asked, tmp_path, TARGET).engines == 1
    with pytest.raises(StaleCacheError, match=r"made would not update cache\.0 in place"):
        build_engine(asked, tmp_path, TARGET)


class Masked(nn.Module):
    """Attention behind a mask of two blocks, as torch's CUDA kernel takes it."""

    def forward(self, q, mask):
        """[1, 2, 8, 16] and [1, 2, 8, 8] to the first."""
        attend = torch.ops.aten._scaled_dot_product_efficient_attention.default
        return (attend(q, q, q, mask, False)[0],)


def test_a_mask_reaches_the_engine_as_a_mask(tmp_path):
    """Trap 1: by default any mask with equal lengths would become a causal one."""

    def masks(**options):
        with torch.device("meta"):
            given = torch.empty(1, 2, 8, 16), torch.empty(1, 2, 8, 8)
        graph = torch.fx.symbolic_trace(Masked())
        for node, value in zip(graph.graph.nodes, given, strict=False):
            node.meta["val"] = value
        with asking(TARGET):
            from torch_tensorrt.dynamo._settings import CompilationSettings
            from torch_tensorrt.dynamo.lowering.passes.force_causal_efficient_attention import (
                force_causal_efficient_attention,
            )

            lowered = force_causal_efficient_attention(graph, CompilationSettings(**options))
        return [node.args[3] for node in lowered.graph.nodes if "efficient" in str(node.target)]

    ours = settings(torch.float32, tmp_path)["attn_bias_is_causal"]
    assert [str(mask) for mask in masks(attn_bias_is_causal=ours)] == ["mask"]
    assert masks() == [None], "the default is no trap any more: say so in the documentation"


class Small(nn.Module):
    """Three operators: fewer than torch-tensorrt makes an engine of by default."""

    def forward(self, x):
        """As it came."""
        return (torch.relu(x * 2) + 1,)


def test_a_small_module_is_an_engine_too(tmp_path):
    """Trap 5: below `min_block_size`, 5 by default, all would stay in torch."""
    assert dry_run(asked_of(Small(), Port((4, 4), torch.float32)), tmp_path, TARGET).engines == 1


def test_what_is_declared_is_forgotten_again():
    before = torch.cuda.get_device_capability
    with declared("sm120"):
        assert torch.cuda.get_device_capability() == (12, 0)
        assert torch.cuda.get_device_properties(0).name == "declared sm120"
    assert torch.cuda.get_device_capability is before


def test_an_engine_is_read_as_it_was_written(tmp_path):
    """Its bytes, and what they must be bound to."""
    made = build_engine(asked_of(Small(), Port((4, 4), torch.float32)), tmp_path, TARGET).engine
    assert Engine.parse(made.content()) == made
    assert made.inputs["x0"].most == (4, 4)

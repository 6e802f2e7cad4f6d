"""Operations say what they yield, and refuse what they cannot take."""

from __future__ import annotations

import pytest

from triptych.compiler.ops import (
    MLP,
    OPERATIONS,
    Cache,
    Concat,
    CrossEntropy,
    DecoderBlocks,
    Embed,
    Head,
    Linear,
    MapPositions,
    MergeMLP,
    MisfitError,
    Norm,
    PatchEmbed,
    PixelShuffle,
    QFormer,
    RegionWords,
    Resampler,
    SamBlocks,
    SamNeck,
    Splice,
    SplitMLP,
    TakeLast,
    TakeRows,
    VisionBlocks,
)
from triptych.compiler.types import TensorType as T

DECODER = DecoderBlocks(2, 8, 4, 2, 2, 16, "silu", "rmsnorm", 1e-6, qkv_bias=True)
TOWER = VisionBlocks(2, 8, 2, 16, "gelu", "layernorm", 1e-6, qkv_bias=True, rotary=True)
QUERIES = QFormer(3, 4, 4, 8, 2, 16, "gelu", "layernorm", 1e-12, 2)
RESAMPLER = Resampler((2, 2), (3, 4), 8, 4, 2, 10, "layernorm", 1e-6)
SAM = SamBlocks(3, 8, 2, 16, "gelu", "layernorm", 1e-6, True, (3, 4), 2, (1,), taps=(0, 2))
NECK = SamNeck(2, 8, (3, 4), 5, "layernorm", 1e-6, (9, 6), (6, 7), 0.5)
SPLIT = SplitMLP((8, 6), 4, 9, "gelu")
MAP = T(("m", 12, 8))
ROWS, TEXT, IDS = T(("n", 8)), T(("batch", "length", 8)), T(("batch", "length"), "i64")
TABLE, LAST = T(("batch", "length", 2), "f32"), T(("batch",), "i64")


@pytest.mark.parametrize(
    ("op", "inputs", "result"),
    [
        (PatchEmbed(8, 3, 2, 4, bias=False), [T(("n", 96))], "float[n, 8]"),
        (PatchEmbed(8, 3, 2, 4, bias=False, folded=True), [T(("n", 48))], "float[n, 8]"),
        (TOWER, [ROWS, T(("n",)), T(("n", 4)), T(("n", 4))], "float[n, 8]"),
        (MergeMLP(4, 8, 32, 6, "gelu", "layernorm", 1e-6), [ROWS], "float[n // 4, 6]"),
        (QUERIES, [T(("m", 5, 8))], "float[m, 3, 4]"),
        (RESAMPLER, [T(("m", 12, 8))], "float[m, 4, 10]"),
        (MapPositions(8, (3, 4)), [MAP], "float[m, 12, 8]"),
        (SAM, [MAP], "float[2, m, 12, 8]"),
        (NECK, [MAP, MAP], "float[m, 6, 7]"),
        (PixelShuffle((4, 6), 2), [T(("m", 24, 8))], "float[m, 6, 32]"),
        (Linear(8, 5, bias=True), [MAP], "float[m, 12, 5]"),
        (MLP(8, 16, 5, "gelu"), [ROWS], "float[n, 5]"),
        (SPLIT, [MAP, T(("m", 12, 6))], "float[m, 12, 9]"),
        (Embed(9, 8), [IDS], "float[batch, length, 8]"),
        (Concat(), [ROWS, T(("m", 8)), ROWS], "float[m + 2 * n, 8]"),
        (Splice(), [TEXT, ROWS, IDS], "float[batch, length, 8]"),
        (DECODER, [TEXT, TABLE, TABLE, IDS], "float[batch, length, 8]"),
        (Cache(2, 2, 2), [], "float[2, 2, batch, 2, slots, 2]"),
        (Norm("rmsnorm", 8, 1e-6), [TEXT], "float[batch, length, 8]"),
        (TakeRows(), [TEXT, T(("k",))], "float[k, 8]"),
        (TakeLast(), [TEXT, LAST], "float[batch, 8]"),
        (TakeLast(), [TEXT], "float[batch, 8]"),
        (Head(9, 8, tied=False), [T(("k", 8))], "float[k, 9]"),
        (CrossEntropy(), [T(("k", 9)), T(("k",)), T(("k",))], "f32[]"),
        (
            RegionWords(0.07),
            [ROWS, T(("r", "n")), T(("c", "w", 8)), T(("c", "w")), T(("r",)), T(("r",))],
            "f32[]",
        ),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_yields(op, inputs, result):
    assert str(op.result(*inputs)) == result


@pytest.mark.parametrize(
    ("op", "inputs", "port", "wanted"),
    [
        (PatchEmbed(8, 3, 2, 4, bias=False), [T(("n", 95))], 0, "96 wide"),
        (TOWER, [ROWS, T(("m",)), T(("n", 4)), T(("n", 4))], 1, "[n]"),
        (TOWER, [ROWS, T(("n",)), T(("n", 4)), T(("n", 8))], 3, "[n, 4]"),
        (QUERIES, [T(("m", 5, 9))], 0, "[any, any, 8]"),
        (RESAMPLER, [T(("m", 13, 8))], 0, "[any, 12, 8]"),
        (SAM, [T(("m", 13, 8))], 0, "[any, 12, 8]"),
        (NECK, [MAP, T(("m", 12, 9))], 1, "[m, 12, 8]"),
        (MLP(8, 16, 5, "gelu"), [T(("n", 7))], 0, "8 wide"),
        (SPLIT, [MAP, T(("m", 13, 6))], 1, "[m, 12, 6]"),
        (Concat(), [ROWS, T(("m", 9))], 1, "[any, 8]"),
        (Splice(), [TEXT, T(("n", 9)), IDS], 1, "[any, 8]"),
        (DECODER, [TEXT, TABLE, TABLE, T(("batch",))], 3, "[batch, length]"),
        (Head(9, 7, tied=False), [TEXT], 0, "7 wide"),
        (CrossEntropy(), [T(("k", 9)), T(("j",)), T(("k",))], 1, "[k]"),
    ],
    ids=lambda value: value.name if hasattr(value, "name") else "",
)
def test_refuses(op, inputs, port, wanted):
    with pytest.raises(MisfitError) as caught:
        op.result(*inputs)
    assert (caught.value.port, caught.value.wanted) == (port, wanted)


def test_a_cache_belongs_to_its_blocks():
    cached = DecoderBlocks(2, 8, 4, 2, 2, 16, "silu", "rmsnorm", 1e-6, qkv_bias=True, cached=True)
    given = [TEXT, TABLE, TABLE, IDS, LAST]
    assert cached.result(*given, Cache(2, 2, 2).result()) == TEXT
    with pytest.raises(MisfitError):
        cached.result(*given, Cache(3, 2, 2).result())


def test_a_norm_has_a_shift_only_where_its_kind_has():
    assert list(Norm("layernorm", 8, 1e-6).parameters()) == ["weight", "bias"]
    assert list(Norm("rmsnorm", 8, 1e-6).parameters()) == ["weight"]


def test_scales_start_at_one_and_shifts_at_zero():
    kinds = {name: str(param.init) for name, param in TOWER.parameters().items()}
    assert kinds["0.norm1.weight"] == "ones"
    assert kinds["0.norm1.bias"] == kinds["0.attn.qkv.bias"] == "zeros"
    assert kinds["1.mlp.fc1.weight"] == "fan_in"


def test_rows_of_distances_fit_the_window_or_the_whole_map():
    shapes = {name: param.shape for name, param in SAM.parameters().items()}
    assert shapes["0.attn.rel_pos_h"] == shapes["2.attn.rel_pos_w"] == (3, 4)
    assert (shapes["1.attn.rel_pos_h"], shapes["1.attn.rel_pos_w"]) == ((5, 4), (7, 4))


def test_a_neck_has_a_gate_for_each_further_map():
    gate = NECK.parameters()["gate"]
    assert (gate.shape, str(gate.init)) == ((1,), "constant(0.5)")
    alone = SamNeck(1, 8, (3, 4), 5, "layernorm", 1e-6, (9, 6), (6, 7), 0.5)
    assert "gate" not in alone.parameters()


def test_a_tied_head_owns_nothing():
    assert Head(9, 8, tied=True).parameters() == {}


def test_the_table_lists_each_operation_under_its_name():
    assert all(operation.name == name for name, operation in OPERATIONS.items())

"""Each pass does to a graph what its name says, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import pytest

from triptych.compiler.passes.add_losses import AddLosses, MatchRegions, NextToken, Objective
from triptych.compiler.passes.drop_unused import DropUnused
from triptych.compiler.passes.fold_still_frames import FoldStillFrames
from triptych.compiler.passes.freeze import Freeze
from triptych.compiler.passes.infer_shapes import InferShapes
from triptych.compiler.passes.keep_cache import KeepCache
from triptych.compiler.passes.place_precisions import PlacePrecisions
from triptych.compiler.passes.place_tokens import PlaceTokens
from triptych.compiler.passes.score_last import ScoreLast
from triptych.compiler.passes.split_blocks import SplitBlocks
from triptych.compiler.passes.split_methods import SplitInference, SplitTraining
from triptych.compiler.passes.tie_weights import TieWeights
from triptych.compiler.text import read_graph, text, text_of_methods
from triptych.compiler.types import Symbol, total
from triptych.compiler.verify import verify
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.kinds import Selector, SelectorStep

TOWER = """
    %image.patches = input {still = true, medium = image} : f32[image.patches, 96]
    %image.segment_id = input : i64[image.patches]
    %image.cos = input : f32[image.patches, 4]
    %image.sin = input : f32[image.patches, 4]
    %vit.patch_embed = patch_embed %image.patches
        {width = 8, channels = 3, frames = 2, patch = 4, bias = false}
    %vit.blocks = vision_blocks %vit.patch_embed %image.segment_id %image.cos %image.sin
        {depth = 1, width = 8, heads = 2, ffn = 16, act = gelu, norm = layernorm, eps = 1e-06,
         qkv_bias = true, rotary = true}
    %merger = merge_mlp %vit.blocks
        {area = 4, width = 8, hidden = 32, out = 12, act = gelu, norm = layernorm, eps = 1e-06}
"""
DECODER = """
    %text.tokens = input : i64[batch, length]
    %lm.embed = embed %text.tokens {vocab = 9, width = 12}
    %text.feature_index = input : i64[batch, length]
    %lm.splice = splice %lm.embed %merger %text.feature_index
    %text.cos = input : f32[batch, length, 6]
    %text.sin = input : f32[batch, length, 6]
    %text.segment_id = input : i64[batch, length]
    %lm.blocks = decoder_blocks %lm.splice %text.cos %text.sin %text.segment_id
        {depth = 1, width = 12, heads = 2, kv_heads = 1, head_dim = 6, ffn = 24, act = silu,
         norm = rmsnorm, eps = 1e-06, qkv_bias = true}
    %lm.norm = norm %lm.blocks {kind = rmsnorm, width = 12, eps = 1e-06}
    %lm.head = head %lm.norm {vocab = 9, width = 12, tied = true}
    return logits = %lm.head
"""


@pytest.fixture
def whole():
    """A tower, an adapter and a decoder, with types."""
    return InferShapes().run(read_graph(TOWER + DECODER))


def test_infers_every_type(golden, whole):
    golden.check("passes/infer_shapes.txt", text(whole))


def test_names_both_parties_where_types_do_not_fit():
    with pytest.raises(RecipeError, match=r"`lm\.splice` cannot take what `merger` yields"):
        InferShapes().run(read_graph(TOWER + DECODER.replace("width = 12", "width = 16")))


def test_keeps_the_meaning_of_sizes_that_occur(whole):
    meaning = {
        "image.patches": total("image", Symbol("image.tokens")),
        "image.tokens": Symbol("image.rows") * 4,
        "video.patches": Symbol("nowhere"),
    }
    placed = PlaceTokens(meaning).run(whole)
    assert list(placed.meaning) == ["image.patches", "image.tokens"]


def test_ties_a_head_to_the_table_of_its_shape(whole):
    assert whole["lm.head"].weights is None
    assert TieWeights().run(whole)["lm.head"].weights == "lm.embed"


def test_folds_the_frames_of_pictures(golden, whole):
    folded = FoldStillFrames().run(whole)
    golden.check("passes/fold_still_frames.txt", text(folded))
    assert folded.parameters() == whole.parameters()


@pytest.mark.parametrize(
    "source",
    [
        TOWER.replace("still = true, ", ""),
        TOWER.replace("frames = 2", "frames = 1").replace("patches, 96]", "patches, 48]"),
    ],
    ids=["a clip", "one frame"],
)
def test_folds_nothing_else(source):
    graph = InferShapes().run(read_graph(source + "return rows = %merger"))
    assert FoldStillFrames().run(graph) == graph


def test_keeps_a_cache(golden, whole):
    golden.check("passes/keep_cache.txt", text(DropUnused().run(KeepCache().run(whole))))


def test_scores_the_last_position(golden, whole):
    golden.check("passes/score_last.txt", text(ScoreLast().run(whole)))


def test_adds_the_losses_and_their_sum(golden, whole):
    losses: dict[str, Objective] = {
        "lm": NextToken(),
        "look": MatchRegions("merger", "lm.embed", 0.07),
    }
    golden.check("passes/add_losses.txt", text(AddLosses(losses).run(TieWeights().run(whole))))


def test_drops_what_feeds_no_output(golden):
    before = read_graph("""
        where kept = 2 * rows
        where lost = 3 * rows
        %ids = input : i64[kept]
        %other = input : i64[lost]
        %rows = embed %ids {vocab = 9, width = 4} : float[kept, 4]
        %leftover = embed %other {vocab = 9, width = 4} : float[lost, 4]
        return rows = %rows
    """)
    golden.check("passes/drop_unused.txt", text(DropUnused().run(before)))


def frozen(graph):
    return {node.name for node in graph if node.frozen}


def test_freezes_what_comes_before_all_that_learns(whole):
    names = {name for name in whole.parameters() if name.startswith("lm.")}
    assert frozen(Freeze(names).run(whole)) == {"vit.patch_embed", "vit.blocks", "merger"}


def test_freezes_nothing_behind_a_parameter_that_learns(whole):
    assert frozen(Freeze({"vit.patch_embed.weight"}).run(whole)) == {"lm.embed"}


def test_freezes_no_block_of_which_a_part_learns(whole):
    assert "vit.blocks" not in frozen(Freeze({"vit.blocks.0.norm1.bias"}).run(whole))


def test_a_tied_head_learns_as_its_table_does(whole):
    tied = TieWeights().run(whole)
    assert frozen(Freeze(set()).run(tied)) >= {"lm.embed", "lm.head"}
    assert not {"lm.embed", "lm.head"} & frozen(Freeze({"lm.embed.weight"}).run(tied))


def test_splits_a_frozen_prefix_from_the_step(golden, whole):
    names = {name for name in whole.parameters() if name.startswith(("merger", "lm"))}
    graph = Freeze(names).run(AddLosses({"lm": NextToken()}).run(TieWeights().run(whole)))
    golden.check("passes/split_training.txt", text_of_methods(SplitTraining().run(graph)))


def test_a_stage_that_trains_all_has_no_prefix(whole):
    graph = Freeze(frozenset(whole.parameters())).run(whole)
    assert SplitTraining().run(graph) == {"step": graph}


def test_splits_inference_into_four_methods(golden, whole):
    graph = ScoreLast().run(KeepCache().run(TieWeights().run(whole)))
    golden.check("passes/split_inference.txt", text_of_methods(SplitInference(("vit",)).run(graph)))


def test_a_pass_leaves_the_graph_as_it_was(whole):
    before = text(whole)
    for step in (
        TieWeights(),
        FoldStillFrames(),
        KeepCache(),
        ScoreLast(),
        AddLosses({"lm": NextToken()}),
        DropUnused(),
        Freeze(set()),
    ):
        step.run(whole)
    assert text(whole) == before


def first_blocks(last: int) -> tuple[Selector]:
    """The selector `vit.blocks[0..last]`."""
    steps = (SelectorStep(name="vit"), SelectorStep(name="blocks", first=0, last=last))
    return (Selector(text=f"vit.blocks[0..{last}]", parts=steps),)


def test_a_tower_is_cut_behind_the_block_that_is_named(golden, whole):
    deeper = whole.change("vit.blocks", op=replace(whole["vit.blocks"].op, depth=3))
    cut = SplitBlocks(first_blocks(1)).run(deeper)
    golden.check("passes/split_blocks.txt", text(cut))
    assert cut.parameters() == deeper.parameters()
    assert SplitBlocks(first_blocks(2)).run(deeper) == deeper


def test_what_is_kept_has_a_method_of_its_own(golden, whole):
    kept = first_blocks(0)
    graph = AddLosses({"lm": NextToken()}).run(whole)
    frozen = Freeze({"lm.norm.weight"}).run(graph)
    methods = SplitTraining(kept).run(frozen)
    assert list(methods) == ["features_image", "prefix", "step"]
    golden.check("passes/split_training_kept.txt", text_of_methods(methods))


def test_parts_are_cast_where_their_precisions_differ(golden, whole):
    placed = PlacePrecisions({"vit": "f32", "merger": "f32", "lm": "bf16"}).run(whole)
    golden.check("passes/place_precisions.txt", text(placed))
    verify({"model": placed})
    bare = placed.change("lm.splice", inputs=("lm.embed", "merger", "text.feature_index"))
    with pytest.raises(AssertionError, match=r"lm.splice: computes in bf16, takes f32 of merger"):
        verify({"model": bare})
    assert PlacePrecisions({}).run(whole) is whole

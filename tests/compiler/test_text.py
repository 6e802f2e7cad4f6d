"""Graphs print as text that reads back as the same graph."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from triptych.compiler.graph import Graph, Node
from triptych.compiler.ops import Add, Concat, Embed, Head, Input, Norm, PatchEmbed
from triptych.compiler.passes.infer_shapes import infer
from triptych.compiler.pipeline import for_inference, for_training, model
from triptych.compiler.text import read_graph, read_methods, text, text_of_methods
from triptych.compiler.types import Symbol, TensorType, total
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe


@pytest.mark.parametrize("name", shipped_recipes())
def test_every_method_of_every_recipe_reads_back(name):
    recipe = load_recipe(name)
    programs = [for_training(recipe, stage) for stage in recipe.stages]
    programs += [for_inference(recipe, mode) for mode in recipe.modes]
    for program in programs:
        assert read_methods(text_of_methods(program.methods)) == program.methods
    assert read_graph(text(model(recipe), places=True)) == model(recipe)


@st.composite
def graphs(draw):
    """Rows that grow by embedding and concatenation, in any order."""
    width = draw(st.integers(1, 9))
    rows = TensorType((Symbol("rows"), width))
    nodes = [
        Node.fed("rows", rows),
        Node.fed("ids", TensorType(("ids",), "i64")),
        Node("table", Embed(draw(st.integers(1, 99)), width), ("ids",)),
    ]
    for number in range(draw(st.integers(0, 6))):
        names = [node.name for node in nodes if node.name != "ids"]
        inputs = draw(st.lists(st.sampled_from(names), min_size=1, max_size=3))
        op = draw(
            st.sampled_from(
                [Concat(), Norm(draw(st.sampled_from(["layernorm", "rmsnorm"])), width, 1e-6)]
            )
        )
        taken = tuple(inputs if isinstance(op, Concat) else inputs[:1])
        weights = draw(st.none() | st.just("table.other"))
        frozen = draw(st.booleans())
        nodes.append(Node(f"step.{number}", op, taken, weights, frozen=frozen))
    graph = Graph.of(nodes, {"end": nodes[-1].name}, {"rows": total("image", 4 * Symbol("n"))})
    return infer(graph) if draw(st.booleans()) else graph


@given(graphs())
@settings(max_examples=60)
def test_any_graph_reads_back(graph):
    assert read_graph(text(graph)) == graph


def test_facts_keep_their_kinds():
    rows = TensorType(("n", 12), "f32")
    graph = Graph.of(
        [
            Node("patches", Input(rows, still=True, medium="image"), type=rows),
            Node("embed", PatchEmbed(8, 3, 1, 2, bias=True, folded=False), ("patches",)),
            Node("head", Head(vocab=5, width=8, tied=True), ("embed",), "table"),
            Node("sum", Add(), ("head", "head")),
        ],
        {"out": "sum"},
    )
    shown = text(graph)
    assert "%patches = input {still = true, medium = image} : f32[n, 12]" in shown
    assert "%head = head %embed {vocab = 5, width = 8, tied = true} using table" in shown
    assert read_graph(shown) == graph


@pytest.mark.parametrize(
    ("source", "complaint"),
    [
        ("%a = nothing", "no operation nothing"),
        ("%a = embed {vocab = 3, height = 2}", "embed has no height"),
        ("%a = input : f8[2]", "no dtype f8"),
        ("return x = y", "expected node"),
        ("%a = input : f32[2", "expected ,"),
        ("where n = squeeze(2)", "no function squeeze"),
        ("%a = input : f32[?]", "cannot read '\\?]'"),
        ("}", "expected the end"),
    ],
)
def test_says_what_it_cannot_read(source, complaint):
    with pytest.raises(ValueError, match=complaint):
        read_graph(source)


def test_places_are_remarks(tiny):
    shown = text(model(tiny), places=True)
    assert "# tiny.vlm:4:3" not in text(model(tiny))
    assert "# recipes/qwen2_vl_7b.vlm:" in shown

"""Whatever a user types, it is text: never a special token, never a place of features."""

from __future__ import annotations

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer as Tokens
from tokenizers import models, pre_tokenizers, trainers

from triptych.blocks.input.layout import Layout, Medium, Message, Places
from triptych.blocks.input.tokenizer import Tokenizer
from triptych.blocks.input.writing import SHIPPED, tokenised, vocabulary_file
from triptych.compiler.spec import layout_json
from triptych.compiler.tokens import ends, placed
from triptych.dsl.files import shipped_recipes
from triptych.dsl.load import load_recipe

MARKERS = (
    "###",
    "<image>",
    "\n<image>\n",
    "<Img>",
    "</Img>",
    "Human: ",
    "<0x0A>",
    "<unk>",
    "▁",
    " ",
)
"""What layouts and data write around pictures and turns, and what vocabularies spell oddly."""


def loaded(recipe, folder):
    """The tokenizer of a recipe; where its file does not ship, one like it."""
    said = recipe.tokens.tokenizer.model_dump()
    specials = {token.text: token.id for token in recipe.tokens.specials.values()}
    file = vocabulary_file(said)
    if not file.is_file():
        file = SHIPPED / "mistral.model"
        if said["call"] == "hf_json":
            file = folder / f"{recipe.name}.json"
            train(file, specials)
    return Tokenizer.load(said["call"], file, specials, said), specials


def train(file, specials):
    """A `tokenizer.json` made from the texts of special tokens: no merge is more to its taste."""
    tokens = Tokens(models.BPE())
    tokens.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    named = {id: text for text, id in specials.items() if id < 256}
    low = [named.get(id, f"<gap{id}>") for id in range(max(named, default=-1) + 1)]
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        special_tokens=low,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )
    tokens.train_from_iterator([text for text in specials for _ in range(9)], trainer)
    tokens.save(str(file))


def written(recipe, layout, tokenizer, typed):
    """The tokens of a dialogue whose user typed this, and where the features in it go."""
    rules = recipe.layouts[layout]
    shown = []
    for medium in placed(recipe, [rules])[:1]:
        shown.append(Medium(medium, dict.fromkeys(ends(recipe, medium), 2)))
    laid = Layout(layout, layout_json(recipe, rules))
    if "user" in rules.rules:
        said = [Message("user", (*shown, typed)), Message("assistant", ("a",))]
    elif "pair" in rules.rules:
        said = [Message("pair", (*shown, typed))]
    else:
        said = [Message("text", (typed,))]
    runs = laid.render(said)
    return tokenised(runs, tokenizer)[0], [run for run in runs if isinstance(run, Places)]


@pytest.mark.parametrize("name", shipped_recipes())
def test_what_a_user_types_is_text(tmp_path_factory, name):
    recipe = load_recipe(name)
    tokenizer, specials = loaded(recipe, tmp_path_factory.mktemp("vocabulary"))

    @settings(max_examples=20, deadline=None)
    @example("".join([*specials, *MARKERS]))
    @given(st.lists(st.sampled_from([*specials, *MARKERS]) | st.text(max_size=3)).map("".join))
    def holds(typed):
        assert set(specials.values()).isdisjoint(tokenizer.encode(typed))
        for layout in recipe.layouts:
            ids, places = written(recipe, layout, tokenizer, f"a{typed}a")
            plain, as_before = written(recipe, layout, tokenizer, "aa")
            assert len(places) == len(as_before)
            for id in specials.values():
                assert ids.count(id) == plain.count(id), (layout, id)

    holds()

"""Each limit of a recipe's size has its own code, and what is just below it is read."""

from __future__ import annotations

import pytest

from triptych.dsl import limits, load
from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.parse import parse
from triptych.dsl.source import Source


def load_recipe(name):
    return load.load_recipe(name)


def load_text(text, name="<text>"):
    return load.load_text(text, name)


def codes(text):
    with pytest.raises(RecipeError) as caught:
        load_text(text)
    return {diagnostic.code for diagnostic in caught.value.diagnostics}


def test_the_length_of_a_text():
    text = "recipe r {\n}\n"
    full = text + "#" * (limits.LONGEST_TEXT - len(text))
    assert codes(full) == {"E106"}
    assert codes(full + "#") == {"E105"}


def test_brackets_inside_one_another():
    depth = limits.DEEPEST_NESTING - 1  # the braces of the recipe count as well
    good = "recipe r { x = " + "[" * depth + "]" * depth + " }"
    assert parse(Source("good", good)).recipes
    assert codes(good.replace("[", "[[", 2).replace("]", "]]", 2)) == {"E110"}


def test_values_that_operators_join():
    many = limits.DEEPEST_NESTING
    assert parse(Source("good", "recipe r { x = 1" + " + 1" * many + " }")).recipes
    assert codes("recipe r { x = 1" + " + 1" * 3 * many + " }") == {"E110"}


def chained(count):
    """The small recipe with a chain of references, each setting worth the next."""
    towers = "".join(
        f"add encoder e{i} : ViT {{ in = image patch = 14px depth = 1 heads = 1 ffn = 8 act = gelu"
        f" norm = layernorm(eps: 1e-6) pos = rope2d(theta: 1e4) width = {width} }}\n"
        for i in range(count)
        for width in [f"e{i + 1}.width" if i < count - 1 else "4"]
    )
    return f"recipe case extends small {{\n{towers}}}\n"


def test_values_that_refer_to_one_another(small):
    count = limits.LONGEST_CHAIN
    assert load_text(small + chained(count)).encoders["e0"].width == 4
    assert codes(small + chained(count + 1)) == {"E111"}


@pytest.mark.parametrize("link", ["extends r{} {{ }}", "{{ import image from r{} }}"])
def test_recipes_that_need_one_another(small, link):
    count = limits.LONGEST_CHAIN
    first = small.replace("recipe small", "recipe r0")
    links = [f"recipe r{i + 1} {link.format(i)}\n" for i in range(count + 1)]
    asks = "recipe case {{ language = 1 import lm from {} }}"
    assert codes(first + "".join(links[: count - 1]) + asks.format(f"r{count - 1}")) != {"E111"}
    assert codes(first + "".join(links) + asks.format(f"r{count + 1}")) == {"E111"}


def test_blocks_of_a_recipe(small):
    more = limits.MOST_BLOCKS - len(
        {path for path in load_text(small).facts.spans if path.isidentifier()} - {"language"}
    )
    imports = [f"import vit as vit{i} from small" for i in range(more + 1)]
    good = f"{small} recipe case extends small {{ {' '.join(imports[:-1])} }}"
    assert len(load_text(good).encoders) == more + 1
    assert codes(f"{small} recipe case extends small {{ {' '.join(imports)} }}") == {"E112"}


def test_statements_of_a_block(small):
    def body(count):
        rules = "".join(f'add ignore "{i}" : "no use" ' for i in range(count))
        return (
            small
            + 'recipe a extends small { add weights { from = hf("a/b") } } '
            + (f"recipe case extends a {{ amend weights {{ {rules} }} }}")
        )

    most = limits.MOST_STATEMENTS
    assert len(load_text(body(most - 1)).weights.ignored) == most - 1
    assert codes(body(most)) == {"E112"}


def test_files_that_a_recipe_reads(tmp_path):
    for number in range(limits.MOST_FILES):
        text = 'recipe part { language = 1 layout l { text(t) -> loss(t "x") } }'
        (tmp_path / f"part{number}.vlm").write_text(text)
    imports = [f'import l as l{i} from "part{i}.vlm"' for i in range(limits.MOST_FILES)]
    for count, expected in ((limits.MOST_FILES - 1, set()), (limits.MOST_FILES, {"E112"})):
        path = tmp_path / "case.vlm"
        path.write_text(f"recipe case {{ language = 1 {' '.join(imports[:count])} }}")
        found = set()
        try:
            load_recipe(str(path))
        except RecipeError as error:
            found = {diagnostic.code for diagnostic in error.diagnostics}
        assert found == expected


def test_a_run_ends_after_so_many_mistakes():
    settings = " ".join(f"width{i} = 1" for i in range(2 * limits.MOST_FINDINGS))
    with pytest.raises(RecipeError) as caught:
        load_text(f"recipe r {{ language = 1 lm : Decoder {{ {settings} }} }}")
    assert len(caught.value.diagnostics) == limits.MOST_FINDINGS

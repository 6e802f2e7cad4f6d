"""What a machine can mend is mended: the finding is gone, and no other comes in its place."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from triptych.compiler.pipeline import prove
from triptych.dsl.codes import CODES
from triptych.dsl.diagnostics import Diagnostic, RecipeError
from triptych.dsl.explain import explanation
from triptych.dsl.fixing import mended
from triptych.dsl.load import load_text

SMALL = (Path(__file__).parent.parent / "dsl" / "small.vlm").read_text(encoding="utf-8")
SMALL = SMALL.replace('tiktoken("qwen")', 'hf_json("none.json")')
SMALL = SMALL.replace("resize    =", "aspect    = ..200\n    resize    =")
"""A recipe in which nothing is wrong, and whose tokenizer is not at hand."""

PAGES = {code: explanation(code).example for code in CODES}
USERS = sorted((Path(__file__).parent.parent / "mistakes").glob("*.vlm"))
EXAMPLES = [
    *(pytest.param(page.text, id=code) for code, page in PAGES.items() if page.language == "vlm"),
    *(pytest.param(file.read_text(encoding="utf-8"), id=file.stem) for file in USERS),
]

# name -> (code, what is written in the recipe, what is written in its place)
MISTAKES: dict[str, tuple[str, str, str]] = {
    "no edition": ("E106", "  language = 1\n", ""),
    "another edition": ("E106", "language = 1", "language = 3"),
    "a name that is near": ("N202", "depth   = 2", "depht   = 2"),
    "a bare number": ("V302", "1024tok", "1024"),
    "a bare range": ("V302", "4tok..64tok", "4..64"),
    "a bare stop": ("V302", "100steps", "100"),
    "another dimension": ("V301", "1024tok", "1024px"),
    "a range in another dimension": ("V301", "4tok..64tok", "4px..64px"),
    "a unit too much": ("V301", "depth   = 2", "depth   = 2tok"),
    "sections in proportion": ("S403", "[2, 3, 3]", "[4, 6, 6]"),
    "the width of the adapter": ("S404", "out    = lm.width", "out    = 40"),
    "the multiple of the resize": ("S405", "2 * vit.patch", "21px"),
    "pictures of any shape": ("T504", "aspect    = ..200\n", ""),
    "no scale of pixels": ("S410", "normalize = half()", ""),
    "a limit beyond the context": ("T506", "..512tok", "..5120tok"),
    "rows beyond the context": ("T506", "batch  = assumed(8seq)", "batch = 8seq pack = 4096tok"),
    "ends the wrong way round": ("V309", "1..4", "4..1"),
    "pictures that are too large": (
        "T509",
        "prompt = ..512tok",
        "prompt = ..512tok resize = native(multiple: 28px, budget: 4tok..128tok)",
    ),
    "a share for a rate": (
        "F610",
        "optim  = adamw(lr: 1e-3)",
        "optim = adamw(lr: 1e-3) schedule = cosine(min: 0.1)",
    ),
    "a part in neither list": ("F601", "freeze = [vit, lm]", "freeze = [vit]"),
    "one part that is frozen": ("F601", "freeze = [vit, lm]", "freeze = vit"),
    "nothing that is frozen": ("F601", "freeze = [vit, lm]", ""),
    "blocks in neither list": (
        "F601",
        "freeze = [vit, lm]",
        "freeze = [vit.patch_embed, vit.blocks[1..1], lm]",
    ),
    "a misspelt selector": ("F603", "[vit, lm]", "[vit.blokcs[0..1], vit.patch_embed, lm]"),
    "a misspelt part": ("F604", "[vit, lm]", "[vitt, lm]"),
    "a misspelt stage": ("F605", "after  = first", "after = frist"),
    "a misspelt layout": ("L704", "layout = caption\n    batch", "layout = captoin\n    batch"),
    "an end outside of the loss": ("L706", "loss(t end)", "loss(t) end"),
    "nothing that is learnt": ("L705", "loss(t end)", "t end"),
    "corners without a rule": (
        "L712",
        "image(x)   -> place * x.tokens",
        "image(x) -> place * x.tokens box(b) -> end b.corners end",
    ),
}


def findings(text: str) -> tuple[Diagnostic, ...]:
    """All that is wrong with the last recipe of a text."""
    try:
        return prove(load_text(text, "case.vlm"))
    except RecipeError as error:
        return error.diagnostics


@pytest.mark.parametrize("name", MISTAKES)
def test_a_fix_mends_what_it_is_for_and_breaks_nothing(name):
    code, right, wrong = MISTAKES[name]
    text = SMALL.replace(right, wrong, 1)
    found = findings(text)
    assert code in {one.code for one in found}
    assert all(one.fix and one.fix.edits for one in found), found
    (repaired,) = mended(found, unsafe=True).values()
    assert findings(repaired) == (), repaired


@pytest.mark.parametrize(
    ("wrong", "code"),
    [
        ("add stage first { seed = 1 }", "N210"),
        ("amend stage first { train = [merger, vit.blocks] freeze = [lm] }", "F601"),
        ("amend stage first { train = merger freeze = [] seed = 3 }", "F601"),
        ("amend stage first { pack = 4096tok }", "T506"),
        ("amend mode tell { prompt = ..4096tok }", "T506"),
        ("amend adapter merger { out = 40 }", "S404"),
        ("stage third { }", "N211"),
    ],
)
def test_a_variant_is_mended_in_its_own_text(wrong, code):
    start = f"{SMALL}\nrecipe case extends small {{\n"
    found = [one for one in findings(f"{start}{wrong}\n}}\n") if one.code == code]
    assert found
    (repaired,) = mended(found, unsafe=True).values()
    assert repaired.startswith(start)
    assert code not in {one.code for one in findings(repaired)}


@pytest.mark.parametrize("text", EXAMPLES)
def test_no_fix_of_a_known_mistake_makes_another(text):
    """Each fix alone, of the examples of all codes and of the mistakes of users."""
    found = findings(text)
    told = {one.code for one in found}
    for one in found:
        repaired = next(
            (to for of, to in mended([one], unsafe=True).items() if of.text == text), ""
        )
        left = findings(repaired) if repaired else ()
        if one.code.startswith("E"):
            # Behind a text that could not be read, more comes to light.
            assert one.title not in {other.title for other in left}
        elif repaired:
            assert len(left) < len(found) and {other.code for other in left} <= told, repaired


def test_a_special_token_takes_the_id_that_its_tokenizer_has():
    text = 'recipe mine extends deepseek_vl_tiny { amend tokens { special eos = "</s>" @ 401 } }'
    (repaired,) = mended(findings(text), unsafe=True).values()
    assert repaired == text.replace("401", "2")
    assert findings(repaired) == ()


def test_what_a_shipped_recipe_says_is_not_mended_in_it():
    text = "recipe mine extends qwen2_vl_tiny { drop encoder vit drop adapter merger }"
    for found in findings(text):
        for edit in found.fix.edits if found.fix else ():
            assert edit.span.source.name == "case.vlm"


def test_a_fix_that_is_safe_changes_nothing_that_was_right():
    """The lines that no finding speaks of stay as they are."""
    text = re.sub("1024tok", "1024", SMALL, count=1)
    (repaired,) = mended(findings(text)).values()
    assert repaired == SMALL

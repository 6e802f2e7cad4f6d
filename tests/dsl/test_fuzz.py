"""Whatever is fed in, the answer is a recipe or a diagnostic, soon."""

from __future__ import annotations

import random
import re
import time
from contextlib import contextmanager

import pytest

from triptych.dsl.diagnostics import RecipeError
from triptych.dsl.format import format_text
from triptych.dsl.load import load_text, shipped_recipes

PIECES = (
    *"{}[]()=,:.*+-/@#\"\\ \n\t;'%é\0",
    *("..", "->", "<=", "==", " by ", "2x2", "1e999", "9" * 5000, "28px", "600Gtok", "7nits"),
    *("recipe r {", "amend ", "add ", "drop ", "replace ", "extends ", "assert ", "special "),
    *("map ", "ignore ", "loss(", "assumed(", "this.width", "lm.width", "vit.blocks[3..1]"),
    *("in = ", "lm", "vit", "true", '"text"', '"open', "x.tokens", "x.index", "true.false"),
)
VARIANT = """
recipe case extends small {
  amend lm { ffn = 2 * lm.width norm = assumed(rmsnorm(eps: 1e-5)) }
  amend tokens { add special more = "<more>" @ 502 }
  amend layout caption { add text(t) -> loss(t more) }
  amend stage second { train = [lora(lm.blocks, rank: 4), lr(vit, 0.1), merger] freeze = [lm] }
  drop mode tell
  add objective words : RegionWords { regions = merger words = lm.embed temperature = 0.07 }
  assert lm.context - 4tok >= 2 * 100tok
}
"""
SECONDS = 2


def mutated(text: str, seed: int) -> str:
    """The text with a few pieces cut, copied, moved or put in."""
    chance = random.Random(seed)
    for _ in range(chance.randint(1, 6)):
        start = chance.randrange(len(text) + 1)
        end = min(len(text), start + chance.choice((0, 1, 3, 20, 200)))
        piece = chance.choice(PIECES) if chance.random() < 0.6 else text[start:end]
        at = chance.randrange(len(text) + 1) if chance.random() < 0.3 else start
        text = text[:at] + piece + text[max(at, end) :]
    return text


def reworded(text: str, seed: int) -> str:
    """The text with a few words, numbers and strings exchanged: it mostly follows the grammar."""
    chance = random.Random(seed)
    words = list(re.finditer(r'"[^"\n]*"|[A-Za-z_]\w*|[0-9][\w.]*', text))
    for _ in range(chance.randint(1, 5)):
        word = chance.choice(words)
        other = chance.choice(words)[0] if chance.random() < 0.8 else chance.choice(PIECES)
        alike = [match[0] for match in words if match[0][0].isalpha() == word[0][0].isalpha()]
        other = chance.choice(alike) if chance.random() < 0.8 else other
        text = text[: word.start()] + other + text[word.end() :]
        words = [match for match in words if match.end() < word.start()]
        if not words:
            break
    return text


def answer(text: str) -> str:
    """The codes of what is wrong with a text; "good" when nothing is."""
    with soon():
        try:
            load_text(text, "case.vlm")
            said = "good"
        except RecipeError as error:
            said = " ".join(diagnostic.code for diagnostic in error.diagnostics)
            assert error.render().startswith("error[")
    with soon():
        try:
            formatted = format_text(text)
        except RecipeError:
            return said
    assert format_text(formatted) == formatted
    return said


@contextmanager
def soon():
    """Fails when what is inside takes the processor for long."""
    started = time.process_time()
    yield
    assert time.process_time() - started < SECONDS


@pytest.mark.parametrize("change", [mutated, reworded])
def test_changed_recipes(small, change):
    answers = {answer(change(small + VARIANT, seed)) for seed in range(40)}
    assert len(answers) > 5  # the changes reach more than one corner


def test_changed_shipped_recipes():
    for file in shipped_recipes().values():
        text = file.read_text(encoding="utf-8")
        for seed in range(4):
            answer(mutated(text, seed))
            answer(reworded(text, seed))


@pytest.mark.parametrize(
    "text",
    [
        "",
        "\0",
        "recipe",
        "recipe r {" * 200,
        "(" * 60_000,
        "recipe r { x = " + "-" * 10_000 + "1 }",
        "recipe r { x = " + "1 + " * 4_000 + "1 }",
        "recipe r { x = " + "a." * 6_000 + "b }",
        "recipe r { x = " + "9" * 60_000 + " }",
        "recipe r { x = 1" + "0" * 400 + "e400 }",
        'recipe r { x = "' + "\\" * 59_999 + '" }',
        "recipe r { " + "a " * 6_000 + "}",
        "recipe r { " + "a = 1\n" * 1_000 + "}",
        "#" * 200_000,
        "recipe r { language = 1\n"
        + "".join(f"stage s{i} {{ after = s{i + 1} }}\n" for i in range(300))
        + "}",
        "recipe r { language = 1\n"
        + "".join(f"lm{i or ''} : Decoder {{ width = lm{i + 1}.width }}\n" for i in range(50))
        + "}",
        "recipe r { language = 1\n"
        + "".join(
            f"encoder e{i} : ViT {{ width = e{i + 1}.width + e{i + 1}.width }}\n"
            for i in range(150)
        )
        + "}",
        "".join(f"recipe r{i} extends r{i + 1} {{ }}\n" for i in range(500)),
    ],
    ids=lambda text: f"{text[:24]!r}",
)
def test_extreme_texts(text):
    assert answer(text) != "good"

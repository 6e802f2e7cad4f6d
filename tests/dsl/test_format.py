"""There is one way to write a recipe, and writing it that way changes nothing else."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from triptych.dsl.files import shipped_recipes
from triptych.dsl.format import WIDTH, format_text
from triptych.dsl.load import load_text
from triptych.dsl.parse import parse
from triptych.dsl.source import Source, Span

MESSY = (Path(__file__).parent / "messy.vlm").read_text(encoding="utf-8")


def meaning(node):
    """The tree without the places; numbers and strings as written."""
    if isinstance(node, tuple):
        return tuple(meaning(member) for member in node)
    if is_dataclass(node):
        return type(node).__name__, *(
            meaning(getattr(node, field.name))
            for field in fields(node)
            if not isinstance(getattr(node, field.name), Span)
        )
    return node


def meaning_of(text):
    return meaning(parse(Source("case.vlm", text)).recipes)


def comments_of(text):
    return [comment.text for comment in parse(Source("case.vlm", text)).comments]


def check_roundtrip(text):
    formatted = format_text(text)
    assert meaning_of(formatted) == meaning_of(text)
    assert comments_of(formatted) == comments_of(text)
    assert format_text(formatted) == formatted
    assert not any(line != line.rstrip() or "\t" in line for line in formatted.splitlines())
    return formatted


def test_messy(golden):
    golden.check("format/messy.txt", check_roundtrip(MESSY))


@pytest.mark.parametrize("name", shipped_recipes())
def test_shipped_recipes_are_formatted(name):
    text = shipped_recipes()[name].read_text(encoding="utf-8")
    assert format_text(text) == text


def test_a_verb_before_a_setting_stays_with_it():
    text = """recipe a { mode m { batch=1..8   amend   prompt = ..512tok # longer
      amend # than trained
      resize = tiles(48px,1..12) new = 8tok } }"""
    formatted = check_roundtrip(text)
    assert "    amend prompt = ..512tok  # longer\n" in formatted
    assert "    amend resize = tiles(48px, 1..12)  # than trained\n" in formatted


def test_a_formatted_recipe_is_the_same_recipe(small):
    squeezed = " ".join(line.strip() for line in small.splitlines())
    assert load_text(squeezed) == load_text(format_text(squeezed)) == load_text(small)
    assert format_text(small) == small


def test_line_ends_of_other_systems(small):
    assert format_text(small.replace("\n", "\r\n")) == small


@pytest.mark.parametrize("text", ["", "# only a comment\n", "\n\n# one\n\n\n# two\n"])
def test_texts_without_a_recipe(text):
    check_roundtrip(text)


def test_lines_fit_where_they_can():
    formatted = check_roundtrip(MESSY)
    long = [line for line in formatted.splitlines() if len(line) > WIDTH]
    assert long == []


# Recipes out of thin air -------------------------------------------------------------------------


class Author:
    """Writes what the grammar allows, with gaps and comments wherever they may stand."""

    names = ("a", "lm", "vit", "width", "loss_1", "In", "by_", "recipes")
    texts = ('""', '"a b"', '"#no comment"', '"\\n\\"\\\\"', '"<|im_end|>"', '"一"')
    numbers = ("0", "28px", "1e-6", "600Gtok", "2ksteps", "0.5", "4e3tok", "007", "2x2", "true")
    gaps = (" ", " ", " ", "  ", "\n", "\n\n\n", " # note\n", "\n# own line\n", "\t", "\r\n")

    def __init__(self, draw):
        self.draw = draw

    def one_of(self, choices):
        return choices[self.draw(st.integers(0, len(choices) - 1))]

    def some(self, member, most=3):
        return [member() for _ in range(self.draw(st.integers(0, most)))]

    def glue(self, *words):
        return "".join(word + self.one_of(self.gaps) for word in words)

    def name(self):
        return self.one_of(self.names)

    def text(self):
        return self.one_of(self.texts)

    def path(self):
        index = self.one_of(("", "", "[2]", " [ 2 .. 7 ]"))
        return self.glue(self.name(), *self.one_of(((), (".", self.name())))) + index

    def sum(self, depth=0):
        kind = self.one_of("npp" if depth > 2 else "nppbbmgc")
        if kind == "n":
            return self.one_of(self.numbers)
        if kind == "p":
            return self.path()
        if kind == "b":
            return self.glue(self.sum(depth + 1), self.one_of("+-*/"), self.sum(depth + 1))
        if kind == "m":
            return self.glue("-", self.sum(depth + 1))
        if kind == "g":
            return self.glue("(", self.sum(depth + 1), ")")
        return self.glue("call", "(", ",".join(self.some(lambda: self.argument(depth))), ")")

    def argument(self, depth):
        label = self.one_of(((), (self.name(), ":")))
        return self.glue(*label, self.value(depth + 1))

    def value(self, depth=0):
        kind = self.one_of("stilr")
        if kind == "t":
            return self.text()
        if kind == "i" and depth < 3:
            inner = ",".join(self.some(lambda: self.value(depth + 1)))
            return self.glue("[", inner, *self.one_of(((), (",",))) if inner else (), "]")
        if kind == "l":
            return self.glue("..", self.sum(2), "by", self.sum(2))
        if kind == "r":
            return self.glue(self.sum(2), "..", self.sum(2))
        return self.sum(depth)

    def item(self, depth=0):
        kind = self.one_of("wtrfu" if depth else "wtrful")
        if kind == "w":
            return self.name()
        if kind == "t":
            return self.text()
        if kind == "r":
            return self.glue(self.name(), "*", "x", ".", "tokens")
        if kind == "f":
            return self.glue("x", ".", "index")
        if kind == "u":
            return self.glue(self.name(), "(", *self.one_of(((), ("x",), ("x", ",", "y"))), ")")
        return self.glue("loss", "(", *self.some(lambda: self.item(1)), ")")

    def entry(self):
        return self.one_of((self.special, self.map, self.ignore, self.rule))()

    def special(self):
        return self.glue("special", self.name(), "=", self.text(), "@", self.sum(2))

    def map(self):
        return self.glue("map", self.text(), "->", self.text())

    def ignore(self):
        return self.glue("ignore", self.text(), ":", self.text())

    def rule(self):
        return self.glue(self.name(), "(", "x", ")", "->", *self.some(self.item, 5))

    def statement(self):
        return self.one_of(
            (
                lambda: self.glue(self.name(), "=", self.value()),
                lambda: self.glue(self.name(), "=", self.value()),
                self.entry,
                lambda: self.glue(self.one_of(("add", "amend", "replace")), self.entry()),
                lambda: self.glue("drop", "map", self.text()),
                lambda: self.glue("drop", self.name(), self.name()),
            )
        )()

    def block(self):
        return self.glue(
            *self.one_of(((), ("amend",), ("add",), ("replace",))),
            self.name(),
            *self.one_of(((), (self.name(),))),
            *self.one_of(((), (":", "Type"))),
            "{",
            *self.some(self.statement, 4),
            "}",
        )

    def comparison(self):
        return self.sum(1), self.one_of(("<=", "==", "!=", ">")), self.sum(1)

    def recipe(self):
        return self.glue(
            "recipe",
            self.name(),
            *self.one_of(((), ("extends", "base"), ("extends", '"b.vlm"'))),
            "{",
            *self.some(
                lambda: self.one_of(
                    (
                        self.block,
                        self.block,
                        lambda: self.glue("language", "=", "1"),
                        lambda: self.glue("drop", "lm", "lm"),
                        lambda: self.glue("assert", *self.comparison()),
                        lambda: self.glue("drop", "assert", *self.comparison()),
                    )
                )()
            ),
            "}",
        )


@st.composite
def files(draw):
    author = Author(draw)
    return author.one_of(author.gaps) + "".join(author.some(author.recipe))


@settings(
    max_examples=80,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
@given(files())
def test_any_recipe_keeps_its_meaning_and_its_comments(text):
    check_roundtrip(text)

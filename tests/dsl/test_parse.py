"""The tree holds what was written, and where."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from pathlib import Path

import pytest

from triptych.dsl.parse import parse, parse_amendments
from triptych.dsl.source import Source, Span

MESSY = Path(__file__).parent / "messy.vlm"


def outline(node, label="", depth=0):
    """A tree as indented lines: the kind of each node, its plain facts, and its place."""
    indent = "  " * depth
    if isinstance(node, tuple):
        for member in node:
            yield from outline(member, label, depth)
    elif is_dataclass(node):
        plain = [
            f"{field.name}={getattr(node, field.name)!r}"
            for field in fields(node)
            if isinstance(getattr(node, field.name), str | int | bool) or field.name == "quantity"
        ]
        place = node.span.place if hasattr(node, "span") else None
        at = f" {place.line}:{place.column}" if place else ""
        yield f"{indent}{label}{type(node).__name__}{at} {' '.join(plain)}".rstrip()
        for field in fields(node):
            value = getattr(node, field.name)
            if field.name != "quantity" and not isinstance(value, Span | Source):
                yield from outline(value, f"{field.name}: ", depth + 1)


def test_every_construct(golden):
    tree = parse(Source("messy.vlm", MESSY.read_text(encoding="utf-8")))
    golden.check("parse/messy.txt", "\n".join(outline(tree)))


def tree_of(text):
    return parse(Source("case.vlm", text))


def value_of(text):
    """The value of the only setting of a recipe."""
    (setting,) = tree_of(f"recipe r {{ a = {text} }}").recipes[0].body
    return setting.value


def test_every_node_covers_its_text():
    text = "recipe r { a = f(x: 1px, [b.c[2..3]]) * -2 # note\n }"
    file = tree_of(text)
    (setting,) = file.recipes[0].body
    assert setting.span.text == "a = f(x: 1px, [b.c[2..3]]) * -2"
    assert setting.name_span.text == "a"
    assert setting.value.span.text == "f(x: 1px, [b.c[2..3]]) * -2"
    assert setting.value.left.arguments[0].span.text == "x: 1px"
    assert setting.value.left.arguments[1].value.items[0].steps[1].span.text == "c[2..3]"
    assert setting.value.right.span.text == "-2"
    assert [comment.text for comment in file.comments] == ["# note"]
    assert file.recipes[0].span.text == text


@pytest.mark.parametrize(
    ("text", "value", "unit"),
    [
        ("28px", 28, "px"),
        ("600Gtok", 600 * 10**9, "tok"),
        ("2ksteps", 2000, "steps"),
        ("1e6", 10**6, ""),
        ("1e-6", 1e-6, ""),
        ("2.5ktok", 2500, "tok"),
        ("4MiB", 4 * 2**20, "B"),
        ("500ms", 0.5, "s"),
        ("007", 7, ""),
        ("3M", 3 * 10**6, ""),
    ],
)
def test_numbers_and_units(text, value, unit):
    quantity = value_of(text).quantity
    assert quantity.value == value
    assert isinstance(quantity.value, type(value))
    assert quantity.unit == unit


def test_operators_bind_as_in_arithmetic():
    value = value_of("1 - 2 - 3 * -4")
    assert value.operator == "-"
    assert value.left.span.text == "1 - 2"
    assert value.right.span.text == "3 * -4"


def test_words_of_the_language_may_name_settings():
    text = "recipe r { stage s { loss = lm map = 1 special = 2 drop = 3 } }"
    (block,) = tree_of(text).recipes[0].body
    assert [setting.name for setting in block.body] == ["loss", "map", "special", "drop"]


def test_amendments_are_settings_by_path():
    first, second = parse_amendments(Source("--set", "lm.width=64\nvideo.resize.clip = 2ktok"))
    assert (first.name, first.value.span.text) == ("lm.width", "64")
    assert (second.name, second.value.span.text) == ("video.resize.clip", "2ktok")


def test_the_grammar_has_no_hidden_conflicts(caplog):
    """Each choice between shifting and reducing is one that grammar.lark explains."""
    import logging
    from importlib.resources import files

    from lark import Lark, logger

    grammar = files("triptych.dsl").joinpath("grammar.lark").read_text(encoding="utf-8")
    logger.setLevel(logging.DEBUG)
    try:
        with caplog.at_level(logging.DEBUG, logger=logger.name):
            logger.propagate = True
            Lark(grammar, parser="lalr", start=["file", "amendments"], debug=True)
    finally:
        logger.setLevel(logging.CRITICAL)
    conflicts = [record.message for record in caplog.records if "conflict" in record.message]
    assert all("NAME" in message for message in conflicts)
    assert len(conflicts) <= 1

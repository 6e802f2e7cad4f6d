"""Extreme texts are refused, soon; tests/fuzzing feeds in many others."""

from __future__ import annotations

import pytest

from triptych.tests.fuzzing.properties import examine


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
    assert examine(text) != "good"

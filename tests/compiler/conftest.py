"""A recipe small enough to print whole, and a way to vary it."""

from __future__ import annotations

import pytest

from triptych.dsl.load import load_text

TINY = """
# The 7B with other sizes: every mechanism, few numbers.
recipe tiny extends qwen2_vl_7b {
  amend encoder vit {
    depth = 2
    width = 32
    heads = 4
    ffn   = 64
  }
  amend lm {
    depth    = 2
    width    = 48
    heads    = 4
    kv_heads = 2
    ffn      = 96
    pos      = mrope([2, 2, 2], theta: 1e6)
  }
}
"""


@pytest.fixture(scope="session")
def tiny():
    return load_text(TINY, "tiny.vlm")


@pytest.fixture(scope="session")
def variant():
    """`variant("amend lm { ... }")`: the tiny recipe with more statements."""

    def load(body: str):
        return load_text(f"{TINY}\nrecipe changed extends tiny {{\n{body}\n}}\n", "tiny.vlm")

    return load

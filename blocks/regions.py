"""Stretches of a model that repeat: a compiler may compile one, and use its code for all of them.

`torch.compiler.nested_compile_region` marks them. A stretch writes into nothing that it is given:
in one that does, torch takes every size for fixed.
"""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import ParamSpec, TypeVar

import torch

P = ParamSpec("P")
R = TypeVar("R")

_once = False


@contextmanager
def compiled_once() -> Iterator[None]:
    """Inside, what is traced has its stretches marked, so that each kind is compiled once."""
    global _once
    before, _once = _once, True
    try:
        yield
    finally:
        _once = before


def region(stretch: Callable[P, R]) -> Callable[P, R]:
    """A method of a block that stands in a model many times."""
    marked: Callable[P, R] = torch.compiler.nested_compile_region(stretch)

    @functools.wraps(stretch)
    def called(*inputs: P.args, **options: P.kwargs) -> R:
        return marked(*inputs, **options) if _once else stretch(*inputs, **options)

    return called

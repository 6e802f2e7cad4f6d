"""What Inductor does wrong unless it is told better, and where compilers leave their code."""

from __future__ import annotations

import pytest
import torch

from triptych.backends import native
from triptych.backends.toolchain import cache_folder, code_in


def scattered(grad_BTW, rows_BTW):
    """What the way back through `gather` and `scatter` comes to: zeros are scattered into one
    gradient, rows into zeros, and both are added."""
    place_T = torch.arange(rows_BTW.shape[1])
    place_BTW = place_T[None, :, None].expand_as(rows_BTW)
    kept_BTW = grad_BTW.scatter(1, place_BTW, 0.0)
    return kept_BTW + torch.zeros_like(grad_BTW).scatter_add(1, place_BTW, rows_BTW)


def test_a_sum_waits_for_what_is_scattered(tmp_path):
    # As for several threads, where Inductor leaves the scattering to torch's own kernel.
    compiled = torch.compile(scattered, fullgraph=True, options={"cpp.dynamic_threads": True})
    grad_BTW, rows_BTW = torch.randn(2, 4, 8, 48)
    with code_in(tmp_path):
        found_BTW = compiled(grad_BTW, rows_BTW)
    assert torch.equal(found_BTW, scattered(grad_BTW, rows_BTW))


def test_the_folder_for_code_is_one_wherever_a_compiler_runs(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TRIPTYCH_CACHE", "beside/cache")
    assert cache_folder("kernels").is_relative_to(tmp_path / "beside" / "cache")
    monkeypatch.delenv("TRIPTYCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", "home")
    assert cache_folder("kernels").is_relative_to(tmp_path / "home" / "triptych")


@pytest.mark.parametrize(
    ("says", "why"),
    [
        (
            "echo '/usr/bin/ld: cannot open output file'; echo 'collect2: error: ld returned 1'",
            "cannot open",
        ),
        ("echo 'linear.cpp:3:1: error: expected a number'", "expected a number"),
    ],
)
def test_what_a_compiler_refuses_is_told(monkeypatch, tmp_path, says, why):
    """And torch's kernels serve."""
    compiler = tmp_path / "refuses"
    compiler.write_text(f"#!/bin/sh\n({says}) >&2\nexit 1\n")
    compiler.chmod(0o755)
    monkeypatch.setenv("TRIPTYCH_CACHE", str(tmp_path))
    monkeypatch.setattr(native, "_command", lambda *given: [str(compiler)])
    with pytest.warns(UserWarning, match=f"refuses triptych's kernels, .*{why}"):
        assert native.built.__wrapped__() is None

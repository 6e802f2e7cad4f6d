"""What Inductor does wrong unless it is told better."""

from __future__ import annotations

import torch

from triptych.backends.toolchain import code_in


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

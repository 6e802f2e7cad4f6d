"""The rate follows its schedule, AdamW its groups, and state its weight."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from triptych.backends.optim import Optimizer, Schedule, clip, decays

ADAMW: dict[str, Any] = {"betas": (0.9, 0.95), "eps": 1e-8, "weight_decay": 0.1}


def weights(seed=0):
    generator = torch.Generator().manual_seed(seed)
    return {
        "fc.weight": torch.randn(4, 3, generator=generator),
        "fc.bias": torch.randn(4, generator=generator),
        "norm.weight": torch.randn(3, generator=generator),
    }


def test_warms_up_to_the_peak_and_falls_to_the_minimum():
    schedule = Schedule("cosine", peak=2.0, warmup=4, minimum=0.5)
    rates = [schedule.rate(step, step / 20, warm=4 / 20) for step in range(20)]
    assert rates[:5] == [0.5, 1.0, 1.5, 2.0, 2.0]
    assert rates[12] == pytest.approx(1.25)
    assert rates[19] == pytest.approx(0.5 + 1.5 * (1 + math.cos(math.pi * 15 / 16)) / 2)
    assert schedule.rate(20, 1.0, warm=0.2) == pytest.approx(0.5)


def test_a_stage_that_stops_within_its_warm_up_never_falls():
    schedule = Schedule("linear", peak=1.0, warmup=10)
    assert [schedule.rate(step, step / 3) for step in range(3)] == [0.1, 0.2, 0.3]


def test_a_stop_in_tokens_falls_by_the_share_that_is_done():
    schedule = Schedule("linear", peak=1.0, warmup=1, minimum=0.2)
    assert schedule.rate(5, done=0.55, warm=0.1) == pytest.approx(0.6)


def test_a_fall_over_the_whole_stage_drops_as_the_warm_up_ends():
    # MiniGPT-4's two stages: the rates that its own scheduler gives there.
    first = Schedule("cosine", peak=1e-4, warmup=5000, start=1e-6, minimum=8e-5, whole=True)
    rates = [first.rate(step, step / 20_000) for step in (0, 2500, 4999, 5000, 20_000)]
    assert rates == pytest.approx([1e-6, 5.05e-5, 9.99802e-5, 9.70711e-5, 8e-5])
    second = Schedule("cosine", peak=3e-5, warmup=200, start=1e-6, minimum=1e-5, whole=True)
    assert second.rate(200, 0.2) == pytest.approx(2.80901699e-5)


def test_a_warm_up_by_ratio_ends_at_its_share_whatever_the_stop_counts():
    schedule = Schedule("cosine", peak=1.0, ratio=0.1)
    assert [schedule.rate(step, step / 100) for step in (0, 5, 10)] == [0.0, 0.5, 1.0]
    assert schedule.rate(55, 0.55) == pytest.approx(0.5)
    assert Schedule("constant", peak=1.0, ratio=0.1, start=0.5).rate(7, 0.05) == 0.75


def test_stairs_stand_at_shares_of_the_stage():
    schedule = Schedule("step", peak=2.0, warmup=10, stairs=((0.8, 0.316), (0.9, 0.1)))
    rates = [schedule.rate(step, step / 100, 0.1) for step in (9, 79, 80, 89, 90, 99)]
    assert rates == pytest.approx([2.0, 2.0, 0.632, 0.632, 0.2, 0.2])


def test_constant_stays():
    assert Schedule("constant", peak=0.3, warmup=0).rate(1000, 0.999) == 0.3


def test_biases_norms_and_class_tokens_do_not_decay():
    tensors = [torch.zeros(4, 3), torch.zeros(4), torch.zeros(1, 1, 8), torch.zeros(2, 3, 4, 4)]
    assert [decays(tensor) for tensor in tensors] == [True, False, False, True]
    assert [decays(tensor, "ndim") for tensor in tensors] == [True, False, True, True]
    assert all(decays(tensor, "all") for tensor in tensors)


def test_only_matrices_shrink_without_a_gradient():
    before, moved = weights(), weights()
    Optimizer(moved, **ADAMW).step({n: torch.zeros_like(w) for n, w in moved.items()}, 0.5)
    assert torch.allclose(moved["fc.weight"], before["fc.weight"] * (1 - 0.5 * 0.1))
    assert torch.equal(moved["fc.bias"], before["fc.bias"])
    assert torch.equal(moved["norm.weight"], before["norm.weight"])


def test_all_may_shrink_but_what_is_spared():
    before, moved = weights(), weights()
    optimizer = Optimizer(moved, decay="all", spared={"fc.weight"}, **ADAMW)
    optimizer.step({n: torch.zeros_like(w) for n, w in moved.items()}, 0.5)
    assert torch.allclose(moved["norm.weight"], before["norm.weight"] * (1 - 0.5 * 0.1))
    assert torch.equal(moved["fc.weight"], before["fc.weight"])


def test_a_factor_scales_the_rate_of_its_weights():
    before, moved = weights(), weights()
    plain = {**ADAMW, "weight_decay": 0.0}
    optimizer = Optimizer(moved, factors={"fc.bias": 0.1}, **plain)
    optimizer.step({name: torch.ones_like(w) for name, w in moved.items()}, 0.01)
    # The first step of Adam moves every weight by its rate.
    assert torch.allclose(before["fc.weight"] - moved["fc.weight"], torch.tensor(0.01), atol=1e-6)
    assert torch.allclose(before["fc.bias"] - moved["fc.bias"], torch.tensor(0.001), atol=1e-6)


def test_state_follows_its_weight_by_name():
    first = Optimizer(weights(), **ADAMW)
    first.step({name: torch.ones_like(w) for name, w in first.weights.items()}, 0.01)
    second = Optimizer({"new": torch.zeros(2), **weights()}, **ADAMW)
    assert second.load(first.state()) == {"fc.weight", "fc.bias", "norm.weight"}
    assert set(second.state()) - set(first.state()) == {"new/exp_avg", "new/exp_avg_sq", "new/step"}
    assert all(torch.equal(second.state()[key], value) for key, value in first.state().items())


def test_loaded_state_continues_bit_equal():
    gradients = [
        {name: w * (0.5 - step) for name, w in weights(7 + step).items()} for step in range(4)
    ]
    whole = Optimizer(weights(), **ADAMW)
    for gradient in gradients:
        whole.step({n: g.clone() for n, g in gradient.items()}, 0.01)
    half = Optimizer(weights(), **ADAMW)
    for gradient in gradients[:2]:
        half.step({n: g.clone() for n, g in gradient.items()}, 0.01)
    rest = Optimizer({n: w.clone() for n, w in half.weights.items()}, **ADAMW)
    rest.load(half.state())
    for gradient in gradients[2:]:
        rest.step({n: g.clone() for n, g in gradient.items()}, 0.01)
    for name, weight in whole.weights.items():
        assert torch.equal(rest.weights[name], weight)


def test_moves_as_the_optimizer_of_torch_does():
    ours = Optimizer(weights(), **ADAMW)
    theirs = {name: torch.nn.Parameter(weight) for name, weight in weights().items()}
    groups: list[dict[str, Any]] = [
        {"params": [theirs["fc.weight"]]},
        {"params": [theirs["fc.bias"], theirs["norm.weight"]], "weight_decay": 0.0},
    ]
    adamw = torch.optim.AdamW(groups, lr=0.02, fused=True, **ADAMW)
    for step in range(5):
        gradients = weights(seed=step)
        for name, weight in theirs.items():
            weight.grad = gradients[name].clone()
        adamw.step()
        ours.step(gradients, 0.02)
    assert all(torch.equal(ours.weights[name], weight) for name, weight in theirs.items())


def test_clips_the_common_norm():
    gradients = {"a": torch.full((4,), 3.0), "b": torch.full((7,), -4.0)}
    norm = math.sqrt(4 * 9 + 7 * 16)
    assert clip(gradients, None) == pytest.approx(norm)
    assert clip(gradients, 1.0) == pytest.approx(norm)
    assert clip(gradients, 2.0) == pytest.approx(1.0)

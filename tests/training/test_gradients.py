"""Gradients are those of the whole batch, however it is cut and whoever computes it."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from triptych.backends.gradients import Gradients, Replica, threads


class Model:
    """A frozen layer, a trained one and one that the data at hand does not reach."""

    def __init__(self):
        torch.manual_seed(0)
        self.frozen = nn.Linear(6, 5).requires_grad_(False)
        self.head = nn.Linear(5, 3)
        self.unused = nn.Parameter(torch.ones(2))
        self.trained = {**dict(self.head.named_parameters()), "unused": self.unused}
        self.grad_in_prefix = None

    def replicas(self, count=1):
        return [Replica(self.step, (self.prefix,), self.trained)] * count

    def prefix(self, inputs):
        self.grad_in_prefix = torch.is_grad_enabled()
        return {"features": self.frozen(inputs["x"]).relu()}

    def step(self, inputs):
        rows = nn.functional.cross_entropy(
            self.head(inputs["features"]), inputs["target"], reduction="none"
        )
        loss = (rows * inputs["weight"]).sum()
        return {"loss": loss, "loss.lm": loss}


def batch(count=12):
    generator = torch.Generator().manual_seed(1)
    return {
        "x": torch.randn(count, 6, generator=generator),
        "target": torch.randint(3, (count,), generator=generator),
        "weight": torch.full((count,), 1 / count),
    }


def cut(whole, *sizes):
    parts = {name: tensor.split(list(sizes)) for name, tensor in whole.items()}
    return [{name: parts[name][i] for name in parts} for i in range(len(sizes))]


def expected(model):
    loss = model.step({**batch(), **model.prefix(batch())})["loss"]
    loss.backward()
    return loss.item(), {n: p.grad for n, p in model.head.named_parameters()}


@pytest.mark.parametrize("workers", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(12,), (6, 6), (5, 4, 3), (1, 2, 3, 6)])
def test_the_cut_does_not_change_the_sum(workers, sizes):
    loss, wanted = expected(Model())
    model = Model()
    gradients = Gradients(model.replicas(workers))
    losses, found = gradients.of(cut(batch(), *sizes))
    gradients.close()
    assert losses == pytest.approx({"loss": loss, "loss.lm": loss}, rel=1e-6)
    assert found.keys() == model.trained.keys()
    for name, gradient in wanted.items():
        torch.testing.assert_close(found[name], gradient)
    assert torch.equal(found["unused"], torch.zeros(2))


@pytest.mark.parametrize("workers", [2, 3])
def test_the_same_cut_gives_the_same_bits(workers):
    def once():
        model = Model()
        gradients = Gradients(model.replicas(workers))
        found = [gradients.of(cut(batch(), 3, 3, 3, 3))[1] for _ in range(3)][-1]
        gradients.close()
        return found

    first, second = once(), once()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_the_prefix_runs_without_autograd_and_nothing_else_gets_a_gradient():
    model = Model()
    Gradients(model.replicas()).of([batch()])
    assert model.grad_in_prefix is False
    parameters = [*model.frozen.parameters(), *model.trained.values()]
    assert all(parameter.grad is None for parameter in parameters)


def test_parameters_that_share_a_gradient_can_be_scaled_apart():
    a, b = nn.Parameter(torch.ones(3)), nn.Parameter(torch.ones(3))

    def step(inputs):
        return {"loss": ((a + b) * inputs["x"]).sum()}

    _, found = Gradients([Replica(step, (), {"a": a, "b": b})]).of([{"x": torch.arange(3.0)}])
    found["a"].mul_(0.5)
    assert torch.equal(found["b"], torch.arange(3.0))


def test_half_precision_weights_get_full_precision_gradients():
    weight = nn.Parameter(torch.ones(3, dtype=torch.bfloat16))

    def step(inputs):
        return {"loss": (weight * inputs["x"].bfloat16()).sum().float()}

    shards = [{"x": torch.full((3,), value)} for value in (256.0, 1.0)]
    _, found = Gradients([Replica(step, (), {"weight": weight})]).of(shards)
    assert torch.equal(found["weight"], torch.full((3,), 257.0))


def test_threads_share_the_cores_and_give_them_back():
    before = torch.get_num_threads()
    with threads(before + 1):
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before

"""The loss of a batch and its gradients, computed by threads that each take a share of it.

A batch comes cut into shards: parts that are computed one after another (gradient accumulation),
each for several threads at once (data parallel). The loss is a sum over shards, so gradients are
added: by each thread over its own shards in order, then over the threads in order. The result
depends on how many threads there are, never on which is first.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor


class Method(Protocol):
    """A lowered method of a program."""

    def __call__(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]: ...


@dataclass(frozen=True, slots=True)
class Replica:
    """What one thread computes with; the parameters of several replicas share their memory.

    `before` is what no trained parameter can change; it runs in order, without autograd, and what
    each of it yields are further inputs of what follows. `step` yields `loss`, and each objective
    as `loss.NAME`.

    Each thread has parameter objects of its own: two threads that use one leaf can wait for each
    other for ever, one with the leaf's lock and the other with Python's (seen with torch 2.13).
    """

    step: Method
    before: Sequence[Method]
    trained: Mapping[str, Tensor]


class Gradients:
    """Losses and gradients of the trained parameters, for one batch after another."""

    def __init__(self, replicas: Sequence[Replica]) -> None:
        self._replicas = tuple(replicas)
        self._sums = [
            {
                name: torch.empty_like(weight, dtype=torch.float32)
                for name, weight in replica.trained.items()
            }
            for replica in replicas
        ]
        self._pool = ThreadPoolExecutor(len(replicas)) if len(replicas) > 1 else None

    def of(
        self, shards: Sequence[Mapping[str, Tensor]]
    ) -> tuple[dict[str, float], dict[str, Tensor]]:
        """The losses by name, and a float32 gradient for every trained parameter.

        The gradients are the caller's to change until the next call, which overwrites them.
        """
        workers = min(len(self._sums), len(shards))
        shares = [shards[worker::workers] for worker in range(workers)]
        run = map if self._pool is None else self._pool.map
        losses, *others = run(_share, self._replicas, shares, self._sums)
        for more in others:
            _add(losses, more)
        total, *parts = self._sums[:workers]
        for part in parts:
            for name, gradient in total.items():
                gradient.add_(part[name])
        return losses, total

    def close(self) -> None:
        """Let the threads go."""
        if self._pool is not None:
            self._pool.shutdown()


@contextmanager
def threads(workers: int) -> Iterator[None]:
    """Share the cores out: inside, each of the workers computes on its part of them."""
    if workers == 1:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(max(1, (os.cpu_count() or 1) // workers))
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _share(
    replica: Replica, shards: Sequence[Mapping[str, Tensor]], sums: Mapping[str, Tensor]
) -> dict[str, float]:
    """Compute one thread's shards, add their gradients up in `sums`, and return the losses."""
    losses = _summed(replica, shards[0], sums, first=True)
    for shard in shards[1:]:
        _add(losses, _summed(replica, shard, sums, first=False))
    return losses


def _summed(
    replica: Replica, shard: Mapping[str, Tensor], sums: Mapping[str, Tensor], *, first: bool
) -> dict[str, float]:
    """The losses of one shard, its gradients added up in `sums`.

    A function of its own, so that no gradient is held while the next shard is computed.
    """
    losses, gradients = _shard(replica, shard)
    # Copied, not kept: autograd may hand out one tensor twice, or one with strides of 0.
    for total, gradient in zip(sums.values(), gradients, strict=True):
        total.copy_(gradient) if first else total.add_(gradient)
    return losses


def _shard(
    replica: Replica, inputs: Mapping[str, Tensor]
) -> tuple[dict[str, float], tuple[Tensor, ...]]:
    with torch.no_grad():
        for method in replica.before:
            inputs = {**inputs, **method(inputs)}
    outputs = replica.step(inputs)
    gradients = torch.autograd.grad(
        outputs["loss"],
        tuple(replica.trained.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    return {name: value.item() for name, value in outputs.items()}, gradients


def _add(losses: dict[str, float], more: Mapping[str, float]) -> None:
    for name, loss in more.items():
        losses[name] += loss

"""The step of a stage as programs: forward, backward and AdamW in plain operations, sizes free.

`torch.export.export` takes a call of autograd inside a program without a word, and leaves the way
back out of it (torch 2.13): every gradient is then a constant. `_export` with `pre_dispatch=False`
records below autograd, where the way back is operations like others. What is private in torch is
called in this file alone, and its fruit compared with eager (`tests/training/test_ahead.py`). Never
`torch.export.experimental._export_forward_backward`, whose gradients through attention are wrong.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram

from .optim import MOMENTS, SCALES


@dataclass(frozen=True, slots=True)
class Rule:
    """What is constant in the steps of a stage; `clip` bounds the norm of all gradients."""

    betas: tuple[float, float]
    eps: float
    clip: float | None


class _BothWays(nn.Module):
    """A method, and the way back from its loss: blocks that are computed again take their weights
    there too."""

    def __init__(self, method: nn.Module) -> None:
        super().__init__()
        self.method = method

    def forward(
        self, inputs: Mapping[str, Tensor], leaves: tuple[Tensor, ...]
    ) -> tuple[dict[str, Tensor], tuple[Tensor, ...]]:
        """The losses, and the gradient of each leaf."""
        losses = self.method(inputs)
        found = torch.autograd.grad(
            losses["loss"], leaves, allow_unused=True, materialize_grads=True
        )
        return losses, found


class _Step(nn.Module):
    """What the parts of a step share: the method that yields the loss, and what learns."""

    _method: nn.Module

    def __init__(self, module: nn.Module, trained: Sequence[str], rule: Rule) -> None:
        super().__init__()
        # Not a submodule: its parameters must not become parameters of the program.
        object.__setattr__(self, "_method", module)
        self._trained = tuple(trained)
        self._rule = rule

    def _gradients(
        self, weights: Mapping[str, Tensor], inputs: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The losses, and a float32 gradient for each weight that learns."""
        with torch.enable_grad(), _computing_again():
            leaves = {name: weights[name].detach().requires_grad_() for name in self._trained}
            used = {name: leaves.get(name, weights[name]) for name in self._method.state_dict()}
            losses, found = torch.func.functional_call(
                _BothWays(self._method),
                {f"method.{name}": weight for name, weight in used.items()},
                (inputs, tuple(leaves.values())),
            )
        gradients = {name: one.float() for name, one in zip(leaves, found, strict=True)}
        return {name: loss.detach() for name, loss in losses.items()}, gradients

    def _move(
        self,
        weights: Mapping[str, Tensor],
        state: Mapping[str, Tensor],
        gradients: Mapping[str, Tensor],
        loss: Tensor,
    ) -> Tensor:
        """Clip, and move each weight once, in place; the norm of the gradients before that.

        Where it or the loss is infinite or no number, everything stays as it is.
        """
        norm = torch.stack([one.square().sum() for one in gradients.values()]).sum().sqrt()
        sane = norm.isfinite() & loss.isfinite()
        clip, (beta, beta_sq) = self._rule.clip, self._rule.betas
        scale = None if clip is None else torch.where(norm > clip, clip / (norm + 1e-6), 1.0)
        for number, name in enumerate(self._trained):
            rate, root, shrink = state[SCALES][:, number].unbind()
            gradient = gradients[name] if scale is None else gradients[name] * scale
            master = state.get(f"{name}/master", weights[name])
            mean, square = (state[f"{name}/{moment}"] for moment in MOMENTS)
            mean_now = torch.lerp(mean, gradient, 1 - beta)
            square_now = square * beta_sq + gradient * gradient * (1 - beta_sq)
            moved = master * shrink - rate * mean_now / (square_now.sqrt() / root + self._rule.eps)
            kept = torch.where(sane, moved, master)
            mean.copy_(torch.where(sane, mean_now, mean))
            square.copy_(torch.where(sane, square_now, square))
            master.copy_(kept)
            if master is not weights[name]:
                weights[name].copy_(kept)
        return norm


class WholeStep(_Step):
    """Forward, backward and AdamW in one: moves what it is given; yields losses and the norm."""

    def forward(self, weights: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """`inputs` has what the step is fed, and the state of the weights."""
        losses, gradients = self._gradients(weights, inputs)
        return losses | {"norm": self._move(weights, inputs, gradients, losses["loss"])}


class AddGradients(_Step):
    """Forward and backward of a part of a batch: its gradients are added to `NAME/gradient`."""

    def forward(self, weights: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of the part."""
        losses, gradients = self._gradients(weights, inputs)
        for name, gradient in gradients.items():
            inputs[f"{name}/gradient"].add_(gradient)
        return losses


class Update(_Step):
    """AdamW, from the gradients of a whole batch, whose loss is `loss`."""

    def forward(self, weights: dict[str, Tensor], inputs: dict[str, Tensor]) -> dict[str, Tensor]:
        """The norm of the gradients."""
        gradients = {name: inputs[f"{name}/gradient"] for name in self._trained}
        return {"norm": self._move(weights, inputs, gradients, inputs["loss"])}


@contextmanager
def _computing_again() -> Iterator[None]:
    """Inside, blocks that are not kept for the way back run again there, also while traced: torch
    keeps everything then, as it leaves the choice to a compiler that knows both ways."""
    before = torch._C._autograd._saved_tensors_hooks_set_tracing(False)
    try:
        yield
    finally:
        torch._C._autograd._saved_tensors_hooks_set_tracing(before)


def export_step(function: nn.Module, arguments: tuple[Any, ...], free: Any) -> ExportedProgram:
    """The program of a part of a step; torch refuses it where a named size is not free."""
    from torch.export._trace import _export

    made: ExportedProgram = _export(
        function, arguments, {}, dynamic_shapes=free, strict=False, pre_dispatch=False
    )
    return made

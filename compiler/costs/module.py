"""The parameters below a name, and the layers that they make up."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .kernels import (
    F32,
    add,
    attention,
    cast,
    cat,
    each,
    layer_norm,
    linear,
    matmul,
    mean,
    multiply,
    safe_softmax,
    softmax,
    squared,
)
from .segments import Segments, causal_attention
from .tape import Tape, Value
from .views import (
    flatten,
    reshape,
    split,
    transpose,
    unflatten,
)


@dataclass(frozen=True)
class Module:
    """Parameters by full name, of which those that begin with `prefix` are this module's.

    `again` holds the prefixes of blocks that keep nothing for the backward pass but their inputs.
    """

    tape: Tape
    parameters: Mapping[str, Value]
    again: frozenset[str]
    prefix: str = ""

    def under(self, name: str | int) -> Module:
        """A part of it."""
        return Module(self.tape, self.parameters, self.again, f"{self.prefix}{name}.")

    def get(self, name: str) -> Value | None:
        """A parameter that may not be there."""
        return self.parameters.get(f"{self.prefix}{name}")

    def __getitem__(self, name: str) -> Value:
        return self.parameters[f"{self.prefix}{name}"]

    def through(self, run: Callable[..., Value], *inputs: Any) -> Value:
        """What this block yields, computed again on the way back where the stage says so."""
        if self.prefix in self.again:
            return self.tape.checkpointed(lambda: run(*inputs))
        return run(*inputs)

    def stacked(
        self, indices: Iterable[int], block: Callable[[Module, int, Value], Value], x: Value
    ) -> Value:
        """What blocks make of `x`, one after another; of many that repeat three are run."""
        places, kinds = list(indices), self._kinds()
        while places:
            unit, times = _repeated([kinds[index] for index in places])
            now, places = places[: unit * times], places[unit * times :]
            for index in now[:unit]:
                x = self._block(block, index, x)
            if times > 3:
                since = self.tape.mark()
                for index in now[unit : 2 * unit]:
                    x = self._block(block, index, x)
                self.tape.repeat(since, times - 2)
                now = now[: 2 * unit] + now[-unit:]
            for index in now[unit if times <= 3 else 2 * unit :]:
                x = self._block(block, index, x)
        return x

    def _block(self, block: Callable[[Module, int, Value], Value], index: int, x: Value) -> Value:
        own = self.under(index)
        return own.through(block, own, index, x)

    def _kinds(self) -> dict[int, Hashable]:
        """What tells blocks apart: their parameters, which of them learn, what they keep."""
        found: dict[int, list[Hashable]] = {}
        for name, value in self.parameters.items():
            if name.startswith(self.prefix):
                number, _, rest = name.removeprefix(self.prefix).partition(".")
                found.setdefault(int(number), []).append((rest, value.sizes, value.wants))
        return {
            index: (f"{self.prefix}{index}." in self.again, *parameters)
            for index, parameters in found.items()
        }

    def linear(self, name: str, x: Value) -> Value:
        """A linear layer, and the low-rank change beside it if it has one."""
        made = linear(x, self[f"{name}.weight"], self.get(f"{name}.bias"))
        into = self.get(f"{name}.lora_a")
        if into is None:
            return made
        low = linear(x, into, None)
        return add(made, each(linear(low, self[f"{name}.lora_b"], None)))

    def norm(self, name: str, x: Value) -> Value:
        """A norm: one kernel where it has a shift, else written out in float32."""
        weight, bias = self[f"{name}weight"], self.get(f"{name}bias")
        if bias is not None:
            return layer_norm(x, weight, bias)
        wide = cast(x, F32)
        scale = each(each(mean(squared(wide))), "output")
        return multiply(weight, cast(multiply(wide, scale), x.item))

    def feed_forward(self, x: Value, act: str) -> Value:
        """Two linear layers round an activation."""
        return self.linear("fc2", activated(self.linear("fc1", x), act))

    def gated(self, x: Value, act: str) -> Value:
        """down(act(gate(x)) * up(x))."""
        gate = activated(self.linear("gate", x), act)
        return self.linear("down", multiply(gate, self.linear("up", x)))


def _repeated(kinds: Sequence[Hashable]) -> tuple[int, int]:
    """How many blocks make up what repeats at the start of a list, and how often it does.

    >>> _repeated("aaaa"), _repeated("abababababc"), _repeated("abc")
    ((1, 4), (2, 5), (1, 1))
    """
    for unit in (1, 2, 3):
        times = 1
        while kinds[times * unit : (times + 1) * unit] == kinds[:unit]:
            times += 1
        if times > 3:
            return unit, times
    return 1, 1


def activated(x: Value, act: str) -> Value:
    """An activation by name: all keep their input, and ReLU its output."""
    if act == "quick_gelu":
        return multiply(x, each(each(x), "output"))
    return each(x, "output" if act == "relu" else "input")


def heads_of(x: Value, heads: int) -> Value:
    """From [B, T, W] to [B, H, T, D]."""
    return transpose(unflatten(x, -1, (heads, -1)), 1, 2)


def attend(q: Value, k: Value, v: Value, mask: Value | Segments | None = None) -> Value:
    """Attention, [B, H, T, D]; a single query goes through plain products."""
    if isinstance(mask, Segments):
        return causal_attention(q, k, v, mask)
    if q.sizes[2] > 1:
        shown = None if mask is None else reshape(mask, (mask.sizes[0], 1, *mask.sizes[1:]))
        return attention(q, k, v, shown)
    groups = unflatten(q, 1, (k.sizes[1], -1))
    keys, values = (reshape(x, (*x.sizes[:2], 1, *x.sizes[2:])) for x in (k, v))
    scores = each(cast(matmul(groups, transpose(keys, -2, -1)), F32))
    if mask is not None:
        scores = each(scores)
    shares = cast(softmax(scores), v.item)
    return flatten(matmul(shares, values), 1, 2)


def plain_attention(q: Value, k: Value, v: Value) -> Value:
    """Attention as two products and a softmax, in float32: what torch does on a CPU where queries
    and values differ in width.
    """
    item = v.item
    q32, k32, v32 = (cast(x, F32) for x in (q, k, v))
    scaled = each(q32)
    shares = safe_softmax(matmul(scaled, each(transpose(k32, -2, -1))))
    made = cast(matmul(shares, v32), item)
    cast(shares.alone(), item)
    return made


def mixed(heads: Value) -> Value:
    """From [B, H, T, D] back to [B, T, W]."""
    return flatten(transpose(heads, 1, 2), 2)


def rotated(x: Value, cos: Value, sin: Value) -> Value:
    """Queries or keys turned by the angles of their places."""
    half = x.sizes[-1] // 2
    left, right = split(x, -1, (half, half))
    return add(multiply(x, cos), multiply(cat((each(right), left), -1), sin))

"""What becomes an engine: the program of a method in TensorRT's terms, for a range of sizes.

Tensors in, one after another: parameters first, so that one copy of the weights serves all engines,
then inputs. Tensors out, updated caches last: `kv_updated` yields the new cache, and the engine's
layer for it writes into the old one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.export import ExportedProgram
from torch.fx import GraphModule, Node
from torch.nn import functional

from ..blocks.matrices import feed_forward, residual_linear
from ..blocks.operators import masked_segments
from ..blocks.spans import masked_cache, span_mask
from .base import BackendError, Limit, Method, Port
from .engines import UPDATED
from .exporting import examples, export_flat
from .sampling import Sampling

WHOLE = 8
"""The width of a head is a multiple of it, in float16 and bfloat16 behind a mask: of any other, the
builder of TensorRT for RTX 1.6 makes nothing but an internal error."""


@torch.library.custom_op("triptych::kv_updated", mutates_args=())
def kv_updated(cache: Tensor, new: Tensor, start: Tensor) -> Tensor:
    """The cache with `new` in its slots from `start` on; TensorRT writes it into the cache."""
    slot_BT = start[:, None] + torch.arange(new.shape[2], device=start.device)
    return cache.scatter(2, slot_BT[:, None, :, None].expand_as(new), new)


@kv_updated.register_fake
def _(cache: Tensor, new: Tensor, start: Tensor) -> Tensor:
    return torch.empty_like(cache)


@dataclass(frozen=True, slots=True)
class Profile:
    """The shapes that an engine takes for one input: the least, the usual and the greatest."""

    least: tuple[int, ...]
    usual: tuple[int, ...]
    most: tuple[int, ...]

    @property
    def static(self) -> bool:
        """Whether there is one shape only."""
        return self.least == self.most


def profile(port: Port, limits: Mapping[str, Limit]) -> Profile:
    """The profile of an input, from the limits of its named sizes."""
    return Profile(
        port.shape({name: limit.low for name, limit in limits.items()}),
        port.shape(examples(limits)),
        port.shape({name: limit.high for name, limit in limits.items()}),
    )


def engine_limits(
    limits: Mapping[str, Limit], spec: Mapping[str, Any], batch: int, slots: int | None
) -> dict[str, Limit]:
    """The limits that engines are built for: a cache of one size, so many sequences at a time, each
    with all of its beams.

    A call of a tower takes the largest picture or frame, with all its tiles: attention over packed
    rows is masked there, and the mask grows with their square. The session cuts what is more
    between pictures.
    """
    found = dict(limits)
    if "sampling" in spec:
        batch *= Sampling.from_spec(spec["sampling"]).beams
    for name, size in (("batch", batch), ("slots", slots)):
        if name not in limits:
            continue
        size = size or limits[name].high
        if size not in limits[name]:
            raise BackendError(f"{name} {size} is outside what the mode allows: {limits[name]}")
        found[name] = Limit(size, size)
    for name, most in _largest(spec["inputs"]).items():
        if name in limits:
            limit = limits[name]
            found[name] = replace(limit, high=max(limit.low, min(limit.high, most)))
    if "features" in limits:
        found["features"] = replace(
            limits["features"], high=max(limits["features"].low, batch * limits["length"].high)
        )
    return found


def _largest(inputs: Mapping[str, Any]) -> dict[str, int]:
    """What the largest picture takes, by the names of sizes: of each input, and of all."""
    found: dict[str, int] = {}
    for medium, given in inputs.items():
        size = given["size"]
        for view, seen in given["views"].items():
            if seen["dense"]:
                tiles = size["high"] + size["thumbnail"] if size["call"] == "tiles" else 1
                found[f"{medium}.pictures"] = tiles
            else:
                side = size["multiple"] // seen["patch"]
                found[f"{view}.patches"] = size["most"] * side**2
    for kind in ("patches", "pictures"):
        own = [most for name, most in found.items() if name.endswith(f".{kind}")]
        found |= {kind: max(own)} if own else {}
    return found


def program(
    portable: ExportedProgram, method: Method, ports: Sequence[Port], limits: Mapping[str, Limit]
) -> ExportedProgram:
    """What becomes an engine, of the portable program of a method: tensors in, as `ports` says,
    parameters first and then inputs; tensors out, updated caches last.

    Pictures are kept apart by a mask, and so is what is seen of a cache; caches are values:
    `kv_updated` yields the new one. The limits may be narrower than those of the portable program,
    which is of no use afterwards.
    """
    graph = portable.graph
    _return_caches(graph, method, len(method.parameters))
    _mask_caches(graph)
    for node in graph.nodes:
        node.target = _FORMS.get(node.target, node.target)
    return export_flat(GraphModule(torch.nn.Module(), graph), ports, limits)


def _return_caches(graph: torch.fx.Graph, method: Method, parameters: int) -> None:
    """Writes become values; what reads a cache after its write reads the value, which is returned
    too."""
    placeholders = [node for node in graph.nodes if node.op == "placeholder"]
    names = dict(zip(method.inputs, placeholders[parameters:], strict=True))
    writes = [node for node in graph.nodes if node.target is torch.ops.triptych.kv_update.default]
    newest: dict[Node, Node] = {}
    for write in writes:
        cache, new, start = write.args
        with graph.inserting_before(write):
            value = graph.call_function(
                torch.ops.triptych.kv_updated.default, (newest.get(cache, cache), new, start)
            )
        if "custom" in write.meta:  # the part of the recipe that it is of
            value.meta["custom"] = write.meta["custom"]
        position = {node: index for index, node in enumerate(graph.nodes)}
        for user in list(cache.users):
            if position[user] > position[write]:
                user.replace_input_with(cache, value)
        newest[cache] = value
        graph.erase_node(write)
    unwritten = [name for name in method.caches if names[name] not in newest]
    assert not unwritten, f"{method.name} does not write {unwritten}"
    output = graph.output_node()
    (yielded,) = output.args
    assert isinstance(yielded, tuple | list)
    output.args = ((*yielded, *(newest[names[name]] for name in method.caches)),)
    graph.eliminate_dead_code()
    graph.lint()


def _mask_caches(graph: torch.fx.Graph) -> None:
    """Attention to what is seen of caches becomes attention under a mask, one for all layers."""
    masks: dict[Node, Node] = {}
    for node in list(graph.nodes):
        if node.target is not torch.ops.triptych.cache_attention.default:
            continue
        q, k, v, span = node.args
        if span not in masks:
            with graph.inserting_before(node):
                slots = graph.call_function(torch.ops.aten.sym_size.int, (k, 2))
                masks[span] = graph.call_function(span_mask, (*span.args[0], slots))
            masks[span].meta = {"custom": span.meta["custom"]}
        node.target, node.args = _attend_cache, (q, k, v, masks[span])
    graph.eliminate_dead_code()


def _attend_cache(q: Tensor, k: Tensor, v: Tensor, mask: Tensor) -> Tensor:
    if q.shape[2] == 1:
        return masked_cache(q, k, v, mask)
    shared = q.shape[1] > k.shape[1]
    return _attend(q, k, v, mask[:, None], enable_gqa=shared).transpose(1, 2)


def _attend(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    *,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """Attention whose values are as wide as its keys, and that behind a mask in steps of 8 where
    numbers have 2 bytes, as TensorRT has it: zeros fill them up."""
    width, wide = v.shape[-1], k.shape[-1]
    if k.element_size() == 2:
        wide = -(-wide // WHOLE) * WHOLE
    if wide > k.shape[-1]:
        scale = k.shape[-1] ** -0.5 if scale is None else scale
    q, k, v = (_filled(x, wide) for x in (q, k, v))
    out = functional.scaled_dot_product_attention(
        q, k, v, attn_mask, dropout_p, is_causal, scale=scale, enable_gqa=enable_gqa
    )
    return out if width == wide else out[..., :width]


def _filled(x: Tensor, wide: int) -> Tensor:
    return x if x.shape[-1] == wide else functional.pad(x, (0, wide - x.shape[-1]))


def _attend_pictures(q: Tensor, k: Tensor, v: Tensor, segment_id: Tensor) -> Tensor:
    return masked_segments(q, k, v, segment_id, _attend)


def _gather(x: Tensor, dim: int, index: Tensor) -> Tensor:
    """Whole rows of [B, T, W] by their numbers: the converter of `gather` wants fixed sizes."""
    if dim != 1 or index.dim() != 3 or index.stride(2) != 0:
        return x.gather(dim, index)
    return x[torch.arange(x.shape[0], device=x.device)[:, None], index[..., 0]]


_FORMS: Mapping[Any, Any] = {
    torch.ops.triptych.segment_attention.default: _attend_pictures,
    torch.ops.triptych.linear.default: functional.linear,
    torch.ops.triptych.residual_linear.default: residual_linear,
    torch.ops.triptych.feed_forward.default: feed_forward,
    torch.ops.aten.scaled_dot_product_attention.default: _attend,
    torch.ops.aten.gather.default: _gather,
}
"""What our own operators become; and torch's, where a converter refuses calls that occur."""


def binding_names(method: Method) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """The names of an engine's inputs and outputs, in the order of its program."""
    updated = tuple(f"{UPDATED}{name}" for name in method.caches)
    return (*method.parameters, *method.inputs), (*method.outputs, *updated)

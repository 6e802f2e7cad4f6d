"""Graph -> torch modules: one tree of parameters, and one callable a method.

The tree's `state_dict` has the recipe's names. A method holds the same modules and interprets its
graph over them, so that a compiler that traces it sees straight-line tensor code.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from ..blocks.adapter.attention_pool import AttentionPool
from ..blocks.adapter.merge import MergeMLP, windows
from ..blocks.adapter.mlp import MLP, SplitMLP
from ..blocks.adapter.pixel_shuffle import pixel_shuffle
from ..blocks.adapter.qformer import QFormer
from ..blocks.adapter.resampler import Resampler, sines
from ..blocks.adapter.sam_neck import SamNeck
from ..blocks.contrast import Scale, contrastive, hard_negatives, similarities, unit_sum
from ..blocks.language.attention import cache_span
from ..blocks.language.decoder import DecoderBlocks, Embed
from ..blocks.language.query_decoder import Queries, QueryBlocks
from ..blocks.linear import Linear
from ..blocks.lora import AdaptedLinear
from ..blocks.loss import region_words, weighted_cross_entropy
from ..blocks.norms import NORMS
from ..blocks.operators import in_segments, linear, seen
from ..blocks.quantized import Int4Linear, Int8Linear, QuantizedLinear
from ..blocks.rounding import Rounding, rounded
from ..blocks.splice import splice
from ..blocks.storage import Storage
from ..blocks.vision.encoder import VisionBlocks
from ..blocks.vision.patches import PatchEmbed
from ..blocks.vision.positions import MapPositions, Positions
from ..blocks.vision.sam import SamBlocks
from ..dsl.stages import Lora
from . import ops
from .graph import Graph, Program
from .types import Size


@dataclass(frozen=True, slots=True)
class Row:
    """What one operation becomes: a module (None: it owns nothing), and how to call it.

    `run` takes the operation, the module that owns the parameters (perhaps that of another node),
    and the values of the inputs in order.
    """

    run: Callable[..., Tensor]
    make: Callable[[Any], nn.Module] | None = None


def _run_vision(op: ops.VisionBlocks, block: nn.Module, *values: Tensor) -> Tensor:
    if not op.drop_path:
        return block(*values, span=op.span)
    *given, kept = values
    return block(*given, kept=kept, span=op.span)


def _vision_blocks(op: ops.VisionBlocks) -> nn.Module:
    return VisionBlocks(
        op.depth,
        op.width,
        op.heads,
        op.ffn,
        op.act,
        op.norm,
        op.eps,
        op.qkv_bias,
        k_bias=op.k_bias,
        qk_norm=op.qk_norm,
        qk_eps=op.qk_eps,
        layer_scale=op.layer_scale is not None,
        taps=op.taps,
    )


def _sam_blocks(op: ops.SamBlocks) -> nn.Module:
    return SamBlocks(
        op.depth,
        op.width,
        op.heads,
        op.ffn,
        op.act,
        op.norm,
        op.eps,
        qkv_bias=op.qkv_bias,
        grid=op.grid,
        window=op.window,
        attend_all=op.attend_all,
        taps=op.taps,
    )


def _sam_neck(op: ops.SamNeck) -> nn.Module:
    return SamNeck(op.maps, op.into, op.from_grid, op.width, op.norm, op.eps, op.grid, op.strided)


def _merge_mlp(op: ops.MergeMLP) -> nn.Module:
    return MergeMLP(op.area, op.width, op.hidden, op.out, op.act, op.norm, op.eps)


def _qformer(op: ops.QFormer) -> nn.Module:
    return QFormer(
        op.queries,
        op.depth,
        op.width,
        op.into,
        op.heads,
        op.ffn,
        op.act,
        op.norm,
        op.eps,
        op.cross_every,
    )


def _resampler(op: ops.Resampler) -> nn.Module:
    return Resampler(op.queries, op.grid, op.into, op.width, op.heads, op.out, op.norm, op.eps)


def _decoder_blocks(op: ops.DecoderBlocks) -> nn.Module:
    return DecoderBlocks(
        op.depth,
        op.width,
        op.heads,
        op.kv_heads,
        op.head_dim,
        op.ffn,
        op.act,
        op.norm,
        op.eps,
        op.qkv_bias,
    )


def _run_decoder(
    op: ops.DecoderBlocks,
    block: nn.Module,
    x_BTW: Tensor,
    cos_BTD: Tensor,
    sin_BTD: Tensor,
    *rest: Any,
) -> Tensor:
    if not op.cached:
        return block(x_BTW, cos_BTD, sin_BTD, in_segments(*rest))
    slot_BT, first_B, caches, *scale_BT = rest
    seen_BTS = seen(*cache_span(slot_BT, first_B), caches[0][0])
    return block(x_BTW, cos_BTD, sin_BTD, seen_BTS, caches, slot_BT[:, 0], *scale_BT)


def _take_last(
    op: ops.TakeLast, block: None, x_BTW: Tensor, position_B: Tensor | None = None
) -> Tensor:
    if position_B is None:
        return x_BTW[:, -1]
    return x_BTW[torch.arange(x_BTW.shape[0], device=x_BTW.device), position_B]


def _query_blocks(op: ops.QueryBlocks) -> nn.Module:
    return QueryBlocks(
        op.depth,
        op.width,
        op.into,
        op.heads,
        op.ffn,
        op.act,
        op.norm,
        op.eps,
        op.cross_every,
        op.theta,
    )


def _hard_negatives(
    op: ops.HardNegatives,
    block: None,
    image_BW: Tensor,
    text_BW: Tensor,
    scale: Tensor,
    group_B: Tensor,
) -> Tensor:
    own_B = torch.arange(group_B.shape[0], device=group_B.device)
    if op.of == "texts":
        return torch.cat((own_B, own_B, hard_negatives(image_BW, text_BW, scale, group_B)))
    return torch.cat((own_B, hard_negatives(text_BW, image_BW, scale, group_B), own_B))


PRECISIONS: Mapping[str, torch.dtype] = MappingProxyType(
    {"f32": torch.float32, "bf16": torch.bfloat16, "f16": torch.float16}
)
"""What a recipe calls the precisions."""

LOWERING: Mapping[type[ops.Operation], Row] = MappingProxyType(
    {
        ops.Cast: Row(run=lambda op, block, x: x.to(PRECISIONS[op.to])),
        ops.PatchEmbed: Row(
            make=lambda op: PatchEmbed(op.channels, op.frames, op.patch, op.width, op.bias),
            run=lambda op, block, rows: block(rows),
        ),
        ops.Positions: Row(
            make=lambda op: Positions(op.width, op.table, op.grid, op.class_token),
            run=lambda op, block, x: block(x),
        ),
        ops.MapPositions: Row(
            make=lambda op: MapPositions(op.width, op.grid), run=lambda op, block, x: block(x)
        ),
        ops.VisionBlocks: Row(make=_vision_blocks, run=_run_vision),
        ops.SamBlocks: Row(make=_sam_blocks, run=lambda op, block, x: block(x, op.span)),
        ops.Tap: Row(run=lambda op, block, taps: taps[op.index]),
        ops.DropClassToken: Row(run=lambda op, block, x: x[:, 1:]),
        ops.TakeTokens: Row(
            # Not `take_along_dim`: it takes every size for a constant where a program is exported.
            run=lambda op, block, x, index: x.gather(
                1, index[..., None].expand(-1, -1, x.shape[-1])
            )
        ),
        ops.Rows: Row(run=lambda op, block, x: x.flatten(0, 1)),
        ops.Pictures: Row(run=lambda op, block, x: x.unflatten(0, (-1, op.tokens))),
        ops.Windows: Row(run=lambda op, block, x: windows(x, op.grid, op.window)),
        ops.MergeMLP: Row(make=_merge_mlp, run=lambda op, block, x: block(x)),
        ops.QFormer: Row(make=_qformer, run=lambda op, block, x: block(x)),
        ops.Resampler: Row(make=_resampler, run=lambda op, block, x: block(x)),
        ops.AttentionPool: Row(
            make=lambda op: AttentionPool(op.width, op.heads, op.out, op.norm, op.eps),
            run=lambda op, block, x: block(x),
        ),
        ops.Queries: Row(
            make=lambda op: Queries(op.number, op.width), run=lambda op, block: block()
        ),
        ops.QueryBlocks: Row(
            make=_query_blocks, run=lambda op, block, *values: getattr(block, op.use)(*values)
        ),
        ops.Scale: Row(make=lambda op: Scale(), run=lambda op, block: block()),
        ops.UnitSum: Row(run=lambda op, block, *vectors: unit_sum(*vectors)),
        ops.Mean: Row(run=lambda op, block, x: x.mean(1)),
        ops.Pick: Row(run=lambda op, block, x, index: x[index]),
        ops.Similarities: Row(run=lambda op, block, *values: similarities(*values)),
        ops.Contrast: Row(
            run=lambda op, block, *values: contrastive(*values, smoothing=op.smoothing)
        ),
        ops.HardNegatives: Row(run=_hard_negatives),
        ops.SamNeck: Row(make=_sam_neck, run=lambda op, block, *maps: block(*maps)),
        ops.PixelShuffle: Row(run=lambda op, block, x: pixel_shuffle(x, op.grid, op.factor)),
        ops.Linear: Row(
            make=lambda op: nn.Linear(op.width, op.out, bias=op.bias),
            run=lambda op, block, x: block(x),
        ),
        ops.MLP: Row(
            make=lambda op: MLP(op.width, op.hidden, op.out, op.act, op.norm, op.eps),
            run=lambda op, block, x: block(x),
        ),
        ops.SplitMLP: Row(
            make=lambda op: SplitMLP(op.widths, op.each, op.out, op.act),
            run=lambda op, block, *sources: block(*sources),
        ),
        ops.Embed: Row(
            make=lambda op: Embed(op.vocab, op.width), run=lambda op, block, ids: block(ids)
        ),
        ops.DecoderBlocks: Row(make=_decoder_blocks, run=_run_decoder),
        ops.Norm: Row(
            make=lambda op: NORMS[op.kind](op.width, op.eps), run=lambda op, block, x: block(x)
        ),
        ops.Head: Row(
            make=lambda op: Linear(op.width, op.vocab, bias=False),
            # A tied head finds the module of the embedding here: only the table is the same.
            run=lambda op, block, x: linear(x, block.weight) if op.tied else block(x),
        ),
        ops.Concat: Row(run=lambda op, block, *rows: torch.cat(rows)),
        ops.Splice: Row(run=lambda op, block, *values: splice(*values)),
        ops.TakeRows: Row(run=lambda op, block, x, index: x.flatten(0, 1)[index]),
        ops.TakeLast: Row(run=_take_last),
        ops.CrossEntropy: Row(run=lambda op, block, *values: weighted_cross_entropy(*values)),
        ops.RegionWords: Row(
            run=lambda op, block, *values: region_words(*values, temperature=op.temperature)
        ),
        ops.Add: Row(run=lambda op, block, *terms: torch.stack(terms).sum(0)),
    }
)
"""Every operation but those that the host feeds."""


@dataclass(frozen=True, slots=True)
class Feed:
    """What a method takes under one name: sizes, some of them symbols, and the dtype."""

    sizes: tuple[Size, ...]
    dtype: torch.dtype


class Scope(nn.Module):
    """A name in the middle of a path, such as `vit` in `vit.blocks`."""

    def place(self, path: str, module: nn.Module) -> None:
        """Puts a module at a path below this one."""
        name, _, rest = path.partition(".")
        if not rest:
            self.add_module(name, module)
            return
        if name not in self._modules:
            self.add_module(name, Scope())
        inner = self._modules[name]
        assert isinstance(inner, Scope), f"{path} lies inside a module"
        inner.place(rest, module)


@dataclass(frozen=True, slots=True)
class _Step:
    """One node, ready to run."""

    name: str
    op: ops.Operation
    run: Callable[..., Tensor]
    module: nn.Module | None
    inputs: tuple[str, ...]


class MethodModule(Scope):
    """One method: tensors in by name, tensors out by name; caches are updated in place.

    Its `state_dict` holds what the method uses, under the names of the whole tree, so that
    `torch.func.functional_call` takes parameters by the recipe's names.
    """

    def __init__(self, graph: Graph, modules: Mapping[str, nn.Module], dtype: torch.dtype) -> None:
        super().__init__()
        self.graph = graph
        self.signature = signature(graph, dtype)
        self.outputs = dict(graph.outputs)
        self._caches = {
            node.name: node.op.layers for node in graph if isinstance(node.op, ops.Cache)
        }
        self._inputs = [node.name for node in graph if isinstance(node.op, ops.Input)]
        self._steps: list[_Step] = []
        owners: dict[str, nn.Module] = {}
        for node in graph:
            if isinstance(node.op, ops.Input | ops.Cache):
                continue
            row = LOWERING[type(node.op)]
            owner = modules[node.module] if row.make else None
            if owner is not None:
                owners[node.module] = owner
            self._steps.append(_Step(node.name, node.op, row.run, owner, node.inputs))
        for name, owner in owners.items():
            self.place(name, owner)

    def forward(self, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The outputs of the method; of `inputs`, only those of `signature` are looked at."""
        values = self.values(inputs)
        return {name: values[node] for name, node in self.outputs.items()}

    def values(self, inputs: Mapping[str, Tensor]) -> dict[str, Any]:
        """What every node of the graph yields, by name: for tests, and for looking inside.

        A cache is the list of its layers' (keys, values).
        """
        values: dict[str, Any] = {name: inputs[name] for name in self._inputs}
        for name, layers in self._caches.items():
            values[name] = [
                (inputs[f"{name}.{i}.k"], inputs[f"{name}.{i}.v"]) for i in range(layers)
            ]
        for step in self._steps:
            arguments = [values[name] for name in step.inputs]
            values[step.name] = step.run(step.op, step.module, *arguments)
        return values


@dataclass(frozen=True)
class Lowered:
    """A program as torch modules: `module` owns the parameters, `methods` share them."""

    program: Program
    module: Scope
    methods: Mapping[str, MethodModule]
    dtype: torch.dtype

    def init(self, seed: int) -> None:
        """Starts every parameter as its declaration says.

        Each draws from a generator of its own, made from the seed and the name: a parameter starts
        the same whichever others the model has.
        """
        with torch.no_grad():
            for name, tensor in self.module.state_dict(keep_vars=True).items():
                tensor.copy_(initial(name, self.program.parameters[name], seed))

    def quantized(self, held: Mapping[str, Storage]) -> tuple[Lowered, dict[str, Rounding]]:
        """The same with these matrices in few bits, and what that changes in each of them.

        This one, whose layers hold what they should, is of no use afterwards.
        """
        changed = dict[str, Rounding]()
        for name, storage in held.items():
            path = name.removesuffix(".weight")
            above, _, last = path.rpartition(".")
            layer = self.module.get_submodule(path)
            assert isinstance(layer, nn.Linear), f"{path} is not linear"
            kind: type[QuantizedLinear] = Int4Linear if storage.bits == 4 else Int8Linear
            tensors, changed[name] = rounded(layer.weight.detach(), storage)
            self.module.get_submodule(above).add_module(last, kind(tensors, layer.bias))
        return replace(self, methods=_methods(self.program, self.module, self.dtype)), changed

    def merged(self) -> dict[str, Tensor]:
        """Every parameter by name, with low-rank changes added in: what inference loads."""
        weights: dict[str, Tensor] = self.module.state_dict()
        for path, module in self.module.named_modules():
            if isinstance(module, AdaptedLinear):
                weights[f"{path}.weight"] = module.merged().detach()
                del weights[f"{path}.lora_a"], weights[f"{path}.lora_b"]
        return weights


def lower(program: Program, *, dtype: torch.dtype = torch.float32, device: str = "cpu") -> Lowered:
    """The modules of a program, their memory not yet filled: `Lowered.init` or load weights next.

    Where nodes have a precision of their own, `dtype` is that of what lies between them. On the
    device "meta" nothing is allocated: shapes and names only.
    """
    owners = {
        node.module: node.op
        for graph in program.methods.values()
        for node in graph
        if node.op.parameters()
    }
    tree = Scope()
    with torch.device("meta"):
        for name, op in owners.items():
            make = LOWERING[type(op)].make
            assert make, f"{op.name} has parameters and no module"
            tree.place(name, make(op))
        for name, lora in program.adapted.items():
            _adapt(tree, name.removesuffix(".weight"), lora)
    tree.to(dtype)
    for node in (node for graph in program.methods.values() for node in graph):
        if node.module in owners and node.precision:
            tree.get_submodule(node.module).to(PRECISIONS[node.precision])
    if device != "meta":
        tree.to_empty(device=device)
    lowered = Lowered(program, tree, _methods(program, tree, dtype), dtype)
    _verify(lowered)
    return lowered


def _methods(program: Program, tree: Scope, dtype: torch.dtype) -> Mapping[str, MethodModule]:
    """The methods of a program over the modules of a tree."""
    owners = {
        node.module: tree.get_submodule(node.module)
        for graph in program.methods.values()
        for node in graph
        if node.op.parameters()
    }
    return MappingProxyType(
        {name: MethodModule(graph, owners, dtype) for name, graph in program.methods.items()}
    )


def signature(graph: Graph, dtype: torch.dtype) -> dict[str, Feed]:
    """What a method must be fed, in the order of its graph; a cache as one pair a layer."""
    dtypes = {"float": dtype, "i64": torch.int64, **PRECISIONS}
    feeds: dict[str, Feed] = {}
    for node in graph:
        if isinstance(node.op, ops.Input):
            feeds[node.name] = Feed(node.op.type.sizes, dtypes[node.op.type.dtype])
        elif isinstance(node.op, ops.Cache):
            kind = node.result()
            for layer in range(node.op.layers):
                for half in ("k", "v"):
                    feeds[f"{node.name}.{layer}.{half}"] = Feed(kind.sizes[2:], dtypes[kind.dtype])
    return feeds


def initial(name: str, param: ops.Param, seed: int) -> Tensor:
    """What a parameter starts from; it depends on the seed, its name and its declaration alone."""
    if param.init.kind == "zeros":
        return torch.zeros(param.shape)
    if param.init.kind == "ones":
        return torch.ones(param.shape)
    if param.init.kind == "constant":
        return torch.full(param.shape, param.init.scale)
    if param.init.kind == "sines":
        assert param.init.grid
        return sines(*param.init.grid, param.shape[-1])
    digest = hashlib.sha256(f"{seed}:{name}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8], "big"))
    fan_in = param.init.kind == "fan_in"
    scale = math.prod(param.shape[1:]) ** -0.5 if fan_in else param.init.scale
    return torch.randn(param.shape, generator=generator) * scale


def _adapt(tree: Scope, path: str, lora: Lora) -> None:
    """Puts a layer that learns beside itself in the place of a linear one."""
    *above, name = path.split(".")
    plain = tree.get_submodule(path)
    assert isinstance(plain, nn.Linear), f"{path} is not linear"
    adapted = AdaptedLinear(
        plain.in_features,
        plain.out_features,
        bias=plain.bias is not None,
        rank=lora.rank,
        scale=lora.scale,
    )
    tree.get_submodule(".".join(above)).add_module(name, adapted)


def _verify(lowered: Lowered) -> None:
    """The modules own what the graph declared, name by name and shape by shape."""
    program = lowered.program
    used = {name for graph in program.methods.values() for name in graph.parameters()}
    made = {name: tuple(tensor.shape) for name, tensor in lowered.module.state_dict().items()}
    assert used <= made.keys(), f"no block makes {sorted(used - made.keys())}"
    for name, shape in made.items():
        assert shape == program.parameters[name].shape, f"{name} is made {shape}"

"""Linear layers by how their weights are stored, as operators that a compiler does not look into.

`triptych::linear` is torch's layer, `triptych::residual_linear` that layer added to what stands
beside it, `triptych::feed_forward` two layers with what is between them; `triptych::linear_int8`
and `triptych::linear_int4` have their weights in few bits. What stands here is their meaning, in
plain torch: the oracle, and what many rows of the last two use. On a CPU, kernels in C++ take its
place where they are loaded (backends/native.py).

Shape suffixes: R rows, I width that goes in, H width between, O width that comes out, P bytes of a
row, G groups of a row, L weights of a group.
"""

import torch
from torch import Tensor
from torch.nn import functional

from .activations import ACTIVATIONS

FUSED = ("silu", "quick_gelu", "gelu_tanh", "gelu", "relu")
"""Activations of `feed_forward`, by their numbers from 1 on (kernels/activations.h)."""

GROUPS = (32, 64, 128)
"""Lengths of groups that the kernel of `triptych::linear_int4` knows."""


def residual_linear(
    x_RI: Tensor, weight_OI: Tensor, bias_O: Tensor | None, residual_RO: Tensor
) -> Tensor:
    """torch's layer, added to the residual."""
    return residual_RO + functional.linear(x_RI, weight_OI, bias_O)


def feed_forward(
    x_RI: Tensor,
    gate_HI: Tensor | None,
    up_HI: Tensor,
    up_bias_H: Tensor | None,
    down_OH: Tensor,
    down_bias_O: Tensor | None,
    activation: int,
    residual_RO: Tensor | None,
) -> Tensor:
    """Two of torch's layers and the activation of this number, [R, O]: of what is between them, or
    of the gate that it is multiplied by. What comes out is added to the residual."""
    act, up_RH = ACTIVATIONS[FUSED[activation - 1]], functional.linear(x_RI, up_HI, up_bias_H)
    made_RH = act(up_RH) if gate_HI is None else act(functional.linear(x_RI, gate_HI)) * up_RH
    out_RO = functional.linear(made_RH, down_OH, down_bias_O)
    return out_RO if residual_RO is None else residual_RO + out_RO


def int8_linear(
    x_RI: Tensor, weight_OI: Tensor, scale_O: Tensor, bias_O: Tensor | None = None
) -> Tensor:
    """Whole numbers times the float32 scale of their output; in the precision of what goes in."""
    y_RO = functional.linear(x_RI, weight_OI.to(x_RI.dtype)) * scale_O
    return (y_RO if bias_O is None else y_RO + bias_O).to(x_RI.dtype)


def int4_linear(
    x_RI: Tensor,
    packed_OP: Tensor,
    scale_OG: Tensor,
    zero_OG: Tensor,
    bias_O: Tensor | None = None,
) -> Tensor:
    """Weights as `unpacked` reads them, in the precision of what goes in."""
    return functional.linear(x_RI, unpacked(packed_OP, scale_OG, zero_OG, x_RI.dtype), bias_O)


def unpacked(packed_OP: Tensor, scale_OG: Tensor, zero_OG: Tensor, dtype: torch.dtype) -> Tensor:
    """The weights [O, I] of a matrix in 4 bits: scale * (number - zero), each group its own.

    A byte holds the number, 0 to 15, of input 2p in its low half and that of input 2p + 1 in its
    high half; the G groups of a row are of one length.
    """
    # Both halves of a byte become the bytes of a 16-bit number: stacking them takes twice as long.
    pair_OP = packed_OP.to(torch.int16)
    high_OP = (pair_OP << 4).bitwise_and_(15 << 8)
    number_OI = pair_OP.bitwise_and_(15).bitwise_or_(high_OP).view(torch.int8)
    number_OGL = number_OI.unflatten(1, (scale_OG.shape[1], -1)).sub_(
        zero_OG[..., None].to(torch.int8)
    )
    number_OGL = number_OGL.to(dtype).mul_(scale_OG[..., None].to(dtype))
    return number_OGL.flatten(1)


def _shaped(x: Tensor, weight: Tensor, *rest: Tensor | int | None) -> Tensor:
    """What a layer yields, as far as its shape goes."""
    return x.new_empty(*x.shape[:-1], weight.shape[0])


def _shaped_by_two(
    x: Tensor,
    gate: Tensor | None,
    up: Tensor,
    up_bias: Tensor | None,
    down: Tensor,
    *rest: Tensor | int | None,
) -> Tensor:
    return _shaped(x, down)


# Not `torch.library.custom_op`: its operators go through Python at every call, also where a kernel
# in C++ is loaded, and import the whole of torch's compiler at the first.
_LIBRARY = torch.library.Library("triptych", "FRAGMENT")
for _name, _weights, _plain in (
    ("linear", "Tensor weight, Tensor? bias", functional.linear),
    ("residual_linear", "Tensor weight, Tensor? bias, Tensor residual", residual_linear),
    (
        "feed_forward",
        "Tensor? gate, Tensor up, Tensor? up_bias, Tensor down, Tensor? down_bias, "
        "int activation, Tensor? residual",
        feed_forward,
    ),
    ("linear_int8", "Tensor weight, Tensor scale, Tensor? bias", int8_linear),
    ("linear_int4", "Tensor weight, Tensor scale, Tensor zero, Tensor? bias", int4_linear),
):
    _LIBRARY.define(
        f"{_name}(Tensor x, {_weights}) -> Tensor",
        tags=(torch.Tag.pt2_compliant_tag,),
    )
    _LIBRARY.impl(_name, _plain, "CompositeExplicitAutograd")
    _fake = _shaped_by_two if _name == "feed_forward" else _shaped
    torch.library.register_fake(f"triptych::{_name}", _fake, lib=_LIBRARY)

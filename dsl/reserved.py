"""Names that a part of the model cannot have, for every module of torch has them."""

from .diagnostics import Diagnostic, Fix, Label
from .source import Span

_RESERVED = """
    T_destination add_module apply bfloat16 buffers call_super_init children compile cpu cuda double
    dump_patches eval extra_repr float forward get_buffer get_extra_state get_parameter
    get_submodule half ipu load_state_dict modules mtia named_buffers named_children named_modules
    named_parameters parameters register_backward_hook register_buffer register_forward_hook
    register_forward_pre_hook register_full_backward_hook register_full_backward_pre_hook
    register_load_state_dict_post_hook register_load_state_dict_pre_hook register_module
    register_parameter register_state_dict_post_hook register_state_dict_pre_hook requires_grad_
    set_extra_state set_submodule share_memory state_dict to to_empty train training type xpu
    zero_grad
    graph outputs place signature values
"""
RESERVED = frozenset(_RESERVED.split())
"""What every module that a recipe is lowered to has, besides names that begin with `_`."""


def reserved(kind: str, name: str, span: Span) -> Diagnostic | None:
    """The complaint about the name of a block; None where it may have that name."""
    if kind not in ("encoder", "adapter"):
        return None
    if name not in RESERVED and not name.startswith("_"):
        return None
    return Diagnostic(
        "N216",
        f"a part cannot have the name `{name}`",
        (Label(span, "the modules of the program keep such names"),),
        fix=Fix(f"write `{name.strip('_')}_{kind}`, say"),
    )

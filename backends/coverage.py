"""Which operators of a program TensorRT has converters for, read from torch-tensorrt's source.

This is the first of three levels of evidence (`evidence`), and the only one that needs no library
to be loaded: an operator is *listed* when a converter is registered for it. A converter may still
refuse some of its calls (`conditional` counts those that can), and a listed program may still fail
to build.

The table that triptych keeps, for where torch-tensorrt is not installed, is made from a wheel:

    python -m triptych.backends.coverage torch_tensorrt-2.14.0-*.whl > backends/converters.json
"""

from __future__ import annotations

import ast
import json
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from importlib import util
from pathlib import Path

import torch
from torch._decomp import get_decompositions
from torch.export import ExportedProgram, default_decompositions
from torch.fx import Node

from .exporting import part_of
from .offline import torch_tensorrt_release

KEPT = Path(__file__).with_name("converters.json")
"""What the wheel of a release registers, as `python -m triptych.backends.coverage` wrote it."""
_FOLDER = "torch_tensorrt/dynamo/conversion"
_DECORATOR = "dynamo_tensorrt_converter"
# What torch-tensorrt's own passes take out of a program, and what triptych converts itself.
_HANDLED = {"aten._assert_tensor_metadata.default", "triptych.kv_updated.default"}
# What torch-tensorrt takes apart before it looks for converters, beyond what torch does itself.
_TAKEN_APART = get_decompositions([torch.ops.aten.linalg_vector_norm])


@dataclass(frozen=True, slots=True)
class Converter:
    """What is registered for one operator."""

    conditional: bool
    """A validator looks at each call, and may refuse it."""
    dynamic: bool
    """Sizes may be free."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The operators of one part: how many calls, how many of them listed, what is not."""

    calls: int
    listed: int
    conditional: int
    unlisted: Mapping[str, int]
    """Operator -> how many calls of it."""


def known_here(source: Path | None = None) -> tuple[str, dict[str, Converter]]:
    """The converters of a wheel, of what is installed, or of the table that triptych keeps; and
    which of these it is."""
    if source:
        return f"the wheel {source.name}", converters(source)
    if place := installed():
        return f"torch-tensorrt {torch_tensorrt_release()}, installed here", converters(place)
    table = json.loads(KEPT.read_text(encoding="utf-8"))
    known = {name: Converter(**rule) for name, rule in table["converters"].items()}
    return f"the table that triptych keeps, made from {table['wheel']}", known


def installed() -> Path | None:
    """The folder that torch-tensorrt is installed in; None when it is not."""
    spec = util.find_spec("torch_tensorrt")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]).parent if places else None


def converters(source: Path) -> dict[str, Converter]:
    """Every registered operator, as `aten.add.Tensor`: from a site-packages folder, or a wheel.

    Of several converters for one operator, each takes the calls that its validator lets through.
    """
    found: dict[str, Converter] = {}
    for text in _sources(source):
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == _DECORATOR:
                options = {option.arg: option.value for option in call.keywords}
                name = ast.unparse(call.args[0]).removeprefix("torch.ops.")
                conditional = "capability_validator" in options
                dynamic = ast.unparse(options.get("supports_dynamic_shapes", ast.Constant(False)))
                other = found.get(name, Converter(conditional=True, dynamic=False))
                found[name] = Converter(
                    conditional=conditional and other.conditional,
                    dynamic=dynamic == "True" or other.dynamic,
                )
    return found


def covered(program: ExportedProgram, known: Mapping[str, Converter]) -> dict[str, Coverage]:
    """What is listed of each part; operators that are listed are not taken apart."""
    # A packet such as `aten.batch_norm` stands for all of its overloads.
    table = {
        operator: rule
        for operator, rule in {**default_decompositions(), **_TAKEN_APART}.items()
        if str(operator) not in known
    }
    parts: dict[str, list[Node]] = {}
    for node in program.run_decompositions(table).graph.nodes:
        if _is_call(node):
            parts.setdefault(part_of(node), []).append(node)
    return {part: _counted(nodes, known) for part, nodes in parts.items()}


def _counted(nodes: list[Node], known: Mapping[str, Converter]) -> Coverage:
    rules = [_converter(node, known) for node in nodes]
    unlisted = Counter(
        str(node.target)
        for node, rule in zip(nodes, rules, strict=True)
        if not rule and str(node.target) not in _HANDLED
    )
    conditional = sum(rule is not None and rule.conditional for rule in rules)
    return Coverage(len(nodes), len(nodes) - unlisted.total(), conditional, dict(unlisted))


def _converter(node: Node, known: Mapping[str, Converter]) -> Converter | None:
    """What is registered for a call; nothing, where its sizes are free and must not be."""
    name = str(node.target)
    rule = known.get(name) or known.get(name.rpartition(".")[0])
    return rule if rule and (rule.dynamic or not _is_free(node)) else None


def _is_free(node: Node) -> bool:
    """Whether a tensor that goes in has a free size."""
    given = (one.meta.get("val") for one in node.all_input_nodes)
    return any(
        isinstance(size, torch.SymInt)
        for value in given
        if isinstance(value, torch.Tensor)
        for size in value.shape
    )


def _is_call(node: Node) -> bool:
    return node.op == "call_function" and not str(node.target).startswith("<")


def _sources(source: Path) -> Iterator[str]:
    if source.is_dir():
        for file in sorted((source / _FOLDER).glob("*.py")):
            yield file.read_text(encoding="utf-8")
        return
    with zipfile.ZipFile(source) as wheel:
        for name in sorted(wheel.namelist()):
            if name.startswith(_FOLDER) and name.endswith(".py") and name.count("/") == 3:
                yield wheel.read(name).decode()


if __name__ == "__main__":
    WHEEL = Path(sys.argv[1])
    TABLE = {name: asdict(rule) for name, rule in sorted(converters(WHEEL).items())}
    LINES = ",\n".join(f"  {json.dumps(name)}: {json.dumps(TABLE[name])}" for name in TABLE)
    print(f'{{"wheel": {json.dumps(WHEEL.name)}, "converters": {{\n{LINES}\n}}}}')

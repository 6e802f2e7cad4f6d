"""Which operators of a program TensorRT has converters for, read from torch-tensorrt's source.

This is the first of three levels of evidence, and the only one that needs no library to be loaded:
an operator is *listed* when a converter is registered for it. A converter may still refuse some of
its calls (`conditions` counts those that can), and a listed program may still fail to build.
"""

from __future__ import annotations

import ast
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import util
from pathlib import Path

from torch.export import ExportedProgram, default_decompositions
from torch.fx import Node

_FOLDER = "torch_tensorrt/dynamo/conversion"
_DECORATOR = "dynamo_tensorrt_converter"
# What torch-tensorrt's own passes take out of a program, and what triptych converts itself.
_HANDLED = {"aten._assert_tensor_metadata.default", "triptych.kv_updated.default"}


@dataclass(frozen=True, slots=True)
class Converter:
    """What is registered for one operator."""

    conditional: bool
    """A validator looks at each call, and may refuse it."""
    dynamic: bool
    """Sizes may be free."""


@dataclass(frozen=True, slots=True)
class Coverage:
    """The operators of one program: how many calls, how many of them listed, what is not."""

    calls: int
    listed: int
    conditional: int
    unlisted: Mapping[str, tuple[str, ...]]
    """Operator -> the modules that call it."""


def installed() -> Path | None:
    """The folder that torch-tensorrt is installed in; None when it is not."""
    spec = util.find_spec("torch_tensorrt")
    places = spec.submodule_search_locations if spec else None
    return Path(places[0]).parent if places else None


def converters(source: Path) -> dict[str, Converter]:
    """Every registered operator, as `aten.add.Tensor`: from a site-packages folder, or a wheel."""
    found: dict[str, Converter] = {}
    for text in _sources(source):
        for call in ast.walk(ast.parse(text)):
            if isinstance(call, ast.Call) and ast.unparse(call.func) == _DECORATOR:
                options = {option.arg: option.value for option in call.keywords}
                name = ast.unparse(call.args[0]).removeprefix("torch.ops.")
                found[name] = Converter(
                    conditional="capability_validator" in options,
                    dynamic=ast.unparse(options.get("supports_dynamic_shapes", ast.Constant(False)))
                    == "True",
                )
    return found


def covered(program: ExportedProgram, known: Mapping[str, Converter]) -> Coverage:
    """What is listed of a program; operators that are listed are not taken apart."""
    # A packet such as `aten.batch_norm` stands for all of its overloads.
    table = {
        operator: rule
        for operator, rule in default_decompositions().items()
        if str(operator) not in known
    }
    nodes = [node for node in program.run_decompositions(table).graph.nodes if _is_call(node)]
    names = {node: str(node.target) for node in nodes}
    listed = [node for node in nodes if _converter(names[node], known) or names[node] in _HANDLED]
    unlisted: dict[str, Counter[str]] = {}
    for node in nodes:
        if node not in set(listed):
            unlisted.setdefault(names[node], Counter())[_module(node)] += 1
    conditional = [
        node for node in listed if (rule := _converter(names[node], known)) and rule.conditional
    ]
    return Coverage(
        len(nodes),
        len(listed),
        len(conditional),
        {name: tuple(sorted(places)) for name, places in unlisted.items()},
    )


def _converter(name: str, known: Mapping[str, Converter]) -> Converter | None:
    return known.get(name) or known.get(name.rpartition(".")[0])


def _is_call(node: Node) -> bool:
    return node.op == "call_function" and not str(node.target).startswith("<")


def _module(node: Node) -> str:
    """The part of the recipe that calls an operator: the innermost module with a name."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path]
    return paths[-1] if paths else node.name


def _sources(source: Path) -> Iterator[str]:
    if source.is_dir():
        for file in sorted((source / _FOLDER).glob("*.py")):
            yield file.read_text(encoding="utf-8")
        return
    with zipfile.ZipFile(source) as wheel:
        for name in sorted(wheel.namelist()):
            if name.startswith(_FOLDER) and name.endswith(".py") and name.count("/") == 3:
                yield wheel.read(name).decode()

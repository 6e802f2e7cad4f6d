"""Which operators of a program TensorRT has converters for, read from torch-tensorrt's source.

This is the first of three levels of evidence, and the only one that needs no library to be loaded:
an operator is *listed* when a converter is registered for it. A converter may still refuse some of
its calls (`conditional` counts those that can), and a listed program may still fail to build.

The table that triptych keeps, for where torch-tensorrt is not installed, is made from a wheel:

    python -m triptych.backends.coverage torch_tensorrt-2.14.0-*.whl > backends/converters.json
"""

from __future__ import annotations

import ast
import copy
import json
import sys
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from importlib import metadata, util
from pathlib import Path
from typing import Any

import torch
from torch._decomp import get_decompositions
from torch.export import ExportedProgram, default_decompositions
from torch.fx import Node
from torch.fx.traceback import annotate, preserve_node_meta

from ..compiler.lower import MethodModule
from .base import Limit
from .job import Job
from .tensorrt import program

KEPT = Path(__file__).with_name("converters.json")
"""What the wheel of a release registers, as `python -m triptych.backends.coverage` wrote it."""
SIZES = "(sizes)"
"""Where a method computes with sizes, outside of every part."""
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
        return f"torch-tensorrt {metadata.version('torch-tensorrt')}, installed here", converters(
            place
        )
    table = json.loads(KEPT.read_text(encoding="utf-8"))
    known = {name: Converter(**rule) for name, rule in table["converters"].items()}
    return f"the table that triptych keeps, made from {table['wheel']}", known


def coverage(
    job: Job, known: Mapping[str, Converter], limits: Mapping[str, Limit]
) -> dict[str, dict[str, Coverage]]:
    """Method -> part of the recipe -> what is listed of it. Needs no weights."""
    named = {name: _named(method) for name, method in job.lowered.methods.items()}
    job = replace(job, lowered=replace(job.lowered, methods=named))
    with preserve_node_meta():
        return {name: covered(program(job, name, limits), known) for name in job.methods}


def _named(method: MethodModule) -> MethodModule:
    """The same method; what is traced of it carries the name of the part."""

    def naming(name: str, run: Callable[..., Any]) -> Callable[..., Any]:
        def named(*values: Any) -> Any:
            with annotate({"part": name.partition("@")[0]}):
                return run(*values)

        return named

    made = copy.copy(method)
    made._steps = [replace(step, run=naming(step.name, step.run)) for step in method._steps]
    return made


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


def covered(program: ExportedProgram, known: Mapping[str, Converter]) -> dict[str, Coverage]:
    """What is listed of each part; operators that are listed are not taken apart."""
    # A packet such as `aten.batch_norm` stands for all of its overloads.
    table = {
        operator: rule
        for operator, rule in {**default_decompositions(), **_TAKEN_APART}.items()
        if str(operator) not in known
    }
    parts: dict[str, list[str]] = {}
    for node in program.run_decompositions(table).graph.nodes:
        if _is_call(node):
            part = (node.meta.get("custom") or {}).get("part", SIZES)
            parts.setdefault(part, []).append(str(node.target))
    return {part: _counted(names, known) for part, names in parts.items()}


def _counted(names: list[str], known: Mapping[str, Converter]) -> Coverage:
    rules = {name: _converter(name, known) for name in set(names)}
    unlisted = Counter(name for name in names if not rules[name] and name not in _HANDLED)
    conditional = sum((rule := rules[name]) is not None and rule.conditional for name in names)
    return Coverage(len(names), len(names) - unlisted.total(), conditional, dict(unlisted))


def _converter(name: str, known: Mapping[str, Converter]) -> Converter | None:
    return known.get(name) or known.get(name.rpartition(".")[0])


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
